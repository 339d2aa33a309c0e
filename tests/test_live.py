"""The live sessions of a user, and ending them: on every backend that can, and that the others say they cannot."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest

import sessions
from sessions import CannotList, Directory, Record, Session
from sessions.backends.ram import RamStore
from sessions.settings import STORAGE_TYPES, Settings
from tests.backends import BACKENDS
from tests.members import MODES, Browser, Club, club

MINUTE = 60
LISTING = [name for name in BACKENDS if STORAGE_TYPES[name].store_class.facts.lists]
_numbers = itertools.count()


@pytest.fixture(scope="module", params=BACKENDS)
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Club]:
    with club(request.param, tmp_path_factory.mktemp(f"live_{request.param}")) as site:
        yield site


@pytest.fixture
def site(opened: Club) -> Club:
    """The site, on each backend."""
    opened.reset()
    return opened


where_listed = pytest.mark.parametrize("opened", LISTING, indirect=True)


@pytest.fixture
def user() -> str:
    """A user of this test's own: the tests share the store."""
    return f"ada {next(_numbers)}"


def living(browser: Browser) -> list[dict[str, Any]]:
    """What a page is told that asks for the sessions of its user before it does anything else."""

    def work(session: Session) -> str:
        return json.dumps([{name: getattr(one, name) for name in one.__slots__} for one in sessions.live_sessions()])

    found: list[dict[str, Any]] = json.loads(browser.ask(work))
    return found


def reference(browser: Browser) -> str:
    return browser.ask(lambda session: (session.user, sessions.reference(session.id))[1])


# -------------------------------------------------------------------- listing


@where_listed
def test_a_user_sees_their_own_sessions_and_nobody_elses(site: Club, user: str) -> None:
    one, two, other = site.member(user), site.member(user), site.member(f"{user}x")
    site.browser().ask(lambda session: session.update(n=1))
    assert {one_of["reference"] for one_of in living(one)} == {reference(one), reference(two)}
    assert [(one_of["reference"], one_of["user"]) for one_of in living(other)] == [(reference(other), f"{user}x")]


@where_listed
def test_the_session_that_asks_is_marked_and_first_and_the_rest_by_last_use(site: Club, user: str) -> None:
    browsers = [site.member(user) for _ in range(3)]
    for minutes, browser in ((10, browsers[2]), (20, browsers[1])):
        site.ahead = minutes * MINUTE
        browser.user()
    found = living(browsers[0])
    assert [one["reference"] for one in found] == [reference(browsers[n]) for n in (0, 1, 2)]
    assert [one["current"] for one in found] == [True, False, False]


@where_listed
def test_the_times_of_a_session_are_those_of_sign_in_last_use_and_end(site: Club, user: str) -> None:
    began = site.now()
    browser, staying = site.member(user), site.member(user, remember=True)
    staying.ask(lambda session: session.update(browser="<b>"))
    site.ahead = 20 * MINUTE
    browser.user()
    staying.user()
    site.ahead = 21 * MINUTE
    found = {one["reference"]: one for one in living(browser)}
    plain, kept = found[reference(browser)], found[reference(staying)]
    for one, ends in ((plain, 60), (kept, 120)):  # 40 minutes after the last use; or 100, of those who stay
        assert one["started"] == pytest.approx(began, abs=30)
        assert one["seen"] == pytest.approx(began + 20 * MINUTE, abs=30)
        assert one["ends"] == pytest.approx(began + ends * MINUTE, abs=30)
    assert (plain["remembered"], kept["remembered"]) == (False, True)
    assert kept["values"] == {"browser": "<b>"}


@where_listed
def test_what_has_ended_is_not_listed(site: Club, user: str) -> None:
    gone, out, moved, stays = (site.member(user) for _ in range(4))
    gone.ask(lambda session: session.delete())
    out.ask(lambda session: session.sign_out())
    moved.ask(lambda session: session.regenerate())
    assert {one["reference"] for one in living(stays)} == {reference(stays), reference(moved)}
    site.ahead = 30 * MINUTE
    stays.user()
    site.ahead = 50 * MINUTE
    assert {one["reference"] for one in living(stays)} == {reference(stays)}


def test_what_an_index_gives_by_mistake_is_neither_listed_nor_ended() -> None:
    class WrongIndex(RamStore):
        def live(self, user: str | None) -> Iterator[tuple[str, Record]]:
            return super().live(None)

    store = WrongIndex()
    keys = {name: store.new_key() for name in ("ada", "bob", "")}
    for name, key in keys.items():
        store.create(key, Record(b"{}", store.clock(), store.clock() + 60, name))
    directory = Directory(store, Settings.parse({}))
    assert [one.user for one in directory.list("ada")] == ["ada"]
    assert directory.end("ada") == 1
    assert store.count() == 2


@where_listed
def test_values_that_make_no_sense_do_not_hide_a_session(site: Club, user: str) -> None:
    browser, now = site.member(user), site.now()
    site.store.create(site.store.new_key(), Record(b"no JSON", now - 1, now + 60, user))
    assert [one["values"] for one in living(browser)] == [{}, {}]


