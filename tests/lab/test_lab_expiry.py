"""The experiment /lab/expiry: two clocks that move, what the page shows compared with the store's own record."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from lab import games
from lab.expiry import STEPS
from lab.expiry_game import NAME, PATH, away
from sessions import Record, Unavailable
from sessions.registry import registry
from tests.conftest import every_profile
from tests.lab.laboratory import Laboratory, laboratory, stored
from tests.pages.test_browser_access import faults
from tests.pages.test_browser_pages import PHONE
from tests.support.backends import BACKENDS
from tests.support.chromium import NewPage, expect, press
from tests.support.client import JSON, CheckedClient

if TYPE_CHECKING:
    from playwright.sync_api import Page

MINUTE = 60.0


class Played:
    """A game, and what is behind it."""

    def __init__(self, here: Laboratory) -> None:
        self.here, self.visitor = here, here.visitor
        self.run = ""
        self.act("begin")

    def act(self, what: str) -> None:
        answer = self.visitor.post(f"{PATH}/act", {"run": self.run, "what": what})
        self.run = answer.redirects_to.partition("run=")[2]

    def move(self, clock: str, *steps: str) -> None:
        for by in steps:
            answer = self.visitor.post(f"{PATH}/move", {"run": self.run, "clock": clock, "by": by})
            assert answer.redirects_to == f"{PATH}?run={self.run}"

    def shown(self, browser: str) -> dict[str, Any]:
        return dict(self.here.shown(f"{PATH}?run={self.run}")["browsers"][browser])

    def log(self) -> dict[str, dict[str, Any]]:
        """The last request of each browser, with what came back."""
        log = self.here.shown(f"{PATH}?run={self.run}")["log"]
        return {event["who"]: {**event, **json.loads(event["body"])} for event in log}

    def record(self, browser: str) -> Record | None:
        """What the store has under the newest cookie of a browser."""
        kept = self.here.lab.expiry.games.find(self.run).browsers[browser].last
        return stored(self.here.store(NAME), kept.value)[0]


@pytest.fixture(scope="module", params=BACKENDS)
def here(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laboratory]:
    with laboratory(request.param, tmp_path_factory.mktemp("laboratory")) as here:
        yield here


@pytest.fixture
def played(here: Laboratory) -> Played:
    return Played(here)


@pytest.fixture(scope="module")
def in_ram(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laboratory]:
    with laboratory("ram", tmp_path_factory.mktemp("laboratory")) as here:
        yield here


def test_the_limits_on_the_page_are_those_of_the_stores_record(played: Played) -> None:
    for browser in ("stays", "ends"):
        record, shown = played.record(browser), played.shown(browser)["record"]
        assert record and shown["alive"]
        assert (shown["created"], shown["deadline"]) == (record.created, record.deadline)
        assert record.deadline == record.created + 30 * MINUTE
        assert shown["end"] == record.created + 120 * MINUTE
        assert record.created == pytest.approx(time.time(), abs=30)


def test_it_is_renewed_each_tenth_of_the_timeout_cookie_and_record_together(played: Played) -> None:
    before = played.record("stays")
    played.move("both", "minute")
    played.act("use")
    assert played.record("stays") == before
    assert all((event["set_cookie"], event["renewed"]) == ([], 0.0) for event in played.log().values())
    played.move("both", "tenth")
    played.act("use")
    after, log = played.record("stays"), played.log()
    assert before and after
    assert after.deadline == pytest.approx(before.deadline + 4 * MINUTE, abs=5)
    assert log["stays"]["renewed"] == after.deadline - before.deadline
    assert log["ends"]["renewed"] == pytest.approx(4 * MINUTE, abs=5)
    assert "Max-Age=1800" in log["stays"]["set_cookie"][0]["rest"]
    assert played.shown("stays")["said"]["expires_at"] == pytest.approx(after.deadline, abs=2), "a date of the server's"


def test_an_idle_session_ends_at_the_server_whatever_the_browser_sends(played: Played) -> None:
    played.move("server", "timeout")
    shown = played.shown("stays")
    assert shown["cookie"] and shown["record"]["alive"] is False
    played.act("use")
    assert [event["begun"] for event in played.log().values()] == [None, None]
    played.act("replay")
    assert [event["begun"] for event in played.log().values()] == [None, None]
    assert played.shown("stays")["record"] is None or not played.here.store(NAME).capabilities.revokes


def test_it_ends_after_its_lifetime_however_busy(played: Played) -> None:
    created = played.record("stays").created  # type: ignore[union-attr]
    played.act("busy")
    record = played.record("stays")
    assert record and record.deadline > created + 85 * MINUTE, "used every ten minutes, it is renewed"
    assert played.log()["stays"]["begun"]
    for _ in range(2):
        played.move("both", *["tenth"] * 9)
        played.act("use")
    record = played.record("stays")
    assert record and record.deadline == created + 120 * MINUTE, "but never past the lifetime"
    played.move("both", *["tenth"] * 3)
    played.act("use")
    assert played.log()["stays"]["begun"] is played.log()["ends"]["begun"] is None


def test_a_cookie_that_ends_with_the_browser_leaves_its_record_where_there_is_one(played: Played) -> None:
    assert played.shown("ends")["cookie"] == played.shown("stays")["cookie"] | {
        "until": None, "reference": played.shown("ends")["cookie"]["reference"]
    }  # fmt: skip
    played.act("close")
    stored_here = played.here.store(NAME).capabilities.revokes
    assert played.shown("stays")["cookie"] and played.shown("ends")["cookie"] is None
    assert bool(played.shown("ends")["record"]) is stored_here, "where the cookie is the store, nothing is left"
    played.act("use")
    assert played.log()["stays"]["begun"] and played.log()["ends"]["begun"] is None
    played.act("replay")
    assert played.log()["ends"]["begun"], "whoever kept a copy is let in"


def test_the_browser_goes_by_its_own_clock(played: Played) -> None:
    played.move("browser", "timeout")
    shown = played.shown("stays")
    assert shown["cookie"] is None and played.shown("ends")["cookie"], "a cookie without a date has no end"
    assert played.record("stays") and played.record("ends")
    played.act("use")
    assert played.log()["stays"]["sent"] == [] and played.log()["stays"]["begun"] is None
    assert played.log()["ends"]["begun"]


@pytest.mark.parametrize(("clock", "apart"), [("server", -40 * MINUTE), ("browser", 40 * MINUTE)])
def test_with_clocks_apart_expires_alone_would_end_too_early_or_too_late(
    played: Played, clock: str, apart: float
) -> None:
    played.move(clock, "timeout", *["tenth"] * 3, "minute")
    played.act("begin")
    found = played.here.shown(f"{PATH}?run={played.run}")
    now, stays = found["now"], found["browsers"]["stays"]
    assert now["browser"] - now["server"] == pytest.approx(apart, abs=5)
    assert stays["said"]["max_age"] == 1800
    assert stays["cookie"]["until"] - now["browser"] == pytest.approx(1800, abs=5), "Max-Age is right all the same"
    assert stays["said"]["expires_at"] - now["browser"] == pytest.approx(1800 - apart, abs=5)
    assert played.log()["stays"]["begun"]


def test_moving_the_clock_ends_nobody_elses_session(played: Played) -> None:
    neighbour = CheckedClient(played.visitor.url)
    assert neighbour.count() == 1
    played.move("server", *["lifetime"] * 11)
    played.act("use")
    lab = played.here.store(NAME)
    assert lab not in registry._opened(played.here.application).cleaners, "nobody cleans the laboratory's store"
    lab.purge(10_000)  # and if somebody did
    assert neighbour.count() == 2


@pytest.mark.parametrize("profile", ["file", "postgresql"])
def test_a_clock_ahead_for_all_would_end_them(profile: str, tmp_path: Path) -> None:
    """What the test above guards against: without it, it would prove nothing."""
    with laboratory(profile, tmp_path) as here:
        assert here.visitor.count() == 1
        here.store(NAME).clock = lambda: time.time() + 86400
        here.store(NAME).purge(10_000)
        assert here.visitor.count() == 1


def test_new_sessions_leave_nothing_of_the_old_ones(played: Played) -> None:
    revokes = played.here.store(NAME).capabilities.revokes
    game = played.here.lab.expiry.games.find(played.run)
    keys = [browser.key for browser in game.browsers.values()]
    load = played.here.store(NAME).load
    assert all(load(key) for key in keys)
    played.act("begin")
    assert [load(key) is None for key in keys] == [revokes] * 2


def test_a_bounded_number_of_games_is_kept_and_their_sessions(
    in_ram: Laboratory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(games, "MOST", 2)
    first, *others = [Played(in_ram) for _ in range(4)]
    assert len(in_ram.lab.expiry.games) == 2 and in_ram.store(NAME).count() == 4
    assert in_ram.visitor.get(f"{PATH}?run={first.run}").status == 404
    assert in_ram.visitor.get(f"{PATH}?run={others[-1].run}").status == 200
    for _ in range(3):
        others[-1].act("busy")
    assert len(in_ram.shown(f"{PATH}?run={others[-1].run}")["log"]) == 12


def test_a_look_changes_nothing_and_nor_does_another_site(in_ram: Laboratory) -> None:
    played = Played(in_ram)
    before = played.record("stays")
    for path in ("act", "move"):
        assert in_ram.visitor.get(f"{PATH}/{path}?run={played.run}&what=use").status == 405
        form = {"run": played.run, "what": "begin", "clock": "server", "by": "lifetime"}
        assert in_ram.visitor.post(f"{PATH}/{path}", form, Origin="http://evil.example").status == 403
    assert in_ram.visitor.post(f"{PATH}/site/stays", sec_fetch_site="cross-site").status == 403
    first, second = (in_ram.shown(f"{PATH}?run={played.run}") for _ in range(2))
    assert first["log"] == second["log"] and played.record("stays") == before
    assert in_ram.visitor.cookies == {}, "and the visitor's own session was not touched"


def test_only_what_there_is_can_be_moved_and_a_day_at_most(in_ram: Laboratory) -> None:
    played = Played(in_ram)
    for form in ({"clock": "sun", "by": "minute"}, {"clock": "server", "by": "year"}, {}):
        assert in_ram.visitor.post(f"{PATH}/move", {"run": played.run, **form}).status == 400
    assert in_ram.visitor.post(f"{PATH}/act", {"run": played.run, "what": "forget"}).status == 400
    assert in_ram.visitor.post(f"{PATH}/act", {"run": "nothing", "what": "use"}, **JSON).status == 404
    assert in_ram.visitor.post(f"{PATH}/act", {"what": "use"}, **JSON).status == 404
    played.move("server", *["lifetime"] * 12)
    answer = in_ram.visitor.post(f"{PATH}/move", {"run": played.run, "clock": "both", "by": "minute"}, **JSON)
    assert (answer.status, "a day ahead at most" in answer.json["error"]) == (400, True)
    now = in_ram.shown(f"{PATH}?run={played.run}")["now"]
    assert now["server"] - now["browser"] == pytest.approx(86400, abs=1), "then neither clock has moved"


def test_while_the_store_does_not_answer_the_page_is_503(in_ram: Laboratory, monkeypatch: pytest.MonkeyPatch) -> None:
    played = Played(in_ram)

    def down(*args: object) -> None:
        raise Unavailable("nobody answers")

    with monkeypatch.context() as patch:
        patch.setattr(in_ram.store(NAME), "load", down)
        assert in_ram.visitor.get(f"{PATH}?run={played.run}").status == 503
        assert in_ram.visitor.post(f"{PATH}/act", {"run": played.run, "what": "use"}).status == 503
    played.act("use")
    assert played.log()["stays"]["begun"]


def test_the_page_shows_references_only(in_ram: Laboratory) -> None:
    played = Played(in_ram)
    page = in_ram.visitor.get(f"{PATH}?run={played.run}")
    assert page.status == 200 and len(page.body) < 150_000
    for browser in in_ram.lab.expiry.games.find(played.run).browsers.values():
        assert browser.last.value not in page.text and browser.last.reference in page.text


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "now"), (-40, "40 seconds ago"), (120 * 60, "in 120 minutes"), (-90, "2 minutes ago"),
     (12 * 3600 + 300, "in 12 h 5 min")],
)  # fmt: skip
def test_distances_are_told_in_words(seconds: float, words: str) -> None:
    assert away(seconds) == words


def test_the_steps_are_those_of_the_limits() -> None:
    assert STEPS == {"minute": 60, "tenth": 180, "timeout": 1800, "lifetime": 7200}


@every_profile
def test_both_clocks_in_a_browser(page: Page) -> None:
    page.goto(PATH)
    press(page, "Begin")
    stays, ends = (page.get_by_role("region", name=name, exact=True) for name in
                   ("The cookie stays", "The cookie ends with the browser"))  # fmt: skip
    for browser in (stays, ends):
        expect(browser.get_by_text("It lives.")).to_be_visible()
    press(page, "Close both browsers")
    expect(stays.get_by_text("It lives.")).to_be_visible()
    expect(ends.get_by_text("It lives.")).to_have_count(0)
    expect(ends.get_by_text("Empty.")).to_be_visible()
    server = page.get_by_role("form", name="The server’s clock")
    server.get_by_role("button", name="+ 30 minutes").click()
    expect(stays.get_by_text("The server’s time is over, the browser’s is not.")).to_be_visible()
    press(page, "Use both sessions")
    expect(page.locator(".events li").nth(1)).to_contain_text('{"begun": null}')


def test_nothing_that_is_found_breaks_a_rule_of_wcag_2_2_aa(new_page: NewPage) -> None:
    page = new_page(viewport=PHONE)
    page.goto(PATH)
    for button in ("Begin", "A busy hour", "Close both browsers", "Send the cookies once more"):
        press(page, button)
    assert faults(page) == []
