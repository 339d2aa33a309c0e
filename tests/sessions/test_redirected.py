"""Requests of which a browser sees one: an InternalRedirect goes on with the session, and tells the browser of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import cherrypy
import pytest

import sessions
from sessions import Session
from tests.support.backends import BACKENDS
from tests.support.client import Response
from tests.support.members import Browser, SignInApp, Work, sign_in_app


@pytest.fixture(scope="module", params=BACKENDS)
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SignInApp]:
    with sign_in_app(request.param, tmp_path_factory.mktemp(request.param)) as site:
        off, explicit = {"tools.sessions.on": False}, {"tools.sessions.locking": "explicit"}
        own: dict[str, Any] = {"tools.sessions.name": "staff_id"}
        site.app.merge({"/without": off, "/explicit": explicit, "/staff": own})
        yield site


def show(session: Session) -> str:
    return f"{session.get('n')} {session.user}"


def via(browser: Browser, work: Work, *then: tuple[str, Work]) -> Response:
    """Do `work`, and go on to pages at these addresses by InternalRedirects."""

    def step(work: Work, rest: tuple[tuple[str, Work], ...]) -> Work:
        def page(session: Session) -> Any:
            done = work(session)
            if not rest:
                return done
            path, following = rest[0]
            browser.pages.works[path.rpartition("/")[2]] = step(following, rest[1:])
            raise cherrypy.InternalRedirect(path)

        return page

    return browser.do(step(work, then))


BEGINNINGS: dict[str, tuple[Work, str]] = {
    "begins": (lambda session: session.update(n=1), "1 None"),
    "signs in": (lambda session: session.sign_in("ada"), "None ada"),
    "writes and moves": (lambda session: (session.update(n=1), session.regenerate()), "1 None"),
    "writes in a block": (lambda session: in_block(), "1 None"),
}


def in_block() -> None:
    with sessions.session_lock() as session:
        session["n"] = 1


@pytest.mark.parametrize("known", [False, True], ids=["newcomer", "known"])
@pytest.mark.parametrize("what", BEGINNINGS)
def test_the_page_that_an_internal_redirect_leads_to_has_the_same_session_and_its_answer_the_cookie(
    site: SignInApp, what: str, known: bool
) -> None:
    browser = site.browser()
    if known:
        browser.run(lambda session: session.update(old=1))
    work, expected = BEGINNINGS[what]
    answer = via(browser, work, ("/next", show))
    assert (answer.status, answer.text) == (200, expected)
    assert browser.run(lambda session: (show(session), session.get("old"))) == str((expected, 1 if known else None))


@pytest.mark.parametrize("path", ["/next", "/without/next", "/explicit/next", "/staff/next"])
def test_a_session_is_kept_wherever_an_internal_redirect_leads(site: SignInApp, path: str) -> None:
    browser = site.browser()
    for n in (1, 2):
        via(browser, lambda session, n=n: session.update(n=n), (path, lambda session: "untouched"))
        assert browser.run(lambda session: session["n"]) == str(n)


@pytest.mark.parametrize("status", [404, 500])
def test_a_session_is_kept_though_the_page_that_an_internal_redirect_leads_to_fails(
    site: SignInApp, status: int
) -> None:
    def fails(session: Session) -> None:
        session["n"] = 2
        raise cherrypy.HTTPError(status)

    browser = site.browser()
    assert via(browser, lambda session: session.update(n=1), ("/next", fails)).status == status
    assert browser.run(lambda session: session["n"]) == ("2" if status < 500 else "1")


def test_it_is_kept_over_several_redirects_and_what_each_page_writes_as_well(site: SignInApp) -> None:
    browser = site.browser()
    answer = via(
        browser,
        lambda session: session.update(a=1),
        ("/without/x", lambda session: None),
        ("/explicit/y", lambda session: session.update(b=2)),
        ("/z", lambda session: session.sign_in("ada")),
        ("/last", lambda session: dict(session.items())),
    )
    assert answer.text == "{'a': 1, 'b': 2}"
    assert browser.run(lambda session: (session.user, len(session))) == "('ada', 2)"


def test_one_that_ended_before_an_internal_redirect_stays_ended(site: SignInApp) -> None:
    browser = site.signed_in()
    answer = via(browser, lambda session: session.delete(), ("/next", show))
    assert answer.text == "None None"
    assert browser.cookies == {}
    assert browser.user() is None


def test_an_error_page_reached_by_an_internal_redirect_has_the_session_as_it_was_saved(site: SignInApp) -> None:
    def fails(session: Session) -> None:
        session["n"] = 99
        raise RuntimeError("as the test wants it")

    browser = site.browser()
    browser.run(lambda session: session.update(n=1))
    browser.pages.works["failed"] = show
    site.app.merge({"/": {"tools.err_redirect.on": True, "tools.err_redirect.url": "/failed"}})
    site.app.merge({"/": {"tools.err_redirect.internal": True}})
    try:
        assert browser.do(fails).text == "1 None"
    finally:
        site.app.merge({"/": {"tools.err_redirect.on": False}})


def test_an_untouched_page_after_an_internal_redirect_sets_no_cookie(site: SignInApp) -> None:
    answer = via(site.browser(), lambda session: None, ("/next", lambda session: "untouched"))
    assert (answer.text, list(answer.cookies)) == ("untouched", [])


class OwnRequest(cherrypy._cprequest.Request):
    """A request class of a site's own, made without this package."""


