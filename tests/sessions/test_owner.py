"""Whose a session is: signing in and out, on every backend, and in every locking mode on those without a server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

import sessions
from sessions import Session
from tests.support.backends import BACKENDS
from tests.support.client import JSON, Response
from tests.support.members import MODES, Browser, SignInApp, Work, able, sign_in_app

MINUTE = 60
# What a locking mode does stands in session.py, which knows no backend; so each mode need not be tried on each.
COMBINATIONS = [
    (backend, locking)
    for backend in BACKENDS
    for locking in MODES
    if locking == "implicit" or backend in ("ram", "file", "cookie")
]
# Where another request can move a session under way: in the early mode a request holds it from its start. Where nothing
# locks, the last answer wins (test_cookies.py).
UNDER_WAY = [one for one in COMBINATIONS if one[1] != "early" and one[0] in able("locks_threads")]


@pytest.fixture(scope="module", params=COMBINATIONS, ids="-".join)
def combination(request: pytest.FixtureRequest) -> tuple[str, str]:
    backend, locking = request.param
    return backend, locking


@pytest.fixture(scope="module")
def backend(combination: tuple[str, str]) -> str:
    return combination[0]


@pytest.fixture(scope="module")
def locking(combination: tuple[str, str]) -> str:
    return combination[1]


@pytest.fixture(scope="module")
def opened(backend: str, locking: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SignInApp]:
    with sign_in_app(
        backend, tmp_path_factory.mktemp(f"{backend}_{locking}"), locking=locking, proof_page="/login"
    ) as site:
        yield site


@pytest.fixture
def site(opened: SignInApp) -> SignInApp:
    opened.reset()
    return opened


def put(name: str, value: Any) -> Work:
    return lambda session: session.update({name: value})


def value(name: str) -> Work:
    return lambda session: session.get(name)


# -------------------------------------------------------------------- signing in


def test_signing_in_gives_a_new_id_and_keeps_the_values(site: SignInApp) -> None:
    browser = site.browser()
    browser.run(put("basket", "tea"))
    before = browser.twin()
    browser.sign_in()
    assert browser.cookies != before.cookies
    assert (browser.user(), browser.run(value("basket"))) == ("ada", "tea")
    assert before.user() is None
    if site.store.capabilities.revokes:
        assert before.run(value("basket")) == "None"


def test_signing_in_again_gives_a_new_id_and_keeps_the_values(site: SignInApp) -> None:
    """Who has proved again who they are (ASVS 7.2.4)."""
    browser = site.signed_in()
    browser.run(put("basket", "tea"))
    before = browser.twin()
    browser.sign_in()
    assert (browser.user(), browser.run(value("basket"))) == ("ada", "tea")
    assert (before.user() is None) is site.store.capabilities.revokes


def test_a_planted_id_does_not_get_the_sign_in(site: SignInApp) -> None:
    """Session fixation with an id that the attacker has from the site itself, and with one made up."""
    attacker = site.browser()
    attacker.run(put("n", 1))
    attacker.twin().sign_in()
    assert attacker.user() is None
    made_up = site.browser()
    made_up.cookies["session_id"] = "p" * 43
    victim = made_up.twin().sign_in()
    assert victim.cookies != made_up.cookies
    assert made_up.user() is None


def test_another_users_values_are_dropped(site: SignInApp) -> None:
    browser = site.signed_in()
    browser.run(put("secret", "of ada"))
    browser.sign_in("bob")
    assert (browser.user(), browser.run(value("secret"))) == ("bob", "None")


def test_the_name_of_a_user_cannot_be_empty(site: SignInApp) -> None:
    def work(session: Session) -> str:
        with pytest.raises(ValueError, match="empty"):
            session.sign_in("")
        return str(session.user)

    assert site.browser().run(work) == "None"


def test_the_user_is_known_in_the_request_that_signs_in(site: SignInApp) -> None:
    def work(session: Session) -> tuple[Any, ...]:
        session.sign_in("ada", remember=True)
        return session.user, session.remembered

    assert site.browser().run(work) == "('ada', True)"


def test_a_new_id_and_a_renewal_keep_the_user(site: SignInApp) -> None:
    browser = site.signed_in()
    browser.run(lambda session: session.regenerate())
    site.ahead = 20 * MINUTE
    assert browser.user() == "ada"  # renewed here
    site.ahead = 50 * MINUTE
    assert browser.user() == "ada"


# -------------------------------------------------------------------- limits and the cookie


def test_both_limits_begin_at_sign_in(site: SignInApp) -> None:
    browser = site.browser()
    browser.run(put("n", 1))
    for minutes in (30, 55):
        site.ahead = minutes * MINUTE
        browser.run(put("n", minutes))
    browser.sign_in()
    for minutes in (55 + 30, 55 + 59):
        site.ahead = minutes * MINUTE
        assert browser.user() == "ada", minutes
    site.ahead = (55 + 61) * MINUTE
    assert browser.user() is None


@pytest.mark.parametrize(("remember", "idle", "busy"), [(False, 40, 60), (True, 100, 150)])
def test_who_stays_signed_in_has_limits_of_their_own(site: SignInApp, remember: bool, idle: int, busy: int) -> None:
    lazy, eager = site.signed_in(remember=remember), site.signed_in(remember=remember)
    for part in (0.3, 0.6, 0.9, 1.2, 1.4):
        site.ahead = part * idle * MINUTE
        assert eager.user() == "ada"
    site.ahead = (idle + 1) * MINUTE
    assert lazy.user() is None
    site.ahead = (busy + 1) * MINUTE
    assert eager.user() is None


@pytest.mark.parametrize("signed_in_before", [False, True])
def test_the_cookie_ends_with_the_browser_unless_the_user_stays_signed_in(
    site: SignInApp, signed_in_before: bool
) -> None:
    browser = site.signed_in(remember=True) if signed_in_before else site.browser()
    for remember in (False, True, False):
        answer = browser.do(lambda session, remember=remember: session.sign_in("ada", remember))
        cookie = answer.cookies["session_id"]
        assert (cookie["max-age"], bool(cookie["expires"])) == (("6000", True) if remember else ("", False))


def test_a_renewal_does_not_make_the_cookie_outlive_the_browser(site: SignInApp) -> None:
    browser = site.signed_in()
    site.ahead = 20 * MINUTE
    answer = browser.do(lambda session: session.user)
    assert [cookie["max-age"] for cookie in answer.cookies.values()] in ([], [""])


def test_a_renewal_renews_the_cookie_of_who_stays_signed_in(site: SignInApp) -> None:
    browser = site.signed_in(remember=True)
    site.ahead = 20 * MINUTE
    answer = browser.do(lambda session: session.user)
    assert answer.cookies["session_id"]["max-age"] == "6000"


# -------------------------------------------------------------------- signing out


def test_signing_out_kills_the_old_id_and_drops_the_values(site: SignInApp) -> None:
    browser = site.signed_in()
    browser.run(put("secret", 1))
    before = browser.twin()
    browser.run(lambda session: session.sign_out())
    assert (browser.user(), browser.run(value("secret"))) == (None, "None")
    assert browser.cookies != before.cookies
    assert (before.user() is None) is site.store.capabilities.revokes


def test_signing_out_in_the_request_that_signed_in_signs_nobody_in(site: SignInApp) -> None:
    browser = site.browser()
    browser.run(lambda session: (session.sign_in("ada"), session.sign_out()))
    assert browser.user() is None


def test_signing_out_somebody_who_has_no_session_makes_none(site: SignInApp) -> None:
    answer = site.browser().do(lambda session: session.sign_out())
    assert (answer.status, list(answer.cookies)) == (200, [])


def test_to_clear_the_session_drops_the_user(site: SignInApp) -> None:
    for remember in (False, True):
        browser = site.signed_in(remember=remember)
        browser.run(put("secret", 1))
        browser.run(lambda session: session.clear())
        assert (browser.user(), browser.run(value("secret"))) == (None, "None")


def test_the_limits_of_a_user_who_stayed_signed_in_do_not_stay_with_a_cleared_session(site: SignInApp) -> None:
    browser = site.signed_in(remember=True)
    browser.run(lambda session: (session.clear(), session.update(n=1)))
    site.ahead = 41 * MINUTE
    assert browser.run(value("n")) == "None"


# -------------------------------------------------------------------- requests that fail


def fails(session: Session) -> None:
    raise RuntimeError("the page fails after this")


def block_before(session: Session) -> None:
    with sessions.session_lock():
        session["block"] = 1
    session.sign_in("bob")


def block_that_raises(session: Session) -> None:
    with sessions.session_lock():
        session.sign_in("bob")
        raise RuntimeError("within the block")


def inner_block(session: Session) -> None:
    with sessions.session_lock():
        with sessions.session_lock():
            session.sign_in("bob")
        raise RuntimeError("within the outer block")


FAILING: dict[str, Work] = {
    "plainly": lambda session: session.sign_in("bob"),
    "after reading": lambda session: (session.user, session.sign_in("bob")),
    "after writing": lambda session: (session.update(n=2), session.sign_in("bob")),
    "twice": lambda session: (session.sign_in("cyd"), session.sign_in("bob")),
    "after a block": block_before,
    "in a block that raises": block_that_raises,
    "in a held block that raises": lambda session: (session.get("n"), block_that_raises(session)),
    "in an inner block": inner_block,
}


@pytest.mark.parametrize("before", [None, "ada"])
@pytest.mark.parametrize("how", FAILING)
def test_a_request_that_fails_signs_nobody_in(site: SignInApp, locking: str, how: str, before: str | None) -> None:
    browser = site.signed_in(before) if before else site.browser()
    browser.run(put("n", 1))
    copy = browser.twin()
    assert browser.do(lambda session: (FAILING[how](session), fails(session))).status == 500
    # To move a session is to lock it, and that saves what a page in the explicit mode wrote without the lock.
    n = "2" if (how, locking) == ("after writing", "explicit") else "1"
    assert (browser.user(), browser.run(value("n"))) == (before, n)
    assert copy.user() in (before, None)


def test_a_sign_in_that_a_block_has_saved_reaches_the_browser_though_the_page_fails_then(site: SignInApp) -> None:
    """The block is the page's word that its part is done (rule 5). The old id is dead all the same."""

    def work(session: Session) -> None:
        with sessions.session_lock():
            session.sign_in("ada")
        fails(session)

    browser = site.browser()
    browser.run(put("n", 1))
    planted = browser.twin()
    assert browser.do(work).status == 500
    assert browser.cookies != planted.cookies
    assert (browser.user(), planted.user()) == ("ada", None)


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("change", ["sign_in", "sign_out", "clear", "regenerate"])
def test_a_block_that_raises_leaves_the_user_signed_in(site: SignInApp, change: str, held: bool) -> None:
    changes: dict[str, Work] = {"sign_in": lambda session: session.sign_in("bob", remember=True)}

    def work(session: Session) -> tuple[Any, ...]:
        if held:
            session.acquire_lock()
        with suppress(RuntimeError), sessions.session_lock():
            changes.get(change, lambda session: getattr(session, change)())(session)
            raise RuntimeError
        return session.user, session.remembered, session.get("n")

    browser = site.signed_in()
    browser.run(put("n", 1))
    assert browser.run(work) == "('ada', False, 1)"
    assert browser.run(lambda session: (session.user, session.remembered, session.get("n"))) == "('ada', False, 1)"


