"""Attacks on sessions and on signing in, played over HTTP against the site, on every profile that they apply to."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import argon2
import pytest

import app
import sessions
from sessions.tool import Request
from tests.conftest import PASSWORD, every_profile
from tests.support import leaks
from tests.support.backends import environment_of
from tests.support.client import JSON, CheckedClient, Client, Response, WsgiClient, new_address
from tests.support.page import Page
from tests.support.site import Site, mounted

GUESS = "a wrong guess of mine"

# --- somebody else's session ------------------------------------------------------------------------------------------


@every_profile
def test_an_id_that_the_attacker_made_up_is_not_what_the_victim_signs_in_with(site: Site) -> None:
    """Session fixation with an id that the site does not know (ASVS 7.2.4)."""
    planted = {"session_id": secrets.token_urlsafe()}
    attacker, victim = CheckedClient(site.url, planted), CheckedClient(site.url, planted, address=new_address())
    victim.count()
    assert victim.sign_in(PASSWORD).status == 303 and victim.user() == "ada"
    assert victim.cookies["session_id"] != planted["session_id"]
    assert attacker.user() is None and attacker.count() == 1


@every_profile
def test_the_session_that_the_attacker_left_in_the_browser_is_not_what_the_victim_signs_in_with(site: Site) -> None:
    """Session fixation with a session of the attacker's own (ASVS 7.2.4)."""
    attacker = CheckedClient(site.url, address=new_address())
    attacker.count()
    victim = attacker.twin()
    assert victim.sign_in(PASSWORD).status == 303 and victim.user() == "ada"
    assert attacker.user() is None
    assert attacker.get("/account", **JSON).status == 401


@every_profile
def test_the_next_user_of_a_browser_finds_nothing_of_the_one_before(site: Site) -> None:
    browser = CheckedClient(site.url, address=new_address())
    assert browser.sign_in(PASSWORD).status == 303
    browser.post("/name", {"first": "Ada", "last": "Lovelace"})
    assert browser.post("/logout").status == 303
    assert browser.get("/hello", **JSON).json["first"] == ""
    assert browser.user() is None


