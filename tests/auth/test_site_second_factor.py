"""Signing in with a second factor, and what attackers try: over HTTP, with clocks that the tests move."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import app
import sessions
from auth import half, hashes
from auth.accounts import Accounts
from auth.database import Database
from auth.second_factor import SecondFactor
from pages.account import RECENT
from sessions.registry import registry
from tests.conftest import PASSWORD, every_profile
from tests.support.client import JSON, CheckedClient, Response, WsgiClient, new_address
from tests.support.factor import CODE, PAGE, Device, turn_on
from tests.support.hashing import CHEAP, computed, line
from tests.support.site import Site

NEW = "a purple umbrella over 9 teapots"
BROWSER = {"Accept": "text/html", "Origin": "http://127.0.0.1"}
# Every page of an account, and what changes one.
PRIVATE = {
    "/account": {}, "/account/password": {"current": PASSWORD, "new": NEW, "again": NEW},
    "/account/sessions": {"end": "others"}, PAGE: {"do": "off"},
}  # fmt: skip


class Clock:
    """Shows the time of day, until it is put forward."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    """The clock of sessions, accounts and codes."""
    return Clock()


@pytest.fixture
def application(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> Iterator[Any]:
    """The site in this process, with the accounts ada and eve."""
    monkeypatch.setattr(hashes, "CURRENT_PARAMETERS", CHEAP)
    application = app.create_app("ram")
    accounts = accounts_of(application)
    monkeypatch.setattr(accounts, "_clock", clock)
    monkeypatch.setattr(application.root.account.second_factor._factor, "_clock", clock)
    monkeypatch.setattr(registry.stores(application)[0], "clock", clock)
    for name in ("ada", "eve"):
        accounts.insert(name, line(PASSWORD))
    clock.now += 60
    yield application
    sessions.close_stores(application)


def accounts_of(application: Any) -> Accounts:
    accounts: Accounts = application.config["/"]["tools.sessions.accounts"]
    return accounts


def visitor(application: Any, **cookies: str) -> WsgiClient:
    """Return somebody with a program, from an address of their own."""
    return WsgiClient(application, cookies, JSON, new_address(), url="http://127.0.0.1")


def sign_in(client: WsgiClient, name: str = "ada", password: str = PASSWORD, **form: str) -> Response:
    return client.post("/login", {"username": name, "password": password, **form})


def user(client: WsgiClient) -> str | None:
    found: str | None = client.get("/login").json["user"]
    return found


@pytest.fixture
def owner(application: Any) -> WsgiClient:
    """Ada, signed in."""
    owner = visitor(application)
    assert sign_in(owner).status == 303
    return owner


@pytest.fixture
def device(owner: WsgiClient, clock: Clock) -> Device:
    """What ada has in her hand. Its codes of now and later are right."""
    device = turn_on(owner, clock)
    clock.now += 60
    sign_in(owner)  # those who have just ended other sessions have proved nothing by it
    assert owner.post(CODE, {"code": device.code()}).status == 303
    clock.now += 60
    return device


@pytest.fixture
def half_in(application: Any, device: Device) -> WsgiClient:
    """Somebody who has visited the counter, and has shown ada's password."""
    client = visitor(application)
    assert client.get("/counter").json == {"count": 1}
    assert sign_in(client, next="/counter").status == 401
    return client


def record_of(client: WsgiClient) -> sessions.Record:
    """Return what is stored of the session of a client."""
    store = registry.stores(client.app)[0]
    record = store.load(store.key_of(client.cookies["session_id"]))
    assert record
    return record


# --- in two steps -----------------------------------------------------------------------------------------------------


def test_the_password_and_then_the_code_sign_in_and_lead_to_where_one_was_going(
    half_in: WsgiClient, device: Device
) -> None:
    assert half_in.get(CODE).json == {"user": None, "missing": "code"}
    assert half_in.post(CODE, {"code": device.code()}).redirects_to == "/counter"
    assert user(half_in) == "ada" and half_in.get("/counter").json == {"count": 2}


def test_a_program_is_told_what_is_missing(application: Any, device: Device) -> None:
    answer = sign_in(visitor(application))
    assert answer.status == 401 and CODE in answer.json["error"] and "www-authenticate" in answer.headers