# -------------------------------------------------------------------- requests under way


@pytest.mark.parametrize("combination", UNDER_WAY, ids="-".join, indirect=True)
@pytest.mark.parametrize("change", ["sign_in", "sign_out"])
def test_a_request_under_way_does_not_put_its_cookie_over_that_of_a_sign_in_or_out(
    site: SignInApp, locking: str, change: str
) -> None:
    changes: dict[str, Work] = {"sign_in": lambda session: session.sign_in("bob")}

    def slow(session: Session) -> None:
        answer = browser.meanwhile(changes.get(change, lambda session: session.sign_out()))
        assert answer.status == 200
        session["n"] = 2

    browser = site.signed_in()
    late = browser.twin()
    answer = late.do(slow)
    assert (answer.status, list(answer.cookies)) == (200, [])
    assert browser.user() == ("bob" if change == "sign_in" else None)


@pytest.mark.parametrize("combination", UNDER_WAY, ids="-".join, indirect=True)
def test_two_who_sign_in_at_once_with_one_cookie_are_two_sessions(site: SignInApp, locking: str) -> None:
    def slow(session: Session) -> None:
        assert other.meanwhile(lambda session: session.sign_in("bob")).status == 200
        session.sign_in("ada")

    browser = site.browser()
    browser.run(put("n", 1))
    other = browser.twin()
    assert browser.do(slow).status == 200
    assert (browser.user(), other.user()) == ("ada", "bob")