def damaged(cookie: str) -> Iterator[str]:
    """Yield the cookie cut off, extended, and with single characters changed."""
    for at in sorted({0, 1, 20, 42, 43, len(cookie) // 2, len(cookie) - 1} & set(range(len(cookie)))):
        yield cookie[:at]
        yield cookie[:at] + ("A" if cookie[at] != "A" else "B") + cookie[at + 1 :]
    yield cookie + "A"
    yield cookie[:-1] + cookie[-1] * 2
    yield cookie.swapcase()
    yield cookie[::-1]


@every_profile
def test_a_forged_or_truncated_cookie_is_that_of_a_stranger(ada: CheckedClient) -> None:
    cookie = ada.cookies["session_id"]
    for forged in damaged(cookie):
        stranger = CheckedClient(ada.url, {"session_id": forged})
        answer = stranger.get("/account", **JSON)
        assert answer.status == 401, f"{len(forged)} characters were taken for a session"
    assert ada.user() == "ada"


@pytest.mark.parametrize("profile", ["cookie"], indirect=True)
def test_the_token_of_one_session_is_worth_nothing_under_the_id_of_another(ada: CheckedClient) -> None:
    mallory = CheckedClient(ada.url)
    mallory.count()
    own, token = mallory.cookies["session_id"].partition(".")[0], ada.cookies["session_id"].partition(".")[2]
    assert CheckedClient(ada.url, {"session_id": f"{own}.{token}"}).user() is None


@pytest.mark.parametrize("profile", ["cookie"], indirect=True)
def test_a_cookie_under_another_secret_is_that_of_a_stranger(ada: CheckedClient) -> None:
    with Site("cookie", env={"SESSION_SECRET": secrets.token_urlsafe(48), "DEMO_PASSWORD": PASSWORD}) as other:
        stranger = CheckedClient(other.url, ada.cookies)
        assert stranger.user() is None and stranger.count() == 1
        assert ada.cookies["session_id"].partition(".")[0] not in stranger.cookies["session_id"]


def file_of(site: Site, before: set[Path]) -> Path:
    """Return the one session file that is new."""
    [file] = set(site.storage.glob(f"??/????????-{'[0-9a-f]' * 64}")) - before
    return file


def test_a_stored_session_under_the_name_of_another_is_not_read() -> None:
    """Whoever can rename files cannot make somebody else's session their own: the checksum takes in the name."""
    with Site("file", env={"DEMO_PASSWORD": PASSWORD}) as site:
        ada, mallory = CheckedClient(site.url), CheckedClient(site.url)
        assert ada.sign_in(PASSWORD).status == 303
        first = file_of(site, set())
        mallory.count()
        second = file_of(site, {first})
        second.write_bytes(first.read_bytes())
        assert mallory.user() is None and mallory.count() == 1
        assert ada.user() == "ada"


# --- hostile text -----------------------------------------------------------------------------------------------------

SCRIPT = '</textarea></title></script><script>x-probe</script>"\' x-probe="1'
SIGNED_IN_PAGES = ["/", "/cookie/", "/counter", "/name", "/hello", "/login", "/account", "/account/password",
                   "/account/sessions", "/account/second-factor", "/backends", "/nothing"]  # fmt: skip


def assert_harmless(answer: Response) -> None:
    """Raise AssertionError when SCRIPT was obeyed."""
    assert answer.status < 500, answer.text
    assert "x-probe" not in answer.headers
    if answer.headers.get("content-type", "").startswith("text/html"):
        tags = Page(answer.text).tags
        assert not [attributes for _, attributes in tags if "x-probe" in attributes]
        assert all("src" in attributes for name, attributes in tags if name == "script")


def forms_of(page: Page, path: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the forms of a page that are sent by POST: where to, and the names of their fields with their values."""
    action = ""
    fields: dict[str, str] = {}
    for tag, attributes in [*page.tags, ("form", {})]:
        if tag == "form":
            if action:
                yield action, fields
            posts = (attributes.get("method") or "").lower() == "post"
            action, fields = ((attributes.get("action") or path) if posts else ""), {}
        elif tag in ("input", "textarea", "button", "select") and attributes.get("name"):
            fields[str(attributes["name"])] = attributes.get("value") or ""
    assert not action


def test_a_script_in_every_field_of_every_form_is_shown_and_not_obeyed(ada: CheckedClient) -> None:
    """The forms are those that the pages show, so that the form of a new page is among them (ASVS 1.2.1)."""
    ada.headers["User-Agent"] = SCRIPT
    again = CheckedClient(ada.url, headers=dict(ada.headers), address=new_address())
    assert again.sign_in(PASSWORD).status == 303
    ada.get(f"/cookie/set?{urlencode({'name': 'probe', 'value': SCRIPT})}")
    tried = set()
    for path in [*SIGNED_IN_PAGES, "/cookie/read"]:
        for action, fields in list(forms_of(Page(ada.get(path).text), path)):
            if action == "/logout":
                continue
            for name in [*fields, "unknown"]:
                # A password of its own, so that the search at the end of the run tells it from the names.
                value = SCRIPT + " and a secret" if name in leaks.PASSWORD_FIELDS else SCRIPT
                assert_harmless(ada.post(action, {**fields, name: value}))
                assert_harmless(ada.post(action, {**fields, name: value}, **JSON))
                tried.add((action, name))
            assert_harmless(ada.post(action, dict.fromkeys(fields, SCRIPT)))
    for path in SIGNED_IN_PAGES:
        assert_harmless(ada.get(path))
    wanted = {
        ("/name", "first"), ("/name", "last"), ("/cookie/delete", "name"), ("/account/password", "current"),
        ("/account/password", "new"), ("/account/sessions", "end"),
    }  # fmt: skip
    assert tried >= {(path, name) for path, name in wanted if mounted([path])}


FORGED = "\r\nsign-in account=ada address=192.0.2.66"


def test_no_visitor_can_write_a_line_of_the_log() -> None:
    """Log injection: line ends in names, addresses, cookies and browsers (ASVS 16.4.1)."""
    with Site("ram", env={"DEMO_PASSWORD": PASSWORD}) as site:
        visitor = CheckedClient(
            site.url, headers={"User-Agent": "x\x0b\x1b[2K\x85sign-in account=ada address=192.0.2.66"}
        )
        for name in (FORGED, "\u2028sign-in account=ada", "ada" + FORGED, "\x1b[2K"):
            visitor.post("/login", {"username": name, "password": GUESS})
            visitor.post("/login", {"username": "ada", "password": PASSWORD, "next": f"/{name}"})
            visitor.get(f"/cookie/set?{urlencode({'name': 'a', 'value': name})}")
            visitor.get(f"/nothing?{urlencode({'a': name})}")
        told = "".join(text.decode() for place, text in site.told() if place == "log")
        access = next(site.scratch.glob("access.log")).read_text()
        assert "192.0.2.66" not in told and "\x1b" not in told + access
        assert not re.search(r"^.?sign-in account=ada address=192", access, re.M)


def test_an_answer_grants_nothing_to_other_origins(visitor: CheckedClient) -> None:
    """No CORS header, whatever origin asks (ASVS 3.4.2)."""
    for path in ("/", "/counter", "/login", "/nothing", "/static/style.css", "/healthz"):
        for method in ("GET", "OPTIONS"):
            answer = visitor.ask(method, path, None, {"Origin": "https://evil.example", **JSON})
            assert not [name for name in answer.headers if name.startswith("access-control-")]


PRIVATE = ["/account", "/account/password", "/account/sessions", "/account/second-factor"]


def test_every_private_page_shows_the_way_out(ada: CheckedClient) -> None:
    """A button that signs out (ASVS 7.4.4)."""
    for path in PRIVATE:
        assert "/logout" in [action for action, _ in forms_of(Page(ada.get(path).text), path)], path


def test_password_fields_are_masked_empty_and_open_to_password_managers(ada: CheckedClient) -> None:
    """Masked, with the words by which password managers know them, and never filled in (ASVS 6.2.6, 6.2.7)."""
    answers = [ada.post("/account/password", {"current": GUESS, "new": GUESS, "again": GUESS[1:]})]
    answers += [ada.get("/login?next=/account/sessions")]
    answers += [CheckedClient(ada.url, address=new_address()).get("/login")]
    found = set()
    for answer in answers:
        for tag, attributes in Page(answer.text).tags:
            if tag == "input" and attributes.get("name") in leaks.PASSWORD_FIELDS:
                found.add(attributes["name"])
                assert attributes["type"] == "password" and not attributes.get("value")
                assert attributes["autocomplete"] in ("current-password", "new-password")
                assert not {name for name in attributes if name.startswith("on")} and "readonly" not in attributes
    assert found == set(leaks.PASSWORD_FIELDS)


# --- guessing passwords -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def guarded() -> Iterator[Site]:
    """A site where addresses and accounts are slowed down: each test comes from an address of its own."""
    with Site("ram", env={"DEMO_PASSWORD": PASSWORD}) as site:
        yield site


def guess(attacker: Client, name: str = "ada", password: str = GUESS) -> Response:
    """Send the login form."""
    return attacker.post("/login", {"username": name, "password": password}, **JSON)


def guess_until_refused(attacker: Client, name: str = "ada") -> list[Response]:
    """Guess passwords until the site does not take any more, and return the answers."""
    answers = [guess(attacker, name)]
    while answers[-1].status == 403:
        assert len(answers) < 30, "30 wrong passwords were all looked at"
        answers.append(guess(attacker, name))
    return answers


def test_who_guesses_has_to_wait_and_a_right_password_from_elsewhere_still_works(guarded: Site) -> None:
    """ASVS 6.1.1 and 6.3.1: brute force is slowed down, and nobody is locked out by it."""
    attacker, ada = CheckedClient(guarded.url), CheckedClient(guarded.url, address="127.0.0.2")
    refused = guess_until_refused(attacker)[-1]
    assert refused.status == refused.json["status"] == 429
    assert int(refused.headers["retry-after"]) >= 1
    assert "ada" not in refused.text
    page = attacker.post("/login", {"username": "ada", "password": GUESS})
    assert page.status == 429 and int(page.headers["retry-after"]) >= 1 and page.text.rstrip().endswith("</html>")
    assert guess(attacker, password=PASSWORD).status == 429, "while one waits, even the right password is not looked at"
    assert attacker.user() is None
    assert ada.sign_in(PASSWORD).status == 303 and ada.user() == "ada"


def test_trying_many_names_is_slowed_down_like_trying_many_passwords(guarded: Site) -> None:
    attacker = CheckedClient(guarded.url, address=new_address())
    answers = [guess(attacker, secrets.token_hex(8)) for _ in range(25)]
    assert {answer.status for answer in answers} == {403, 429}


def test_an_unknown_name_is_slowed_down_like_a_known_one(guarded: Site) -> None:
    """The throttle does not tell which names exist (ASVS 6.3.8)."""
    known = guess_until_refused(CheckedClient(guarded.url, address=new_address()))
    unknown = guess_until_refused(CheckedClient(guarded.url, address=new_address()), "nobody")
    told = [{re.sub(r"\d+ seconds?|a second", "N", answer.text) for answer in answers} for answers in (known, unknown)]
    assert told[0] == told[1] and len(told[0]) == 2


def test_guesses_at_the_same_time_are_all_counted(guarded: Site) -> None:
    """A race: each guess is counted before it is looked at, so that no more get through at once than one by one."""
    one_by_one = len(guess_until_refused(Client(guarded.url, address=new_address()), "frank")) - 1
    crowd = Client(guarded.url, address=new_address())
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: guess(crowd, "grace").status, range(40)))
    assert set(answers) <= {403, 429, 503}
    assert answers.count(403) <= one_by_one


@pytest.mark.parametrize("profile", ["memcached", "redis"])
def test_another_process_of_the_site_gives_no_further_guesses(profile: str) -> None:
    """Where a server of the sessions can count, processes do it together (ASVS 6.3.1)."""
    name = {"/": {"tools.sessions.name": f"of_{secrets.token_hex(4)}"}}  # a site that nobody has guessed at yet
    env = {"DEMO_PASSWORD": PASSWORD, **environment_of(profile)}
    with Site(profile, env=env, config=name) as one, Site(profile, env=env, config=name) as other:
        address = new_address()
        guess_until_refused(Client(one.url, address=address))
        assert guess(Client(other.url, address=address), password=PASSWORD).status == 429
        assert guess(Client(other.url, address=new_address()), password=PASSWORD).status == 303


def test_each_step_of_an_account_is_one_line_of_the_log(guarded: Site) -> None:
    """Who signs in, fails to, or signs out, and from where (ASVS 16.3.1)."""
    ada = CheckedClient(guarded.url, address=new_address())
    guess(ada)
    ada.sign_in(PASSWORD)
    ada.post("/logout")
    lines = [line for line in guarded.output().splitlines() if f"address={ada.address}" in line]
    for event in ("sign-in refused: wrong name or password", "sign-in", "sign-out"):
        assert len([line for line in lines if f" {event} account=ada" in line]) == 1, lines


def test_a_visitor_cannot_choose_the_address_that_is_counted(guarded: Site) -> None:
    """Forwarded headers of whoever is no trusted proxy do not get around the throttle (ASVS 4.1.3, 15.3.4)."""
    attacker = CheckedClient(guarded.url, address=new_address())
    guess_until_refused(attacker, "heidi")
    for header in ("X-Forwarded-For", "Forwarded", "X-Real-IP", "Client-IP", "True-Client-IP"):
        for value in ("192.0.2.1", "for=192.0.2.1", "127.0.0.1, 192.0.2.7"):
            answer = attacker.post("/login", {"username": "heidi", "password": GUESS}, **{header: value}, **JSON)
            assert answer.status == 429


def here(application: Any) -> WsgiClient:
    """Return somebody with a program, in front of an application in this process."""
    return WsgiClient(application, headers=JSON, address=new_address(), url="http://127.0.0.1")


def sign_in_here(application: Any, name: str, password: str) -> int:
    """Send the login form to an application in this process, and return the status."""
    return sign_in(here(application), name, password)


def sign_in(visitor: Client, name: str = "ada", password: str = PASSWORD) -> int:
    return visitor.post("/login", {"username": name, "password": password}).status


@pytest.fixture
def application(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """The site in this process."""
    monkeypatch.setenv("DEMO_PASSWORD", PASSWORD)
    application = app.create_app("ram")
    yield application
    sessions.close_stores(application)


def in_between(visitor: Client, path: str, form: dict[str, str]) -> int:
    """Send a form in a thread of its own: what CherryPy knows of a request belongs to its thread."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(visitor.post, path, form).result(30).status


def while_hashing(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], object]) -> None:
    """Let something happen once, while the next password is being hashed."""
    verify = argon2.PasswordHasher.verify

    def slow(*args: Any) -> bool:
        monkeypatch.setattr(argon2.PasswordHasher, "verify", verify)
        right = verify(*args)
        happens()
        return right

    monkeypatch.setattr(argon2.PasswordHasher, "verify", slow)


NEW = "a purple umbrella over 9 teapots"


def test_a_sign_in_with_the_old_password_under_way_while_the_owner_changes_it_gets_nowhere(
    application: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Waiting for a turn to be hashed takes seconds under load (ASVS 7.4.3)."""
    owner, thief = here(application), here(application)
    assert sign_in(owner) == 303
    form = {"current": PASSWORD, "new": NEW, "again": NEW, "end_others": "yes"}
    while_hashing(monkeypatch, lambda: in_between(owner, "/account/password", form))
    assert sign_in(thief) == 403
    assert sign_in_here(application, "ada", NEW) == 303


def test_a_sign_in_under_way_while_all_others_are_ended_is_one_of_them(
    application: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ASVS 7.4.3: it was proved before."""
    owner, other = here(application), here(application)
    assert sign_in(owner) == 303
    form = {"end": "others"}
    while_hashing(monkeypatch, lambda: in_between(owner, "/account/sessions", form))
    assert sign_in(other) == 303
    assert other.post("/account/sessions").status == 401
    assert owner.post("/account/sessions").status == 400, "signed in, and it says what to end"


def test_of_two_password_changes_under_way_only_one_is_made(application: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second has proved the old password only (ASVS 6.2.3)."""
    first, second = here(application), here(application)
    assert sign_in(first) == sign_in(second) == 303
    forms = [{"current": PASSWORD, "new": new, "again": new} for new in (NEW, NEW[::-1])]
    accounts = application.config["/"]["tools.sessions.accounts"]
    change, statuses = accounts.change_password, []

    def later(*args: Any) -> bool:
        monkeypatch.setattr(accounts, "change_password", change)
        statuses.append(in_between(first, "/account/password", forms[0]))
        return bool(change(*args))

    monkeypatch.setattr(accounts, "change_password", later)
    statuses.append(second.post("/account/password", forms[1]).status)
    assert statuses == [303, 403]
    assert sign_in_here(application, "ada", NEW) == 303 and sign_in_here(application, "ada", NEW[::-1]) == 403


ATTEMPTS = [("ada", PASSWORD), ("ada", GUESS), ("nobody", GUESS), ("", ""), ("ada", ""), ("ada", "x" * 5000),
            ("nobody", "x" * 5000), ("ada\0", GUESS), ("x" * 5000, GUESS)]  # fmt: skip


def test_every_sign_in_costs_the_same_one_hash(application: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Timing: an unknown name takes as long as a known one, which is counted and not clocked (ASVS 6.3.8)."""
    assert sign_in_here(application, "nobody", GUESS) == 403  # the first of a process, by whatever name, makes hashes
    verify = argon2._password_hasher.verify_secret
    hashed: list[bytes] = []

    def counted(hash: bytes, *args: Any, **options: Any) -> bool:
        hashed.append(hash)
        return bool(verify(hash, *args, **options))

    monkeypatch.setattr("argon2._password_hasher.verify_secret", counted)
    monkeypatch.setattr("argon2._password_hasher.hash_secret", None)  # nor is one made meanwhile
    for number, (name, password) in enumerate(ATTEMPTS, start=1):
        assert sign_in_here(application, name, password) == (303 if password == PASSWORD else 403)
        assert len(hashed) == number, (name[:10], password[:10])
    [parameters] = {hash.rpartition(b"$")[0].rpartition(b"$")[0] for hash in hashed}
    assert parameters.startswith(b"$argon2id$")


def test_what_fails_while_headers_are_read_is_a_500_and_in_the_log(
    application: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """There is no configuration yet, and so no tool that logs it."""

    def fail(request: object) -> None:
        raise RuntimeError("an unknown kind of header")

    with monkeypatch.context() as patch:
        patch.setattr(Request, "process_headers", fail)
        assert here(application).post("/login").status == 500
    assert "RuntimeError: an unknown kind of header" in caplog.text and "Traceback" in caplog.text
