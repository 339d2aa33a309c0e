"""A visitor who looks over every answer for what no answer may hold, whatever the test is about."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Mapping
from contextlib import closing
from html.parser import HTMLParser
from http.client import HTTPConnection
from urllib.parse import urlencode, urlsplit

from tests.support import leaks
from tests.support.site import ROOT, START_SECONDS
from tests.support.visitor import Answer, Visitor, new_address

JSON = {"Accept": "application/json"}
SECURITY = {
    "server": "CherryPy",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "content-security-policy": (
        "default-src 'self'; object-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "strict-transport-security": None,  # on https only
}
_ID = re.compile(r"(?<![\w-])[\w-]{43}(?![\w-])", re.A)
INTERNAL = (b"Traceback", b"Powered by", b"<module", str(ROOT).encode())


class Witness(Visitor):
    """A Visitor whose every answer is examined.

    Raises AssertionError for an answer without the security headers, with something internal in it, or with the id of
    any session that anybody in this test run has seen; Set-Cookie is the one place where an id belongs.
    """

    def ask(self, method: str, path: str, body: str | None, headers: dict[str, str]) -> Answer:
        """Send one request, and return the answer when nothing is wrong with it."""
        answer = super().ask(method, path, body, headers)
        examine(answer, f"{method} {path[:200]}")
        return answer

    def twin(self) -> Witness:
        """Another visitor who has got hold of the same cookies."""
        return Witness(self.url, dict(self.cookies), dict(self.headers), self.address)

    def count(self) -> int:
        """Visit the counter and return the count."""
        answer = self.get("/counter", **JSON)
        assert answer.status == 200, answer.text
        return int(answer.json["count"])

    def sign_in(self, password: str, **form: str) -> Answer:
        """Send the login form as ada."""
        return self.post("/login", {"username": "ada", "password": password, **form})

    def user(self) -> str | None:
        """Return who is signed in here."""
        return self.get("/login", **JSON).json["user"]


def examine(answer: Answer, request: str) -> None:
    """Raise AssertionError for what no answer may lack or hold."""
    for name, value in SECURITY.items():
        assert answer.headers.get(name) == value, f"{request}: {name}: {answer.headers.get(name)}"
    public = {name: value for name, value in answer.headers.items() if name != "set-cookie"}
    shown = answer.body + json.dumps(public).encode()
    for word in INTERNAL:
        assert word not in shown, f"{request} shows {word!r}"
    ids = leaks.spool.ids.intersection(_ID.findall(shown.decode("utf-8", "replace")))
    assert not ids, f"{request} shows the id of a session"


def post_without_jar(
    url: str, path: str, form: Mapping[str, str], headers: Mapping[str, str] | None = None
) -> Answer:
    """Send a form and return the answer, examined as a Witness does.

    For a Set-Cookie that http.cookies, and so the jar of a Visitor, refuses to read. Each comes from another address.
    """
    parts = urlsplit(url)
    source = (new_address(), 0)
    with closing(HTTPConnection(str(parts.hostname), parts.port, START_SECONDS, source)) as connection:
        sent = {"Content-Type": "application/x-www-form-urlencoded", **(headers or {})}
        leaks.spool.sent(sent, urlencode(form))
        connection.request("POST", path, urlencode(form), sent)
        got = connection.getresponse()
        lines = got.headers.get_all("Set-Cookie") or []
        answer = Answer(got.status, {name.lower(): value for name, value in got.getheaders()}, lines, got.read())
    leaks.spool.answered(f"POST {path}", got.getheaders(), answer.body)
    examine(answer, f"POST {path}")
    return answer


def place(answer: Answer, url: str) -> str:
    """Return where a redirect leads within the site; AssertionError when it leaves the site or is none."""
    assert answer.status == 303, (answer.status, answer.text)
    target, own = urlsplit(answer.headers["location"]), urlsplit(url)
    assert (target.scheme, target.netloc) == (own.scheme, own.netloc), answer.headers["location"]
    return target.path + (f"?{target.query}" if target.query else "")


def send_raw(url: str, request: bytes) -> tuple[int, bytes]:
    """Send bytes that no client library would, end the input, and return the status and all that came back."""
    parts = urlsplit(url)
    with closing(socket.create_connection((parts.hostname, parts.port), timeout=START_SECONDS)) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    fields = [line.partition(": ")[::2] for line in head.decode("latin-1").split("\r\n")[1:]]
    leaks.spool.answered("raw", fields, body)
    status = re.match(rb"HTTP/1\.[01] (\d{3}) ", answer)
    assert status, answer[:200]
    return int(status[1]), answer


class Page(HTMLParser):
    """A page as a browser understands it: its tags with their attributes, and its text."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note the tag."""
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        """Note the text."""
        self.text += data

    def values(self, tag: str, attribute: str) -> list[str]:
        """Return this attribute of all such tags."""
        return [attrs[attribute] or "" for name, attrs in self.tags if name == tag and attribute in attrs]
