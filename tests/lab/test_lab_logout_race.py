"""Signing out while a slow page is at work: what the experiment shows is what happened, on every backend."""

from __future__ import annotations

import html
from collections.abc import Iterator
from typing import Any

import pytest
from cherrypy.lib.sessions import RamSession

import sessions
from lab.logout_race import WHO
from sessions.events import unsubscribe
from tests.lab.laboratory import Laboratory, laboratory
from tests.support.backends import BACKENDS
from tests.support.client import JSON, CheckedClient

SAID = {"ours": "dead", "theirs": "alive"}
ORDER = ["enter", "load", "leave", "between", "save", "browser", "copy"]
one_lab = pytest.mark.parametrize("lab", ["ram"], indirect=True)


@pytest.fixture(scope="module", params=BACKENDS)
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laboratory]:
    with laboratory(request.param, tmp_path_factory.mktemp("logout")) as lab:
        yield lab


@pytest.fixture
def visitor(lab: Laboratory) -> CheckedClient:
    return CheckedClient(lab.visitor.url)


def play(visitor: CheckedClient, **said: str) -> Any:
    sent_to = visitor.post("/lab/logout-race/play", {**SAID, **said}).redirects_to
    return visitor.get(sent_to.removesuffix("#outcome"), **JSON).json


def steps_of(result: Any, room: str) -> dict[str, Any]:
    steps = result[room]["steps"]
    assert [step["name"] for step in steps] == ORDER
    assert [step["at"] for step in steps] == sorted(step["at"] for step in steps)
    assert all(step["status"] == 200 for step in steps if step["name"] != "load")
    return {step["name"]: step for step in steps}


def test_a_session_that_was_ended_stays_dead_where_the_backend_can_revoke(
    lab: Laboratory, visitor: CheckedClient
) -> None:
    seen: list[sessions.Event] = []
    sessions.subscribe(seen.append)
    try:
        result = play(visitor)
    finally:
        unsubscribe(seen.append)
    steps = steps_of(result, "ours")
    assert steps["enter"]["who"] == WHO and steps["load"]["events"] == ["loaded"]
    assert steps["leave"]["events"] == ["deleted"] and steps["leave"]["cookie"] == "expired"
    store = lab.store("session_id")
    if store.capabilities.revokes:
        assert steps["save"]["events"] == ["lost"] and steps["save"]["cookie"] == ""
        assert [steps[name]["who"] for name in ("between", "browser", "copy")] == [None] * 3
        assert result["ours"]["outcome"] == "dead"
        [key] = {event.key for event in seen if event.name == "loaded" and not event.details["locked"]}
        assert store.load(key) is None, "and the store has nothing, after all"
    else:
        assert steps["save"]["events"] == ["saved: changed"] and steps["save"]["cookie"] == "set"
        assert [steps[name]["who"] for name in ("between", "browser", "copy")] == [WHO] * 3
        assert result["ours"]["outcome"] == "alive"


def test_with_the_class_of_cherrypy_it_comes_back_with_its_cookie(lab: Laboratory, visitor: CheckedClient) -> None:
    before = set(RamSession.cache)
    result = play(visitor)
    steps = steps_of(result, "theirs")
    assert steps["enter"]["who"] == WHO and steps["leave"]["cookie"] == "expired"
    assert steps["between"]["who"] is None, "it was destroyed"
    assert steps["save"]["cookie"] == "set"
    assert steps["browser"]["who"] == steps["copy"]["who"] == WHO and result["theirs"]["outcome"] == "alive"
    assert set(RamSession.cache) == before, "the experiment leaves nothing behind"


def test_what_was_expected_stands_beside_what_was_found(lab: Laboratory, visitor: CheckedClient) -> None:
    result = play(visitor, theirs="dead")
    assert result["predicted"] == {"ours": "dead", "theirs": "dead"}
    page = html.unescape(visitor.get(f"/lab/logout-race?run={result['run']}").text)
    text = " ".join(page.split())
    assert text.count("You said: dead.") == 2
    revokes = lab.store("session_id").capabilities.revokes
    assert ("<strong>Refused.</strong> <code>lost</code>" in text) == revokes
    assert ('<p class="large">Dead</p>' in text) == revokes and '<p class="large">Alive again</p>' in text
    assert ("keeps nothing on the server" in text) == (not revokes)
    for step in result["ours"]["steps"] + result["theirs"]["steps"]:
        assert f"{step['at']:.1f} ms" in text


@one_lab
def test_the_visitors_own_session_is_not_in_the_play(visitor: CheckedClient) -> None:
    assert visitor.count() == 1
    cookies = dict(visitor.cookies)
    play(visitor)
    assert visitor.cookies == cookies and visitor.count() == 2
    for room in ("ours", "theirs"):
        for page in ("enter", "slow", "leave"):
            assert visitor.post(f"/lab/logout-race/{room}/{page}").status == 404, "the rooms are closed"
        assert visitor.get(f"/lab/logout-race/{room}/who?play=x").status == 404
    assert visitor.count() == 3


@one_lab
def test_one_play_at_a_time(lab: Laboratory, visitor: CheckedClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lab.games.PATIENCE", 0)
    with lab.lab.logout_race._results.turn():
        answer = visitor.post("/lab/logout-race/play", SAID)
        assert answer.status == 503 and answer.headers["retry-after"]
    assert play(visitor)["ours"]["outcome"] == "dead"


@one_lab
def test_a_play_needs_a_post_from_this_machine_and_both_expectations(visitor: CheckedClient) -> None:
    assert visitor.get("/lab/logout-race/play").status == 405
    assert visitor.post("/lab/logout-race/play", SAID, Origin="http://other.example").status == 403
    assert visitor.post("/lab/logout-race/play", SAID, Host="rebound.example").status == 403
    for name in SAID:
        for value in ("", "maybe"):
            answer = visitor.post("/lab/logout-race/play", {**SAID, name: value}, **JSON)
            assert answer.status == 400 and f"'{name}' must be one of: dead, alive" in answer.json["error"]
    assert visitor.get("/lab/logout-race?run=x").status == 404


@one_lab
def test_the_id_of_cherrypys_own_class_is_shown_as_little_as_ours(visitor: CheckedClient) -> None:
    visitor.get("/lab/logout-race/theirs/who")  # a stranger at this door gets one at once
    id = visitor.cookies["lab_logout"]
    shown = [visitor.get("/cookie/read", **JSON).text, visitor.get("/cookie/read").text, visitor.get("/counter").text]
    assert all("lab_logout" in text and id not in text for text in shown)
