"""The experiment /lab/fixation: what it shows is what the requests of its two visitors found, on every profile."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from lab import games
from lab.fixation import NAME, PATH, SECRET, WISH
from sessions import Unavailable
from tests.conftest import every_profile
from tests.lab.laboratory import Laboratory, laboratory, stored
from tests.pages.test_browser_access import faults
from tests.pages.test_browser_pages import PHONE
from tests.support.backends import BACKENDS
from tests.support.chromium import NewPage, expect, press
from tests.support.client import JSON

if TYPE_CHECKING:
    from playwright.sync_api import Page

PAGES = f"{PATH}/site"


@pytest.fixture(scope="module", params=BACKENDS)
def here(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laboratory]:
    with laboratory(request.param, tmp_path_factory.mktemp("laboratory")) as here:
        yield here


@pytest.fixture
def in_ram(tmp_path: Path) -> Iterator[Laboratory]:
    with laboratory("ram", tmp_path) as here:
        yield here


def play(here: Laboratory, steps: int, run: str = "") -> str:
    """Play so many steps of a game, and return its id."""
    for step in range(1, steps + 1):
        answer = here.visitor.post(f"{PATH}/next", {"run": run, "step": str(step)})
        run = answer.redirects_to.partition("run=")[2]
    return run


def found(here: Laboratory, run: str, step: int) -> dict[str, Any]:
    """What the page says that a step has found."""
    return dict(here.shown(f"{PATH}?run={run}")["steps"][step - 1]["found"])


def in_the_jar(here: Laboratory, run: str, who: str) -> str:
    return str(here.lab.fixation.games.find(run).jars[who].jar[NAME].value)


def last_answer(here: Laboratory, run: str, step: int) -> dict[str, Any]:
    """The last that came back to the attacker."""
    events = here.shown(f"{PATH}?run={run}")["steps"][step - 1]["events"]
    return dict(json.loads([event for event in events if event["who"] == "attacker"][-1]["body"]))


def test_an_id_that_the_attacker_made_up_is_not_adopted(here: Laboratory) -> None:
    run = play(here, 1)
    assert found(here, run, 1) == {"adopted": False, "read": False}
    _, values = stored(here.store(NAME), in_the_jar(here, run, "victim"))
    assert values == {"visits": 1, "notes": [WISH]}
    _, values = stored(here.store(NAME), in_the_jar(here, run, "attacker"))
    assert values == {"visits": 1}
    assert last_answer(here, run, 1) == {"user": None, "visits": 1, "notes": []}


def test_who_uses_a_planted_id_shares_the_session_where_it_is_stored(here: Laboratory) -> None:
    run = play(here, 2)
    store = here.store(NAME)
    assert found(here, run, 2) == {"led": True, "read": store.capabilities.revokes}
    _, values = stored(store, in_the_jar(here, run, "attacker"))
    assert (WISH in values["notes"]) is store.capabilities.revokes


def test_signing_in_leaves_the_attackers_copy_worthless(here: Laboratory) -> None:
    run = play(here, 3)
    store, seen = here.store(NAME), found(here, run, 3)
    assert (seen["rotated"], seen["user"], seen["read"]) == (True, None, False)
    record, values = stored(store, in_the_jar(here, run, "victim"))
    assert record and (values["user"], SECRET in values["notes"]) == ("vera", True)
    _, values = stored(store, in_the_jar(here, run, "attacker"))
    assert "user" not in values and SECRET not in values.get("notes", [])
    assert bool(values) is seen["known"] is not store.capabilities.revokes


def test_without_rotation_the_attacker_reads_the_victims_page(here: Laboratory) -> None:
    run = play(here, 4)
    store, seen = here.store(NAME), found(here, run, 4)
    assert seen["rotated"] is False
    assert (seen["user"], seen["read"]) == (("vera", True) if store.capabilities.revokes else (None, False))
    _, values = stored(store, in_the_jar(here, run, "attacker"))
    assert last_answer(here, run, 4) == {"user": None, **values}
    if store.capabilities.revokes:
        assert values["user"] == "vera" and SECRET in values["notes"]


def test_an_id_in_an_address_or_a_hidden_field_is_ignored_and_one_that_got_out_that_way_is_not(
    here: Laboratory,
) -> None:
    run = play(here, 5)
    seen = found(here, run, 5)
    assert seen == {"query": False, "field": False, "referer": True, "policy": "same-origin"}
    record, values = stored(here.store(NAME), in_the_jar(here, run, "attacker"))
    assert values == {} or not here.store(NAME).capabilities.revokes, "it was ended, for it stands in the access log"


def test_the_page_shows_references_only_and_each_with_its_letter(here: Laboratory) -> None:
    run = play(here, 5)
    page, told = here.visitor.get(f"{PATH}?run={run}"), here.visitor.get(f"{PATH}?run={run}", **JSON)
    assert page.status == 200 and len(page.body) < 150_000
    for who in ("attacker", "victim"):
        for kept in here.lab.fixation.games.find(run).jars[who].jar.values():
            assert kept.value not in page.text and kept.value not in told.text
            assert kept.reference in page.text
    for step in told.json["steps"]:
        for event in step["events"]:
            for line in event.get("set_cookie", []):
                assert set(line) == {"name", "reference", "rest"} and len(line["reference"]) in (0, 8)


def test_nothing_is_played_by_a_get_or_for_another_site(in_ram: Laboratory) -> None:
    run = play(in_ram, 1)
    before = in_ram.shown(f"{PATH}?run={run}")
    assert in_ram.visitor.get(f"{PATH}/next?run={run}&step=2").status == 405
    for headers in ({"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        for path in (f"{PATH}/next", f"{PAGES}/note", f"{PAGES}/sign_in", f"{PAGES}/sign_in_without_rotation"):
            assert in_ram.visitor.post(path, {"run": run, "step": "2"}, **headers).status == 403
    assert in_ram.shown(f"{PATH}?run={run}") == before and len(before["steps"]) == 1
    assert in_ram.visitor.cookies == {}, "and the visitor's own session was not touched"


def test_two_clicks_on_one_button_are_one_step_and_no_step_is_left_out(in_ram: Laboratory) -> None:
    run = play(in_ram, 2)
    assert in_ram.visitor.post(f"{PATH}/next", {"run": run, "step": "2"}).status == 303
    assert len(in_ram.shown(f"{PATH}?run={run}")["steps"]) == 2
    for step in ("4", "6", "0", "x"):
        assert in_ram.visitor.post(f"{PATH}/next", {"run": run, "step": step}).status == 400
    assert in_ram.visitor.get(f"{PATH}?run=nothing").status == 404


def test_a_bounded_number_of_games_is_kept(in_ram: Laboratory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(games, "MOST", 2)
    first, *others = [play(in_ram, 1) for _ in range(3)]
    assert len(in_ram.lab.fixation.games) == 2
    assert in_ram.visitor.get(f"{PATH}?run={first}").status == 404
    assert all(in_ram.visitor.get(f"{PATH}?run={run}").status == 200 for run in others)


def test_a_step_that_the_store_cannot_play_is_503_and_can_be_played_again(
    in_ram: Laboratory, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = play(in_ram, 1)

    def down(*args: object) -> None:
        raise Unavailable("nobody answers")

    with monkeypatch.context() as patch:
        patch.setattr(in_ram.store(NAME), "create", down)
        answer = in_ram.visitor.post(f"{PATH}/next", {"run": run, "step": "2"}, **JSON)
        assert (answer.status, "Does the store of the sessions run?" in answer.json["error"]) == (503, True)
    assert len(in_ram.shown(f"{PATH}?run={run}")["steps"]) == 1
    assert in_ram.visitor.post(f"{PATH}/next", {"run": run, "step": "2"}).status == 303
    assert found(in_ram, run, 2) == {"led": True, "read": True}


def test_one_game_plays_at_a_time_so_that_the_threads_last_for_its_own_requests(
    in_ram: Laboratory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(games, "PATIENCE", 0.01)
    with in_ram.lab.fixation.games.turn():
        answer = in_ram.visitor.post(f"{PATH}/next", **JSON)
        assert (answer.status, "Another step" in answer.json["error"]) == (503, True)
    assert play(in_ram, 1)


def test_what_a_visitor_may_write_down_is_bounded(in_ram: Laboratory) -> None:
    assert in_ram.visitor.post(f"{PAGES}/note", {"text": "x" * 201}).status == 400
    for number in range(21):
        notes = in_ram.visitor.post(f"{PAGES}/note", {"text": str(number)}).json["notes"]
    assert notes == [str(number) for number in range(1, 21)]


@every_profile
def test_all_steps_in_a_browser(page: Page) -> None:
    page.goto(PATH)
    press(page, "Play step 1")
    for _ in range(4):
        press(page, "Next step")
    expect(page.get_by_text("Step 5 of 5")).to_be_visible()
    for text in ("The site did not take it.", "Signing in has given her a new session id.",
                 "Signing in has left her the old session id.", "In the address and in the hidden field"):  # fmt: skip
        expect(page.get_by_text(text)).to_be_visible()
    expect(page.get_by_role("main")).not_to_contain_text("number")
    jars = page.locator("#step-2 .jar .key")
    expect(jars).to_have_count(2)
    assert len(set(jars.all_inner_texts())) == 1, "the planted session has one letter in both jars"
    jars = page.locator("#step-3 .jar .key")
    assert len(set(jars.all_inner_texts())) == 2


def test_no_step_breaks_a_rule_of_wcag_2_2_aa(new_page: NewPage) -> None:
    page = new_page(viewport=PHONE)
    page.goto(PATH)
    press(page, "Play step 1")
    for _ in range(4):
        press(page, "Next step")
    assert faults(page) == []
