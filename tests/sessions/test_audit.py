"""What the log says of sessions: one line for each event, which nobody can forge and which gives no session away."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cherrypy
import pytest

import sessions
from sessions import Record, Session
from sessions.backends.file import FileStore
from sessions.events import log_event
from sessions.record import Limits
from sessions.tool import reference as reference_of
from sessions.users import ActiveSessions
from tests.support.application import Counter, application, logged
from tests.support.backends import BACKENDS
from tests.support.client import WsgiClient
from tests.support.members import Browser, SignInApp, able, sign_in_app

HOUR = 3600
_FIELD = re.compile(r' (\w+)=("(?:[^"\\]|\\.)*"|[^\s"]+)')


@pytest.fixture(scope="module", params=BACKENDS)
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SignInApp]:
    with sign_in_app(request.param, tmp_path_factory.mktemp(f"audit_{request.param}")) as site:
        yield site


@pytest.fixture
def site(opened: SignInApp) -> SignInApp:
    opened.reset()
    return opened


locking = pytest.mark.parametrize("opened", able("locks_threads"), indirect=True)
revoking = pytest.mark.parametrize("opened", able("revokes"), indirect=True)


def fields(line: str) -> dict[str, str]:
    """What a program reads out of a line: all that stands after its words."""
    found = {name: json.loads(value) if value[0] == '"' else value for name, value in _FIELD.findall(line)}
    assert line.endswith("".join(match[0] for match in _FIELD.finditer(line))), line
    return found


def the_line(lines: list[str], event: str) -> dict[str, str]:
    """The fields of the one line of this event."""
    (line,) = [line for line in lines if line.startswith(event)]
    return fields(line)


def reference(browser: Browser) -> str:
    return reference_of(browser.cookies["session_id"].partition(".")[0])


# -------------------------------------------------------------------- each event is one line


def test_an_id_that_nobody_has_is_noted(site: SignInApp) -> None:
    visitor = site.browser()
    value = "p" * 43 + ("." + "q" * 120 if not site.store.capabilities.revokes else "")
    visitor.cookies["session_id"] = value
    with logged() as lines:
        assert visitor.user() is None
    assert the_line(lines, "unknown id presented") == {
        "address": "127.0.0.1", "session": reference_of("p" * 43), "why": "the store has none of this id",
    }  # fmt: skip


@revoking
def test_an_old_id_that_is_replayed_is_noted(site: SignInApp) -> None:
    """From the moment of the move on, not only when the tombstone has been cleaned away."""
    browser = site.signed_in()
    old, name = browser.twin(), reference(browser)
    site.ahead = -2
    browser.sign_in()
    site.ahead = 0
    with logged() as lines:
        assert old.user() is None
    assert lines == [f'unknown id presented address=127.0.0.1 session={name} why="it has moved to another id"']


@locking
def test_a_request_that_was_under_way_during_a_move_is_no_replay(site: SignInApp) -> None:
    browser = site.signed_in()

    def slow(session: Session) -> None:
        browser.meanwhile(lambda session: session.sign_out())
        assert session.user is None

    with logged() as lines:
        browser.twin().run(slow)
    assert [line.partition(" account")[0] for line in lines] == ["session has moved to a new id"]


@pytest.mark.parametrize("id", ["short", "x" * 5000, "a account=root", "%0d%0a"])
def test_an_id_that_cannot_be_one_is_noted_without_being_repeated(site: SignInApp, id: str) -> None:
    visitor = site.browser()
    visitor.cookies["session_id"] = id
    with logged() as lines:
        assert visitor.user() is None
    assert lines == ["malformed id presented address=127.0.0.1"]


def test_an_id_that_no_page_uses_is_not_noted(site: SignInApp) -> None:
    """Nothing was asked with it, and a busy site would fill its log with old cookies."""
    visitor = site.browser()
    visitor.cookies["session_id"] = "short"
    with logged() as lines:
        visitor.run(lambda session: None)
    assert lines == []


def test_a_move_to_a_new_id_is_noted_with_both_references(site: SignInApp) -> None:
    browser = site.browser()
    browser.run(lambda session: session.update(n=1))
    before = reference(browser)
    with logged() as lines:
        browser.sign_in()
    assert lines == [
        f"session has moved to a new id account=ada address=127.0.0.1 before={before} session={reference(browser)}"
    ]


def test_the_end_of_a_session_is_noted(site: SignInApp) -> None:
    browser = site.signed_in()
    name = reference(browser)
    with logged() as lines:
        browser.run(lambda session: (session.user, sessions.expire()))
    assert lines == [f"session was ended account=ada address=127.0.0.1 session={name}"]


@pytest.mark.parametrize("minutes", [41, 61])
def test_a_session_that_has_expired_is_noted(site: SignInApp, minutes: int) -> None:
    browser = site.signed_in()
    name = reference(browser)
    site.ahead = minutes * 60
    with logged() as lines:
        assert browser.user() is None
    assert lines == [f"session has expired account=ada address=127.0.0.1 session={name}"]


def test_a_session_that_its_account_has_ended_is_noted(site: SignInApp) -> None:
    browser = site.signed_in()
    name = reference(browser)
    site.accounts.since["ada"] = None
    with logged() as lines:
        assert browser.user() is None
    assert lines == [f"session was revoked account=ada address=127.0.0.1 session={name}"]


@pytest.mark.parametrize("opened", able("lists"), indirect=True)
def test_a_session_that_another_has_ended_is_noted_with_who_asked(site: SignInApp) -> None:
    here, there = site.signed_in("eve"), site.signed_in("eve")
    name = reference(there)
    with logged() as lines:
        here.run(lambda session: sessions.end_other_sessions())
    assert the_line(lines, "session was ended from elsewhere") == {
        "account": "eve",
        "address": "127.0.0.1",
        "session": name,
    }
    assert the_line(lines, "all sessions of the account were revoked")["account"] == "eve"
    assert the_line(lines, "session has moved")["session"] == reference(here)
    assert len(lines) == 3


def test_what_an_operator_ends_is_noted_without_an_address(tmp_path: Path) -> None:
    with sign_in_app("file", tmp_path) as site:
        browser = site.signed_in()
        with logged() as lines:
            assert ActiveSessions(site.store, lambda record: Limits(40, 60)).end("ada") == 1
        assert lines == [f"session was ended from elsewhere account=ada session={reference(browser)}"]


@revoking
def test_values_that_make_no_sense_are_quarantined_and_noted(site: SignInApp) -> None:
    browser, now = site.signed_in(), site.now()
    key = site.store.key_of(browser.cookies["session_id"])
    assert site.store.acquire(key, 5).commit(Record("no JSON", now, now + 60, "ada"))
    with logged() as lines:
        assert browser.user() is None
    assert the_line(lines, "unreadable record of session quarantined") == {
        "address": "127.0.0.1", "session": reference(browser), "why": "not a session's data: no JSON",
    }  # fmt: skip


def test_a_torn_record_is_quarantined_and_noted(tmp_path: Path) -> None:
    with sign_in_app("file", tmp_path) as site:
        browser = site.signed_in()
        assert isinstance(site.store, FileStore)
        path = Path(site.store.path(site.store.key_of(browser.cookies["session_id"])))
        path.write_bytes(path.read_bytes().replace(b" ", b"  "))
        with logged() as lines:
            assert browser.user() is None
        (line,) = [line for line in lines if "unreadable" in line]
        assert fields(line) == {"address": "127.0.0.1", "session": reference(browser), "why": "not a session record"}


def test_a_secure_cookie_on_plain_http_is_noted() -> None:
    """Browsers drop it, and a visitor is never signed in: without the line nobody would know why."""
    app = application(Counter(), secure=True)
    with logged() as lines:
        WsgiClient(app).get()
    (line,) = lines
    assert line.startswith("a Secure cookie was set on plain http")
    assert "tools.proxy" in line
    with logged() as lines:
        WsgiClient(application(Counter())).get()
    assert lines == []


def test_a_line_reaches_the_log_of_cherrypy_once_and_with_its_level() -> None:
    sessions.install()
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    cherrypy.log.error_log.addHandler(handler)
    try:
        log_event("sign-in", account="ada")
        log_event("throttled", account="ada", level=logging.WARNING)
    finally:
        cherrypy.log.error_log.removeHandler(handler)
    assert [record.levelno for record in records] == [logging.INFO, logging.WARNING]
    assert [record.getMessage().split("SESSIONS ")[1] for record in records] == [
        "sign-in account=ada", "throttled account=ada",
    ]  # fmt: skip


# -------------------------------------------------------------------- lines that nobody can forge


HOSTILE = [
    "ada account=root", 'ada" account="root', "ada\nsign-in account=root", "ada\r\n", "\u2028sign-in", "\x85", "\\",
    '\\"', "\x1b[2Jx", "\0", "é", "", " ", "ada=", "x" * 5000, "\ud800", "🙂",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_a_value_cannot_forge_a_line_or_a_field(text: str) -> None:
    sessions.install()
    with logged() as lines:
        log_event("sign-in", account=text, address="192.0.2.7")
    (line,) = lines
    assert line.isprintable() and line.isascii()
    found = fields(line)
    assert (found.pop("account", ""), found) == (text[:200], {"address": "192.0.2.7"})


def test_a_message_cannot_break_the_line_or_command_a_terminal() -> None:
    sessions.install()
    with logged() as lines:
        logging.getLogger("sessions").warning("Unavailable: %s", "no\r\nsign-in\x1b[2J\u2028account=root\x9b")
    (line,) = lines
    assert line == "Unavailable: no sign-in [2J account=root "


def test_an_address_that_a_proxy_passes_on_cannot_forge_a_line() -> None:
    app = application(Counter())
    app.merge({"/": {"tools.proxy.on": True}})
    visitor = WsgiClient(app, {"session_id": "short"})
    with logged() as lines:
        visitor.get(x_forwarded_for='192.0.2.7" account=root')
    (line,) = lines
    assert fields(line) == {"address": '192.0.2.7" account=root'}


# -------------------------------------------------------------------- lines that give nothing away


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
def test_no_line_holds_an_id_or_a_key(backend: str, debug: bool, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nor the beginning of one; the reference is the first 8 digits of the key's hash. Nor a value."""
    place = tmp_path_factory.mktemp(f"secrets_{backend}")
    with sign_in_app(backend, place, debug=debug) as site, logged() as lines:
        ids: list[str] = []

        def request(browser: Browser, work: Callable[[Session], Any]) -> None:
            browser.do(work)
            ids.extend(browser.cookies.values())

        here, there, late = site.browser(), site.browser(), site.browser()
        for browser in (here, there, late):
            request(browser, lambda session: session.update(said="open sesame"))
            request(browser, lambda session: session.sign_in("ada"))
        copies = [browser.twin() for browser in (here, there, late)]
        request(here, lambda session: session.update(big="x" * 2_000_000))
        request(here, lambda session: session.update(bad=object()))
        request(here, lambda session: 1 / 0)
        request(here, lambda session: sessions.end_other_sessions())
        request(late, lambda session: sessions.expire())
        request(here, lambda session: session.sign_out())
        for browser in (*copies, here, there, late):
            request(browser, lambda session: session.user)
        site.ahead = HOUR
        for browser in (here, there, late):
            request(browser, lambda session: session.get("n"))
    assert len(lines) > 8
    secrets = {part for id in ids for part in id.split(".") if len(part) > 20}
    assert len(secrets) > 5
    text = "\n".join(lines)
    for secret in secrets:
        assert secret[:9] not in text
        assert site.store.key_of(secret)[-64:][:9] not in text
    assert "sesame" not in text
