"""The live sessions of a user, and ending them: on every backend that can, and that the others say they cannot."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest

import sessions
from sessions import CannotList, Record, Session, Store
from sessions.backends.ram import RamStore
from sessions.record import Limits
from sessions.registry import backend
from sessions.tool import reference as reference_of
from sessions.users import ActiveSessions
from tests.support.backends import BACKENDS
from tests.support.members import MODES, Browser, SignInApp, able, sign_in_app, unable

MINUTE = 60
LISTING = able("lists")
SCANNING = [name for name in LISTING if backend(name).store_class.scan is not Store.scan]
_numbers = itertools.count()


@pytest.fixture(scope="module", params=BACKENDS)
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SignInApp]:
    with sign_in_app(request.param, tmp_path_factory.mktemp(f"live_{request.param}")) as site:
        yield site


@pytest.fixture
def site(opened: SignInApp) -> SignInApp:
    """Return the site, on each backend."""
    opened.reset()
    return opened


where_listed = pytest.mark.parametrize("opened", LISTING, indirect=True)


@pytest.fixture
def user() -> str:
    """Return a user of this test's own: the tests share the store."""
    return f"ada {next(_numbers)}"


def living(browser: Browser) -> list[dict[str, Any]]:
    """Return what a page finds that asks for the sessions of its user before it does anything else."""

    def work(session: Session) -> str:
        return json.dumps([{name: getattr(one, name) for name in one.__slots__} for one in sessions.live_sessions()])

    found: list[dict[str, Any]] = json.loads(browser.run(work))
    return found


def reference(browser: Browser) -> str:
    return browser.run(lambda session: (session.user, reference_of(session.id))[1])


def active_sessions(store: Store, lifetime: float | None = None) -> ActiveSessions:
    """Return what an operator has, who has no session."""
    return ActiveSessions(store, lambda record: Limits(40, lifetime))


# -------------------------------------------------------------------- listing


@where_listed
def test_a_user_sees_their_own_sessions_and_nobody_elses(site: SignInApp, user: str) -> None:
    one, two, other = site.signed_in(user), site.signed_in(user), site.signed_in(f"{user}x")
    site.browser().run(lambda session: session.update(n=1))
    assert {one_of["reference"] for one_of in living(one)} == {reference(one), reference(two)}
    assert [(one_of["reference"], one_of["user"]) for one_of in living(other)] == [(reference(other), f"{user}x")]


@where_listed
def test_the_session_that_asks_is_marked_and_first_and_the_rest_by_last_use(site: SignInApp, user: str) -> None:
    browsers = [site.signed_in(user) for _ in range(3)]
    for minutes, browser in ((10, browsers[2]), (20, browsers[1])):
        site.ahead = minutes * MINUTE
        browser.user()
    found = living(browsers[0])
    assert [one["reference"] for one in found] == [reference(browsers[n]) for n in (0, 1, 2)]
    assert [one["current"] for one in found] == [True, False, False]


@where_listed
def test_the_times_of_a_session_are_those_of_sign_in_last_use_and_end(site: SignInApp, user: str) -> None:
    began = site.now()
    browser, staying = site.signed_in(user), site.signed_in(user, remember=True)
    staying.run(lambda session: session.update(browser="<b>"))
    site.ahead = 20 * MINUTE
    browser.user()
    staying.user()
    site.ahead = 21 * MINUTE
    found = {one["reference"]: one for one in living(browser)}
    plain, kept = found[reference(browser)], found[reference(staying)]
    for one, ends in ((plain, 60), (kept, 120)):  # 40 minutes after the last use; or 100, of those who stay
        assert one["started"] == pytest.approx(began, abs=30)
        assert one["last_used"] == pytest.approx(began + 20 * MINUTE, abs=30)
        assert one["ends"] == pytest.approx(began + ends * MINUTE, abs=30)
    assert (plain["remembered"], kept["remembered"]) == (False, True)
    assert kept["values"] == {"browser": "<b>"}


@where_listed
def test_what_has_ended_is_not_listed(site: SignInApp, user: str) -> None:
    gone, out, moved, stays = (site.signed_in(user) for _ in range(4))
    gone.run(lambda session: session.delete())
    out.run(lambda session: session.sign_out())
    moved.run(lambda session: session.regenerate())
    assert {one["reference"] for one in living(stays)} == {reference(stays), reference(moved)}
    site.ahead = 30 * MINUTE
    stays.user()
    site.ahead = 50 * MINUTE
    assert {one["reference"] for one in living(stays)} == {reference(stays)}


def test_what_an_index_names_by_mistake_is_neither_listed_nor_ended() -> None:
    store, now = RamStore(), RamStore().clock()
    keys = {name: store.new_key() for name in ("ada", "bob", "")}
    records = {name: Record("{}", now, now + 60, name) for name in keys}
    for name, key in keys.items():
        store.create(key, records[name])
        store.enter(key, records["ada"])
    store.enter(store.new_key(), records["ada"])
    active = active_sessions(store)
    assert [one.user for one in active.list("ada")] == ["ada"]
    assert active.end("ada") == 1
    assert sorted(record.user for _, record in store.scan()) == ["", "bob"]


@where_listed
def test_values_that_make_no_sense_do_not_hide_a_session(site: SignInApp, user: str) -> None:
    browser, now = site.signed_in(user), site.now()
    site.store.create(site.store.new_key(), Record("no JSON", now - 1, now + 60, user))
    assert [one["values"] for one in living(browser)] == [{}, {}]