def test_it_is_kept_with_a_request_class_of_the_sites_own(site: SignInApp) -> None:
    browser, before = site.browser(), site.app.request_class
    site.app.request_class = OwnRequest
    site.app.merge({"/": {"tools.log_headers.on": False}})  # it leaves the cookie among the headers that are logged
    try:
        answer = via(browser, lambda session: session.update(n=1), ("/next", lambda session: "untouched"))
        assert answer.text == "untouched"
        assert browser.run(lambda session: session["n"]) == "1"
    finally:
        site.app.request_class = before


# ---------------------------------------------------------------- a form that is sent twice


def sent_twice(browser: Browser, first: Work, second: Work) -> Browser:
    """Send two requests with one cookie, the second while the first is under way. The browser keeps the cookie of the
    second answer, as browsers do: the first navigation is given up."""
    again = browser.twin()
    browser.do(first)
    again.do(second)
    return again


def sign_in(session: Session) -> None:
    session.sign_in("ada")


@pytest.mark.parametrize("times", [2, 3])
def test_a_sign_in_sent_twice_keeps_what_the_visitor_had(site: SignInApp, times: int) -> None:
    browser = site.browser()
    browser.run(lambda session: session.update(n=3, cart=["tea"]))
    twins = [browser.twin() for _ in range(times)]
    for twin in twins:
        twin.sign_in("twice")
    seen = twins[-1].run(lambda session: (session.user, dict(session.items())))
    assert seen == "('twice', {'n': 3, 'cart': ['tea']})"
    if site.store.capabilities.revokes:
        assert [twin.user() for twin in twins[:-1]] == [None] * (times - 1), "it has moved once more"
    if site.store.capabilities.lists:
        assert twins[-1].run(lambda session: len(sessions.live_sessions())) == "1"
        twins[-1].run(lambda session: session.delete())


def test_a_sign_in_whose_answer_never_arrived_can_be_done_again(site: SignInApp) -> None:
    browser = site.browser()
    browser.run(lambda session: session.update(n=3))
    old = browser.twin()
    browser.run(sign_in)
    site.ahead = 30.0
    old.run(lambda session: (session.update(more=1), session.sign_in("ada")))
    assert old.run(lambda session: (session.user, dict(session.items()))) == "('ada', {'n': 3, 'more': 1})"
    site.ahead = 0.0


@pytest.mark.parametrize(
    "second",
    [lambda session: session.sign_in("bob"), lambda session: session.update(mine=1)],
    ids=["another", "nobody"],
)
def test_nobody_else_follows_a_session_that_has_moved(site: SignInApp, second: Callable[[Session], None]) -> None:
    if not site.store.capabilities.revokes:
        pytest.skip("the old cookie holds the values as they were: see its limitations")
    browser = site.browser()
    browser.run(lambda session: session.update(n=3))
    other = sent_twice(browser, sign_in, second)
    assert "n" not in other.run(lambda session: dict(session.items()))
    assert browser.run(lambda session: (session.user, session["n"])) == "('ada', 3)"


def test_a_session_that_ended_is_not_followed(site: SignInApp) -> None:
    if not site.store.capabilities.revokes:
        pytest.skip("the old cookie holds the values as they were: see its limitations")
    browser = site.browser()
    browser.run(lambda session: session.update(n=3))
    old, revoked = browser.twin(), browser.twin()
    browser.run(sign_in)
    if site.store.capabilities.lists:
        site.accounts.since["ada"] = site.now() + 1
        revoked.run(sign_in)
        assert "n" not in revoked.run(lambda session: dict(session.items()))
        site.accounts.since.clear()
    browser.run(lambda session: session.delete())
    old.run(sign_in)
    assert old.run(lambda session: (session.user, dict(session.items()))) == "('ada', {})"


@pytest.mark.parametrize("first", ["sign out", "delete"])
def test_a_sign_out_sent_twice_leaves_nobody_signed_in(site: SignInApp, first: str) -> None:
    ends: Work = (lambda session: session.sign_out()) if first == "sign out" else (lambda session: session.delete())
    browser = sent_twice(site.signed_in(), ends, ends)
    assert browser.user() is None
    assert browser.sign_in().user() == "ada"