# -------------------------------------------------------------------- accounts


@pytest.mark.parametrize("removed", [False, True])
def test_a_session_ends_with_the_next_request_when_its_account_says_so(site: SignInApp, removed: bool) -> None:
    browser, other = site.signed_in(), site.signed_in("bob")
    browser.run(put("secret", 1))
    site.accounts.since["ada"] = None if removed else site.now() + 1
    assert browser.run(lambda session: (session.user, session.get("secret"))) == "(None, None)"
    assert other.user() == "bob"
    if not removed:
        site.ahead = 2
        assert site.signed_in().user() == "ada"


def test_a_session_that_began_at_the_very_moment_is_valid(site: SignInApp) -> None:
    moment = site.now()
    site.store.clock = lambda: moment
    try:
        browser = site.signed_in()
        site.accounts.since["ada"] = moment
        assert browser.user() == "ada"
        site.accounts.since["ada"] = moment + 0.001
        assert browser.user() is None
    finally:
        site.store.clock = site.now


def test_a_revoked_session_is_destroyed_at_its_next_request(site: SignInApp) -> None:
    browser = site.signed_in()
    copy = browser.twin()
    site.accounts.since["ada"] = None
    assert browser.user() is None
    del site.accounts.since["ada"]
    assert (copy.user() is None) is site.store.capabilities.revokes