def test_a_browser_is_sent_to_the_form_for_the_code(application: Any, device: Device) -> None:
    client = visitor(application)
    client.headers.update(BROWSER)
    client.get("/counter")
    assert sign_in(client).redirects_to == CODE
    assert client.post(CODE, {"code": device.code()}).redirects_to == "/account"


def test_a_browser_that_keeps_no_cookie_is_told_so(application: Any, device: Device) -> None:
    client = visitor(application)
    client.headers.update(BROWSER)
    due = sign_in(client).redirects_to
    assert client.twin().get(due).redirects_to == CODE
    client.cookies.clear()
    assert "your browser keeps none of this site" in client.get(due).text


def test_the_session_has_a_new_id_before_the_code_and_after_it(application: Any, device: Device) -> None:
    client = visitor(application)
    client.get("/counter")
    before = client.twin()
    sign_in(client)
    between = client.twin()
    assert client.post(CODE, {"code": device.code()}).status == 303
    ids = {one.cookies["session_id"] for one in (before, between, client)}
    assert len(ids) == 3 and user(client) == "ada"
    for old in (before, between):
        assert old.get("/counter").json == {"count": 1} and old.get("/account").status == 401


@pytest.mark.parametrize(("stay", "minutes"), [({}, 30), ({"stay": "yes"}, 14 * 24 * 60)])
def test_the_session_lives_for_five_minutes_between_password_and_code_and_then_as_long_as_any(
    application: Any, device: Device, clock: Clock, stay: dict[str, str], minutes: int
) -> None:
    client = visitor(application)
    sign_in(client, **stay)
    assert record_of(client).deadline == clock() + half.MINUTES * 60 and not record_of(client).user
    assert client.post(CODE, {"code": device.code()}).status == 303
    record = record_of(client)
    assert record.deadline == clock() + minutes * 60 and record.remembered is bool(stay)


def test_what_another_user_of_the_browser_had_is_gone_after_the_password(application: Any, device: Device) -> None:
    client = visitor(application)
    sign_in(client, "eve")
    assert client.get("/counter").json == {"count": 1}
    sign_in(client)
    assert user(client) is None and client.get("/counter").json == {"count": 1}
    client.post(CODE, {"code": device.code()})
    assert user(client) == "ada"


def test_whoever_is_signed_in_and_proves_it_again_stays_signed_in_meanwhile(owner: WsgiClient, device: Device) -> None:
    assert sign_in(owner).status == 401 and user(owner) == "ada"
    owner.post(CODE, {"cancel": "yes"})
    assert user(owner) == "ada" and owner.get(CODE).status == 401
    assert record_of(owner).timeout is None


def test_an_account_without_a_second_factor_signs_in_by_the_password(application: Any, device: Device) -> None:
    assert sign_in(visitor(application), "eve").status == 303


def test_a_recovery_code_signs_in_once_and_says_how_many_are_left(application: Any, device: Device) -> None:
    for status in (303, 403):
        client = visitor(application)
        client.headers.update(BROWSER)
        sign_in(client)
        answer = client.post(CODE, {"recovery": device.recovery[0]})
        assert answer.status == status
        if status == 303:
            assert "Recovery codes that are left: 9." in client.get(answer.redirects_to).text


# --- half a session is nobody's ---------------------------------------------------------------------------------------