def test_a_stranger_has_no_sessions_to_list_or_end(site: Club) -> None:
    def work(session: Session) -> tuple[Any, ...]:
        return sessions.live_sessions(), sessions.end_session("00000000"), sessions.end_other_sessions()

    answer = site.browser().do(work)
    assert (answer.text, list(answer.cookies)) == ("([], False, 0)", [])


# -------------------------------------------------------------------- ending one


@where_listed
def test_a_user_ends_one_of_their_sessions(site: Club, user: str) -> None:
    one, two, three = (site.member(user) for _ in range(3))
    wanted = reference(two)
    assert one.ask(lambda session: sessions.end_session(wanted)) == "True"
    assert one.ask(lambda session: sessions.end_session(wanted)) == "False"
    assert [browser.user() for browser in (one, two, three)] == [user, None, user]


@where_listed
def test_a_user_cannot_end_the_sessions_of_others_nor_this_one_by_its_reference(site: Club, user: str) -> None:
    browser, other = site.member(user), site.member(f"{user}x")
    for wanted in (reference(other), reference(browser), "", "0", "%", other.jar["session_id"]):
        assert browser.ask(lambda session, wanted=wanted: sessions.end_session(wanted)) == "False"
    assert (browser.user(), other.user()) == (user, f"{user}x")


# -------------------------------------------------------------------- ending all others


@pytest.mark.parametrize("remember", [False, True])
@pytest.mark.parametrize(
    ("backend", "locking"),
    [(backend, locking) for backend in BACKENDS for locking in MODES if locking == "implicit" or backend == "ram"],
)
def test_to_end_all_other_sessions_keeps_this_one_under_a_new_id(
    backend: str, remember: bool, locking: str, user: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Also in a page that has not used its session before: it must not end itself."""
    with club(backend, tmp_path_factory.mktemp(f"all_{backend}"), locking=locking) as site:
        here, there, other = site.member(user, remember), site.member(user, not remember), site.member("bob")
        here.ask(lambda session: session.update(n=1))
        before = here.twin()
        found = here.ask(lambda session: sessions.end_other_sessions())
        assert found == ("1" if site.store.facts.lists else "None")
        seen = here.ask(lambda session: (session.user, session.remembered, session.get("n")))
        assert seen == f"('{user}', {remember}, 1)"
        assert [browser.user() for browser in (there, before, other)] == [None, None, "bob"]


@where_listed
def test_a_session_that_was_ended_does_not_come_back_with_a_request_under_way(site: Club, user: str) -> None:
    here, there = site.member(user), site.member(user)
    late = there.twin()

    def slow(session: Session) -> None:
        session["n"] = 1
        session.release_lock()
        assert here.meanwhile(lambda session: sessions.end_other_sessions()).text == "1"
        session["n"] = 2

    answer = late.do(slow)
    assert (answer.status, list(answer.cookies)) == (200, [])
    assert (late.user(), there.user(), here.user()) == (None, None, user)


def test_accounts_that_do_not_answer_are_a_503_and_end_nothing(site: Club, user: str) -> None:
    here, there = site.member(user), site.member(user)

    def work(session: Session) -> None:
        assert session.user == user
        site.accounts.failing = True
        sessions.end_other_sessions()

    answer = here.do(work)
    assert (answer.status, list(answer.cookies)) == (503, [])
    site.accounts.failing = False
    assert [browser.user() for browser in (here, there)] == [user, user]


# -------------------------------------------------------------------- backends that cannot, and operators


@pytest.mark.parametrize("backend", [name for name in BACKENDS if name not in LISTING])
def test_a_backend_that_cannot_list_says_so_and_never_that_there_are_none(
    backend: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    asked = {
        "list": lambda session: sessions.live_sessions(),
        "end": lambda session: sessions.end_session("01234567"),
        "end all, without accounts": lambda session: sessions.end_other_sessions(),
    }
    with club(backend, tmp_path_factory.mktemp(f"cannot_{backend}"), accounts=None) as site:
        browser = site.member()
        for what, work in asked.items():

            def page(session: Session, work: Any = work) -> str:
                with pytest.raises(CannotList, match="cannot list sessions"):
                    work(session)
                return "said so"

            assert browser.ask(page) == "said so", what
        assert browser.user() == "ada"


@where_listed
def test_everybodys_sessions_are_found_where_the_backend_can(site: Club, user: str) -> None:
    browsers = [site.member(user), site.member(f"{user}x"), site.browser()]
    browsers[2].ask(lambda session: session.update(n=1))
    wanted = [reference(browser) for browser in browsers]
    settings = Settings.parse({"timeout": 40})
    directory = Directory(site.store, settings)
    try:
        found = {one.reference: one.user for one in directory.list()}
    except CannotList as error:
        assert "cannot" in str(error)
        return
    assert [found[one] for one in wanted] == [user, f"{user}x", ""]
    assert directory.end(None, wanted[2]) == 1
    assert [found.user for found in directory.list(user)] == [user]
    assert wanted[2] not in {one.reference for one in directory.list()}


@where_listed
def test_sessions_that_are_over_by_todays_limits_are_not_listed(site: Club, user: str) -> None:
    site.member(user)
    site.ahead = 10 * MINUTE
    assert len(Directory(site.store, Settings.parse({"lifetime": 11})).list(user)) == 1
    assert Directory(site.store, Settings.parse({"lifetime": 9})).list(user) == []