@pytest.mark.parametrize("catches", [False, True])
def test_accounts_that_do_not_answer_are_a_503_and_the_cookie_is_left_alone(site: SignInApp, catches: bool) -> None:
    def work(session: Session) -> None:
        if catches:
            with suppress(sessions.StoreError):
                session.get("n")
        session["n"] = 2

    browser = site.signed_in()
    browser.run(put("n", 1))
    site.accounts.failing = True
    answer = browser.do(work)
    assert (answer.status, list(answer.cookies)) == (503, [])
    assert int(answer.headers["retry-after"]) > 0
    assert "disk" not in answer.text
    site.accounts.failing = False
    assert (browser.user(), browser.run(value("n"))) == ("ada", "1")
    assert len(site.store.locks) == 0


def test_the_accounts_are_asked_once_for_a_user_and_never_for_an_anonymous_visitor(site: SignInApp) -> None:
    visitor, browser = site.browser(), site.signed_in()
    visitor.run(put("n", 1))
    site.accounts.asked.clear()
    visitor.run(lambda session: (session.user, session.update(n=2)))
    assert site.accounts.asked == []
    browser.run(lambda session: (session.user, session.update(n=2), session.user))
    assert site.accounts.asked == ["ada"]


# -------------------------------------------------------------------- a recent proof


def ten_minutes(session: Session) -> None:
    session.require_recent(10)


def asks(site: SignInApp, browser: Browser) -> bool:
    """Return whether a page that wants a proof of the last ten minutes sends this browser away."""
    answer = browser.do(ten_minutes)
    assert answer.status == 200 or answer.redirects_to.startswith("/login?next="), answer.text
    return answer.status != 200


@pytest.mark.parametrize("remember", [False, True])
def test_a_page_goes_on_for_as_many_minutes_as_it_wants_the_proof_to_be_recent(site: SignInApp, remember: bool) -> None:
    browser = site.signed_in(remember=remember)
    for seconds, too_old in ((0, False), (10 * MINUTE - 5, False), (10 * MINUTE + 5, True)):
        site.ahead = seconds
        assert asks(site, browser) is too_old
    browser.sign_in(remember=remember)
    assert not asks(site, browser)


@pytest.mark.parametrize("change", ["regenerate", "load", "save", "acquire_lock"])
def test_nothing_but_a_sign_in_is_a_proof(site: SignInApp, change: str) -> None:
    browser = site.signed_in()
    site.ahead = 11 * MINUTE
    browser.run(lambda session: (session.update(n=1), getattr(session, change)()))
    assert asks(site, browser)


@pytest.mark.parametrize("minutes", [1, 11])
def test_to_end_all_other_sessions_is_no_proof(site: SignInApp, minutes: int) -> None:
    """Whoever finds a browser open could go on for ever by it."""
    browser = site.signed_in()
    site.ahead = minutes * MINUTE
    browser.run(lambda session: sessions.end_other_sessions())
    assert browser.user() == "ada" and asks(site, browser)
    site.ahead += 1
    assert not asks(site, browser.sign_in())


def test_a_proof_of_the_same_request_is_recent(site: SignInApp) -> None:
    assert site.browser().do(lambda session: (session.sign_in("ada"), session.require_recent(1))).status == 200


