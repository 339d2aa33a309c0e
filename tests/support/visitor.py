"""A visitor: an HTTP client with a cookie jar, over a new connection each time."""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import itertools
import json
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import urlencode, urlsplit

from tests.support import leaks

_addresses = itertools.count(int(ipaddress.IPv4Address("127.1.0.1")))


def new_address() -> str:
    """Return a loopback address that nobody in this run came from: who guesses passwords slows down only himself."""
    return str(ipaddress.IPv4Address(next(_addresses)))


@dataclass
class Answer:
    """What came back. `headers` has lower-case names; `cookies` the Set-Cookie lines as morsels by name."""

    status: int
    headers: dict[str, str]
    set_cookie: list[str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def cookies(self) -> SimpleCookie:
        jar: SimpleCookie = SimpleCookie()
        for line in self.set_cookie:
            with contextlib.suppress(CookieError):  # a name such as <b>, which http.cookies has no place for
                jar.load(line)
        return jar


@dataclass
class Visitor:
    """Somebody with a browser of their own.

    Args:
        url: the site, without a slash at the end.
        cookies: what the browser sends; changed by what it is told.
        headers: sent with each request.
        address: where it comes from, if not 127.0.0.1: another one of this machine, such as 127.0.0.2.
    """

    url: str
    cookies: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    address: str = ""

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, None, headers)

    def post(self, path: str, form: dict[str, str] | None = None, **headers: str) -> Answer:
        body = urlencode(form or {})
        return self.ask("POST", path, body, {"Content-Type": "application/x-www-form-urlencoded", **headers})

    def ask(self, method: str, path: str, body: str | None, headers: dict[str, str]) -> Answer:
        place = urlsplit(self.url)
        source = (self.address, 0) if self.address else None
        connection = http.client.HTTPConnection(place.hostname or "", place.port, 60, source)
        sent = {**self.headers, **headers}
        if self.cookies and "Cookie" not in sent:
            sent["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        leaks.spool.sent(sent, body)
        try:
            connection.request(method, path, body, sent)
            got = connection.getresponse()
            lines = got.headers.get_all("Set-Cookie") or []
            answer = Answer(got.status, {k.lower(): v for k, v in got.getheaders()}, lines, got.read())
        finally:
            connection.close()
        leaks.spool.answered(f"{method} {path}", got.getheaders(), answer.body)
        for name, morsel in answer.cookies.items():
            if morsel["max-age"] == "0":
                self.cookies.pop(name, None)
            else:
                self.cookies[name] = morsel.coded_value
        return answer

    def twin(self) -> Visitor:
        """Another visitor who has got hold of the same cookies."""
        return Visitor(self.url, dict(self.cookies), dict(self.headers), self.address)