def test_an_anonymous_visitor_has_no_sessions_to_list_or_end(site: SignInApp) -> None:
    def work(session: Session) -> tuple[Any, ...]:
        return sessions.live_sessions(), sessions.end_session("00000000"), sessions.end_other_sessions()

    answer = site.browser().do(work)
    assert (answer.text, list(answer.cookies)) == ("([], False, 0)", [])


# -------------------------------------------------------------------- ending one


@where_listed
def test_a_user_ends_one_of_their_sessions(site: SignInApp, user: str) -> None:
    one, two, three = (site.signed_in(user) for _ in range(3))
    wanted = reference(two)
    assert one.run(lambda session: sessions.end_session(wanted)) == "True"
    assert one.run(lambda session: sessions.end_session(wanted)) == "False"
    assert [browser.user() for browser in (one, two, three)] == [user, None, user]


@where_listed
def test_a_user_cannot_end_the_sessions_of_others_nor_this_one_by_its_reference(site: SignInApp, user: str) -> None:
    browser, other = site.signed_in(user), site.signed_in(f"{user}x")
    for wanted in (reference(other), reference(browser), "", "0", "%", other.cookies["session_id"]):
        assert browser.run(lambda session, wanted=wanted: sessions.end_session(wanted)) == "False"
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
    with sign_in_app(backend, tmp_path_factory.mktemp(f"all_{backend}"), locking=locking) as site:
        here, there, other = site.signed_in(user, remember), site.signed_in(user, not remember), site.signed_in("bob")
        here.run(lambda session: session.update(n=1))
        before = here.twin()
        found = here.run(lambda session: sessions.end_other_sessions())
        assert found == ("1" if site.store.capabilities.lists else "None")
        seen = here.run(lambda session: (session.user, session.remembered, session.get("n")))
        assert seen == f"('{user}', {remember}, 1)"
        assert [browser.user() for browser in (there, before, other)] == [None, None, "bob"]


@where_listed
def test_a_session_that_was_ended_does_not_come_back_with_a_request_under_way(site: SignInApp, user: str) -> None:
    here, there = site.signed_in(user), site.signed_in(user)
    late = there.twin()

    def slow(session: Session) -> None:
        session["n"] = 1
        session.release_lock()
        assert here.meanwhile(lambda session: sessions.end_other_sessions()).text == "1"
        session["n"] = 2

    answer = late.do(slow)
    assert (answer.status, list(answer.cookies)) == (200, [])
    assert (late.user(), there.user(), here.user()) == (None, None, user)


def test_accounts_that_do_not_answer_are_a_503_and_end_nothing(site: SignInApp, user: str) -> None:
    here, there = site.signed_in(user), site.signed_in(user)

    def work(session: Session) -> None:
        assert session.user == user
        site.accounts.failing = True
        sessions.end_other_sessions()

    answer = here.do(work)
    assert (answer.status, list(answer.cookies)) == (503, [])
    site.accounts.failing = False
    assert [browser.user() for browser in (here, there)] == [user, user]


# -------------------------------------------------------------------- backends that cannot, and operators


@pytest.mark.parametrize("backend", unable("lists"))
def test_a_backend_that_cannot_list_says_so_and_never_that_there_are_none(
    backend: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    asked = {
        "list": lambda session: sessions.live_sessions(),
        "end": lambda session: sessions.end_session("01234567"),
        "end all, without accounts": lambda session: sessions.end_other_sessions(),
    }
    with sign_in_app(backend, tmp_path_factory.mktemp(f"cannot_{backend}"), accounts=None) as site:
        browser = site.signed_in()
        for what, work in asked.items():

            def page(session: Session, work: Any = work) -> str:
                with pytest.raises(CannotList, match="cannot list sessions"):
                    work(session)
                return "said so"

            assert browser.run(page) == "said so", what
        assert browser.user() == "ada"


@pytest.mark.parametrize("opened", SCANNING, indirect=True)
def test_everybodys_sessions_are_found_and_ended(site: SignInApp, user: str) -> None:
    browsers = [site.signed_in(user), site.signed_in(f"{user}x"), site.browser()]
    browsers[2].run(lambda session: session.update(n=1))
    wanted = [reference(browser) for browser in browsers]
    active = active_sessions(site.store)
    found = {one.reference: one.user for one in active.list()}
    assert [found[one] for one in wanted] == [user, f"{user}x", ""]
    assert active.end(None, wanted[2]) == 1
    assert [found.user for found in active.list(user)] == [user]
    assert wanted[2] not in {one.reference for one in active.list()}


@pytest.mark.parametrize("backend", [name for name in BACKENDS if name not in SCANNING])
def test_a_backend_that_cannot_list_everybodys_says_so(backend: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    with sign_in_app(backend, tmp_path_factory.mktemp(f"scan_{backend}")) as site:
        site.signed_in()
        for ask in (lambda active: active.list(), lambda active: active.end(None)):
            with pytest.raises(CannotList, match="cannot list"):
                ask(active_sessions(site.store))


@where_listed
def test_sessions_that_are_over_by_todays_limits_are_not_listed(site: SignInApp, user: str) -> None:
    site.signed_in(user)
    site.ahead = 10 * MINUTE
    assert len(active_sessions(site.store, lifetime=11).list(user)) == 1
    assert active_sessions(site.store, lifetime=9).list(user) == []