def test_the_session_of_somebody_who_is_asked_for_a_proof_stays_as_it_is(site: SignInApp) -> None:
    browser = site.signed_in()
    browser.run(put("n", 1))
    site.ahead = 11 * MINUTE
    assert asks(site, browser)
    assert (browser.user(), browser.run(value("n"))) == ("ada", "1")


def test_a_stranger_who_is_asked_for_a_proof_gets_no_session(site: SignInApp) -> None:
    answer = site.browser().do(ten_minutes)
    assert (answer.status, list(answer.cookies)) == (303, [])


def test_a_program_is_told_whether_nobody_is_signed_in_or_it_is_too_long_ago(site: SignInApp) -> None:
    stranger = site.browser().get(site.pages.add(ten_minutes), **JSON)
    assert stranger.status == 401 and stranger.headers["www-authenticate"]
    browser = site.signed_in()
    assert browser.get(site.pages.add(ten_minutes), **JSON).status == 200
    site.ahead = 11 * MINUTE
    assert browser.get(site.pages.add(ten_minutes), **JSON).status == 403
    assert browser.get(site.pages.add(ten_minutes), Accept="application/json, text/html").status == 303


@pytest.mark.parametrize(("mount", "mounted"), [("", ""), ("/my shop", "/my%20shop")])
def test_the_way_back_is_the_page_that_asked_or_the_one_with_the_form(mount: str, mounted: str, tmp_path: Path) -> None:
    """Never the address of a form: it is not sent again."""

    def back(answer: Response) -> str:
        page, _, query = answer.redirects_to.partition("?")
        assert page == f"{mounted}/login"
        return parse_qs(query)["next"][0]

    with sign_in_app("ram", tmp_path, mount, proof_page="/login") as site:
        browser, page = site.browser(), site.pages.add(ten_minutes)
        assert back(browser.get(f"{page}?a=%2F%26&b=%C3%A4")) == f"{page}?a=%2F%26&b=%C3%A4"
        assert back(browser.ask("HEAD", page := site.pages.add(ten_minutes))) == page
        for referer, path in {
            f"http://site{mounted}/form?a=1": "/form?a=1",
            f"https://elsewhere{mounted}/form": "/form",
            "http://[": "/",
            "": "/",
        }.items():
            assert back(browser.post(site.pages.add(ten_minutes), Referer=referer)) == path


def test_without_a_page_that_asks_for_it_an_old_proof_is_refused_and_the_log_names_the_option(
    tmp_path: Path, logged: list[str]
) -> None:
    with sign_in_app("ram", tmp_path) as site:
        assert site.browser().do(ten_minutes).status == 401
        browser = site.signed_in()
        assert browser.do(ten_minutes).status == 200 and logged == []
        site.ahead = 11 * MINUTE
        answer = browser.do(ten_minutes)
        assert answer.status == 403 and "proof_page" not in answer.text
        assert [line for line in logged if "tools.sessions.proof_page" in line]


@pytest.mark.parametrize("minutes", [0, -1, float("nan")])
def test_no_proof_is_younger_than_nothing(minutes: float, tmp_path: Path) -> None:
    with sign_in_app("ram", tmp_path) as site:
        assert site.signed_in().do(lambda session: session.require_recent(minutes)).status == 403


# -------------------------------------------------------------------- cookies that are not ours


def test_a_cookie_that_was_changed_anywhere_is_nobodys(site: SignInApp) -> None:
    browser = site.signed_in()
    whole = browser.cookies["session_id"]
    places = sorted({0, 1, 20, 42, 43, 44, len(whole) // 2, len(whole) - 2} & set(range(len(whole))))
    changed = [whole[:n] + ("A" if whole[n] != "A" else "B") + whole[n + 1 :] for n in places]
    for forged in (*changed, whole[:-1], whole[: len(whole) // 2], whole + "A", whole.swapcase()):
        thief = site.browser()
        thief.cookies["session_id"] = forged
        assert thief.user() is None, (whole, forged)
    assert browser.user() == "ada"


def test_a_cookie_of_another_application_is_nobodys(
    site: SignInApp, backend: str, locking: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Which has the same name, but another secret, folder, table or place in the memory."""
    place = tmp_path_factory.mktemp(f"other_{backend}_{locking}")
    own = {"secret": "another secret of the tests as long as it"} if backend == "cookie" else {}
    with sign_in_app(backend, place, "/other", **own) as other:
        browser = other.signed_in()
        thief = site.browser()
        thief.cookies = dict(browser.cookies)
        assert thief.user() is None
        assert browser.user() == "ada"
