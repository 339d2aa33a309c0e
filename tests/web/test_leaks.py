"""Neither a password nor the id of a session ever reaches a log, a page, or an address (ASVS 14.2.1, 16.2.5)."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from urllib.parse import quote

import pytest

from tests.support import leaks
from tests.support.backends import postgresql
from tests.support.client import Client
from tests.support.site import Site

ID = secrets.token_urlsafe()
TOKEN = secrets.token_urlsafe(180)
PASSWORD = 'what nobody "may" see'  # noqa: S105 - it protects nothing


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> leaks.Recorder:
    """A recorder of the test's own, which has seen a session cookie and a password."""
    recorder = leaks.Recorder()
    recorder.answered("GET /counter", [("Set-Cookie", f"session_id={ID}; Path=/; HttpOnly")], b"{}")
    recorder.cookie(f"__Host-session_id={secrets.token_urlsafe()}.{TOKEN}; Path=/")
    recorder.sent((), f"username=ada&password={quote(PASSWORD)}".encode())
    monkeypatch.setattr(leaks, "recorder", recorder)
    return recorder


LEAKS: dict[str, Callable[[leaks.Recorder], None]] = {
    "id in a body": lambda recorder: recorder.answered("GET /", [], f"<p>{ID}</p>".encode()),
    "id in a longer word": lambda recorder: recorder.wrote("log", f"session-{ID}-x"),
    "id in a header": lambda recorder: recorder.answered("GET /", [("Location", f"/?id={ID}")], b""),
    "beginning of an id": lambda recorder: recorder.wrote("log", f"session {ID[:8]} was new"),
    "token": lambda recorder: recorder.wrote("log", f"unreadable: {TOKEN}"),
    "part of a token": lambda recorder: recorder.wrote("log", f"unreadable: {TOKEN[:60]}..."),
    "password": lambda recorder: recorder.wrote("log", f"wrong: {PASSWORD}!"),
    "password in an address": lambda recorder: recorder.wrote("address", f"http://x/?a={quote(PASSWORD)}"),
    "password in markup": lambda recorder: recorder.wrote("page", '<i title="what nobody &quot;may&quot; see">'),
    "password in JSON": lambda recorder: recorder.wrote("page", '{"a": "what nobody \\"may\\" see"}'),
    "random password elsewhere": lambda recorder: [
        recorder.wrote("log", "Sign in as ada with the password r4nd0m-words"),  # type: ignore[func-returns-value]
        recorder.wrote("GET /", "r4nd0m-words"),  # type: ignore[func-returns-value]
    ],
}


@pytest.mark.parametrize("leak", LEAKS)
def test_the_search_finds(recorder: leaks.Recorder, leak: str) -> None:
    assert "\n".join(recorder.leaks()) == ""
    LEAKS[leak](recorder)
    assert len(recorder.leaks()) >= 1


def test_the_search_finds_an_id_that_was_written_before_it_was_known(recorder: leaks.Recorder) -> None:
    later = secrets.token_urlsafe()
    recorder.wrote("log", f"made {later}")
    recorder.cookie(f"session_id={later}")
    assert len(recorder.leaks()) == 2  # the id, and its beginning


def test_the_random_password_may_stand_on_the_console_and_on_the_sign_in_page(recorder: leaks.Recorder) -> None:
    recorder.wrote("log", "Sign in as ada with the password r4nd0m-words")
    recorder.wrote("GET /login", "<code>r4nd0m-words</code>")
    assert "\n".join(recorder.leaks()) == ""


def test_what_a_site_shows_and_logs_is_searched(recorder: leaks.Recorder) -> None:
    """A real leak, over a real site: somebody who gives their own id as their name."""
    with Site("ram") as site:
        visitor = Client(site.url)
        visitor.get("/counter")
        assert recorder.leaks() == []
        visitor.get(f"/name?first={visitor.cookies['session_id']}&last=x")
        visitor.get("/hello")
        found = "\n".join(recorder.leaks())
    assert "was written at b'GET /hello" in found, "the page"
    assert '"GET /name?first=' in found, "the address in the access log"


def test_the_statements_that_a_database_logs_are_searched_too() -> None:
    """They hold what sessions hold, but neither ids nor passwords."""
    dsn = postgresql().dsn
    logging = f"{dsn}{'&' if '?' in dsn else '?'}options=-c%20log_statement%3Dall"
    with Site("postgresql", env={"DATABASE_URL": logging, "DEMO_PASSWORD": secrets.token_urlsafe()}) as site:
        visitor = Client(site.url)
        visitor.get("/counter")
        assert visitor.post("/login", {"username": "ada", "password": site.env["DEMO_PASSWORD"]}).status == 303
    statements = postgresql().log()
    assert "INSERT INTO" in statements
    assert visitor.cookies["session_id"] not in statements
    leaks.recorder.wrote("database", statements)


def test_neither_a_password_nor_an_id_was_written_anywhere() -> None:
    """What the whole run wrote is searched when it ends: see `nothing_leaks` in conftest.py."""
    password = secrets.token_urlsafe()
    with Site("file", env={"DEMO_PASSWORD": password}) as site:
        visitor = Client(site.url)
        visitor.get("/counter")
        assert visitor.post("/login", {"username": "ada", "password": password}).status == 303
        visitor.get("/account")
    recorder = leaks.recorder
    assert visitor.cookies["session_id"] in recorder.ids and password in recorder.passwords
    assert {"log", "file", "GET /counter", "POST /login"} <= recorder.places
    assert "\n".join(recorder.leaks()) == ""