def test_half_a_session_opens_no_page_of_the_account(half_in: WsgiClient, owner: WsgiClient) -> None:
    browser = half_in.twin()
    browser.headers.update(BROWSER)
    for path, form in PRIVATE.items():
        asked = [half_in.get(path), browser.get(path)]
        if form:
            asked += [half_in.post(path, form), browser.post(path, form)]
        assert [answer.status for answer in asked] == [401, 303] * (len(asked) // 2), path
        assert {answer.redirects_to for answer in asked[1::2]} == {f"/login?next={path}"}
        assert not [answer for answer in asked if "ada" in answer.text]
    assert user(half_in) is None and user(owner) == "ada"
    assert owner.get(PAGE).json["on"] and sign_in(visitor(half_in.app)).status == 401, "the password is as it was"


def revoked(half_in: WsgiClient, owner: WsgiClient, clock: Clock) -> None:
    owner.post("/account/sessions", {"end": "others"})


def another_password(half_in: WsgiClient, owner: WsgiClient, clock: Clock) -> None:
    changed = owner.post("/account/password", {"current": PASSWORD, "new": NEW, "again": NEW})
    assert changed.status == 303


def disabled(half_in: WsgiClient, owner: WsgiClient, clock: Clock) -> None:
    accounts_of(half_in.app).disable("ada")


def removed(half_in: WsgiClient, owner: WsgiClient, clock: Clock) -> None:
    accounts_of(half_in.app).remove("ada")


def too_late(half_in: WsgiClient, owner: WsgiClient, clock: Clock) -> None:
    """However often the session is used meanwhile, so that it does not end itself."""
    for _ in range(5):
        clock.now += 61
        assert half_in.get("/counter").json["count"] > 1


def signed_out(half_in: WsgiClient, owner: WsgiClient, clock: Clock) -> None:
    half_in.post("/logout")


def cancelled(half_in: WsgiClient, owner: WsgiClient, clock: Clock) -> None:
    assert half_in.post(CODE, {"cancel": "yes"}).redirects_to == "/login"


def as_another(half_in: WsgiClient, owner: WsgiClient, clock: Clock) -> None:
    assert sign_in(half_in, "eve").status == 303


VOID: list[Callable[[WsgiClient, WsgiClient, Clock], None]] = [
    revoked, another_password, disabled, removed, too_late, signed_out, cancelled, as_another,
]  # fmt: skip


@pytest.mark.parametrize("happens", VOID)
def test_no_code_follows_when_the_password_is_not_worth_it_any_more(
    half_in: WsgiClient, owner: WsgiClient, device: Device, clock: Clock, happens: Any
) -> None:
    happens(half_in, owner, clock)
    for form in ({"code": device.code()}, {"recovery": device.recovery[0]}):
        assert half_in.post(CODE, form).status == 401
    assert user(half_in) != "ada"
    assert record_of(half_in).timeout is None, "it lives as long as any again"


def test_the_browser_is_told_that_it_was_too_late(half_in: WsgiClient, clock: Clock) -> None:
    half_in.headers.update(BROWSER)
    clock.now += 299
    assert half_in.get(CODE).status == 200
    clock.now += 2
    answer = half_in.get(CODE)
    assert answer.redirects_to == "/login?next=%2Fcounter"
    assert "later than 5 minutes" in half_in.get(answer.redirects_to).text


def test_a_copy_of_half_a_session_is_worth_nothing_after_the_code(half_in: WsgiClient, device: Device) -> None:
    thief = half_in.twin()
    half_in.post(CODE, {"code": device.code()})
    assert thief.post(CODE, {"code": device.code(1)}).status == 401


# --- codes that are guessed, seen, raced ------------------------------------------------------------------------------


def test_a_wrong_code_signs_nobody_in_and_the_next_one_may_be_right(half_in: WsgiClient, device: Device) -> None:
    wrong = "000000" if device.code() != "000000" else "000001"
    answer = half_in.post(CODE, {"code": wrong})
    assert answer.status == 403 and user(half_in) is None
    assert half_in.post(CODE, {"code": ""}).status == 400, "a slip"
    assert half_in.post(CODE, {"code": device.code()}).status == 303


def test_a_code_that_somebody_saw_signs_nobody_else_in(
    application: Any, half_in: WsgiClient, device: Device, clock: Clock
) -> None:
    code, before = device.code(), device.code(-1)
    assert half_in.post(CODE, {"code": code}).status == 303
    thief = visitor(application)
    sign_in(thief)
    assert [thief.post(CODE, {"code": seen}).status for seen in (code, before)] == [403, 403]


def test_of_two_sign_ins_at_once_with_one_code_one_gets_in(
    application: Any, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    barrier, step = threading.Barrier(2), SecondFactor._step

    def together(*args: Any) -> int | None:
        barrier.wait(30)
        return step(*args)

    both = [visitor(application) for _ in range(2)]
    for client in both:
        sign_in(client)
    monkeypatch.setattr(SecondFactor, "_step", together)
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(client.post, CODE, {"code": device.code()}) for client in both]
        assert sorted(answer.result(30).status for answer in asked) == [303, 403]


def test_who_guesses_codes_has_to_wait_also_from_other_addresses_and_with_the_password(
    application: Any, device: Device, clock: Clock
) -> None:
    """ASVS 6.3.1: one of 333,333 guesses would be right. The right password does not forgive wrong codes."""
    right = {device.code(later) for later in (-1, 0, 1)}
    answers: list[Response] = []
    while not answers or answers[-1].status == 403:
        assert len(answers) < 200, "200 wrong codes were all looked at"
        if len(answers) % 5 == 0:
            guesser = visitor(application)
            sign_in(guesser)
        guess = next(code for code in ("000000", "000001", "000002", "000003") if code not in right)
        answers.append(guesser.post(CODE, {"code": guess}))
    assert answers[-1].status == 429 and int(answers[-1].headers["retry-after"]) >= 1
    assert guesser.post(CODE, {"code": device.code()}).status == 429, "nor is the right one looked at"
    owner = visitor(application)
    sign_in(owner)
    assert owner.post(CODE, {"code": device.code()}).status == 429
    assert owner.post(CODE, {"recovery": device.recovery[0]}).status == 303, "its owner gets in all the same"


def test_recovery_codes_are_not_guessed_without_waiting(half_in: WsgiClient) -> None:
    statuses = [half_in.post(CODE, {"recovery": f"guess {n}"}).status for n in range(20)]
    assert set(statuses) == {403, 429}


@pytest.mark.parametrize("name", ["ada", "eve", "nobody"])
def test_a_wrong_password_is_answered_as_to_an_account_without_a_second_factor(
    application: Any, device: Device, name: str
) -> None:
    """In words, cookies and hashes (ASVS 6.3.8)."""
    answers = []
    for asked in ("eve", name):
        with computed() as hashed:
            answers.append((sign_in(visitor(application), asked, "a wrong guess of mine"), len(hashed)))
    (first, costs), (second, others) = answers
    assert (first.status, first.text, first.set_cookie, costs) == (
        second.status,
        second.text,
        second.set_cookie,
        others,
    )
    assert first.status == 403 and costs == 1


def test_codes_that_cannot_be_checked_just_now_are_no_wrong_ones(
    half_in: WsgiClient, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    def down(*_: object) -> None:
        raise sessions.Unavailable("the database is away")

    with monkeypatch.context() as patch:
        patch.setattr(SecondFactor, "_step", down)
        statuses = {half_in.post(CODE, {"code": device.code()}).status for _ in range(150)}
    assert statuses == {503}
    assert half_in.post(CODE, {"code": device.code()}).status == 303


# --- turning it on and off --------------------------------------------------------------------------------------------


def test_it_is_turned_on_with_a_code_and_the_secret_is_not_shown_again(owner: WsgiClient, clock: Clock) -> None:
    assert owner.get(PAGE).json == {"on": False, "codes_left": None}
    owner.post(PAGE, {"do": "begin"})
    secret = owner.get(PAGE).json["secret"]
    assert owner.post(PAGE, {"do": "on", "code": "12345"}).status == 400
    assert owner.get(PAGE).json == {
        "on": False,
        "codes_left": None,
        "secret": secret,
        "uri": owner.get(PAGE).json["uri"],
    }
    code = Device(secret.replace(" ", ""), [], clock).code()
    assert len(owner.post(PAGE, {"do": "on", "code": code}).json["recovery_codes"]) == 10
    assert owner.get(PAGE).json == {"on": True, "codes_left": 10}
    assert owner.post(PAGE, {"do": "begin"}).status == owner.post(PAGE, {"do": "on", "code": code}).status == 403


def test_a_secret_that_was_begun_and_left_is_shown_to_nobody_without_a_fresh_proof(
    owner: WsgiClient, clock: Clock
) -> None:
    owner.post(PAGE, {"do": "begin"})
    clock.now += RECENT * 60 + 1
    answer = owner.get(PAGE)
    assert answer.status == 403 and "secret" not in answer.text


@pytest.mark.parametrize("form", [{"do": "begin"}, {"do": "on", "code": "123456"}, {"do": "codes"}, {"do": "off"}])
def test_nothing_is_changed_without_a_fresh_proof(
    application: Any, owner: WsgiClient, device: Device, clock: Clock, form: dict[str, str]
) -> None:
    """ASVS 7.5.1: nor with one that took the password alone."""
    phone = visitor(application)
    sign_in(phone)
    assert phone.post(CODE, {"code": device.code()}).status == 303
    clock.now += RECENT * 60 + 1
    browser = phone.twin()
    browser.headers.update(BROWSER)
    assert browser.post(PAGE, form, Referer=f"http://127.0.0.1{PAGE}").redirects_to.startswith("/login?next=")
    assert phone.post(PAGE, form).status == 403
    assert sign_in(phone, next=PAGE).status == 401, "the password was right"
    assert phone.post(PAGE, form).status == 403
    assert phone.post(CODE, {"code": device.code()}).redirects_to == PAGE
    assert phone.get(PAGE).json == {"on": True, "codes_left": 10}
    assert phone.post(PAGE, form).status == {"begin": 400, "on": 400, "codes": 200, "off": 303}[form["do"]]


def test_a_new_password_takes_both_factors_and_is_no_fresh_proof_itself(
    application: Any, device: Device, clock: Clock
) -> None:
    phone = visitor(application)
    sign_in(phone)
    phone.post(CODE, {"code": device.code()})
    clock.now += RECENT * 60 - 1
    assert phone.post("/account/password", {"current": PASSWORD, "new": NEW, "again": NEW}).status == 303
    clock.now += 2
    assert phone.post(PAGE, {"do": "off"}).status == 403
    assert phone.get("/account/password").status == 403
    assert phone.post("/account/password", {"current": NEW, "new": PASSWORD, "again": PASSWORD}).status == 403


@pytest.mark.parametrize("do", ["on", "codes", "off"])
def test_each_change_ends_the_other_sessions_and_not_ones_own(
    application: Any, owner: WsgiClient, clock: Clock, do: str
) -> None:
    """ASVS 7.4.3: whoever had the password alone may be signed in."""
    others = [visitor(application)]
    sign_in(others[0])
    device = turn_on(owner, clock)
    if do != "on":
        assert user(others[0]) is None
        others.append(visitor(application))
        for client in (others[1], owner):
            sign_in(client)
            assert client.post(CODE, {"code": device.code(1)}).status == 303
            clock.now += 60
        assert user(others[1]) == "ada"
        assert owner.post(PAGE, {"do": do}).status in (200, 303)
    assert user(others[-1]) is None and user(owner) == "ada"


def test_a_session_that_was_half_signed_in_before_it_was_turned_off_stays_half(
    owner: WsgiClient, half_in: WsgiClient, device: Device, clock: Clock
) -> None:
    assert owner.post(PAGE, {"do": "off"}).status == 303
    assert half_in.post(CODE, {"code": device.code()}).status == 401 and user(half_in) is None


def test_a_password_form_that_is_sent_again_gets_nobody_around_the_code(owner: WsgiClient, device: Device) -> None:
    """Whoever has the cookie of a session that has moved, and the password."""
    thief = owner.twin()
    form = {"current": PASSWORD, "new": NEW, "again": NEW}
    assert owner.post("/account/password", form).status == 303
    assert thief.post("/account/password", form).status == 401 and user(thief) is None


def test_what_the_page_cannot_do_is_refused(owner: WsgiClient) -> None:
    for form in ({}, {"do": "something"}, {"do": "codes"}, {"do": "off"}, {"do": "on", "code": "123456"}):
        assert owner.post(PAGE, form).status == 400


# --- with every backend -----------------------------------------------------------------------------------------------


@every_profile
def test_a_second_factor_is_asked_for_wherever_sessions_are(site: Site) -> None:
    Accounts(Database(site.users_url)).insert("frances", line(PASSWORD))
    owner, form = CheckedClient(site.url, address=new_address()), {"username": "frances", "password": PASSWORD}
    assert owner.post("/login", form).redirects_to == "/account"
    device = turn_on(owner)
    assert owner.user() == "frances"
    owner.post("/logout")
    assert owner.count() == 1
    assert owner.post("/login", {**form, "stay": "yes"}).redirects_to == CODE
    between = owner.twin()
    assert owner.user() is None and owner.get("/account").redirects_to == "/login?next=/account"
    assert owner.post(CODE, {"code": device.code(1)}).redirects_to == "/account"
    assert owner.user() == "frances" and owner.count() == 2
    assert between.user() is None
