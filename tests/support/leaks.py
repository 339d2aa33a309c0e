"""Whether a password or the id of a session came out anywhere: what the tests wrote, and a search through all of it.

Whoever talks to a site in a test tells the recorder what came back, and apart from that each secret it saw: the session
cookies in Set-Cookie, the passwords it sent. Each Site adds what it printed, logged and stored. The last test of the
run (tests/web/test_leaks.py) searches all of it, since an id may be logged long after the answer that set it.
"""

from __future__ import annotations

import html
import json
import logging
import re
import threading
from collections.abc import Iterable, Iterator
from typing import Protocol
from urllib.parse import parse_qs, quote, quote_plus, urlsplit

MOST = 1 << 28  # bytes in memory; a part of the run takes about a tenth of it
SHORTEST = 10  # characters of a password that is looked for: "wrong" is a word that any page may use
BEGINNING = 8  # characters of an id that would be one too many: a reference has as many, and is taken from the hash
PASSWORD_FIELDS = ("password", "current", "new", "again")
CONSOLE = re.compile(rb"^Sign in as ada with the password (\S{10,})\s*$", re.M)

_ID = 43
_LETTERS = 18  # different ones, which a random id has at least: made-up ids and parts of a hash have fewer
_SESSION = re.compile(r"(?:^|[;\s])(?:__Host-)?(?:session|named)_id=\"?([\w-]{43})(?:\.([\w-]{100,}))?(?![\w-])", re.A)
_RUN = re.compile(rb"[A-Za-z0-9_-]{8,}")


class Source(Protocol):
    """Something that still writes: a site that runs."""

    def told(self) -> Iterable[tuple[str, bytes]]:
        """Return what it has written so far, as pairs of a place and a text."""


class Recorder:
    """What was written, each line of a place once, and the secrets.

    It is kept in memory: a file would fail in the tests of a full disk, which limit how large a file may grow.

    Attributes:
        ids: pieces of session cookies, 43 characters each.
        beginnings: how the ids begin that a site made.
        passwords: what was typed as a password.
        announced: the random passwords of demo accounts, which the console and the sign-in page may show.
        places: where something was written.
    """

    def __init__(self) -> None:
        self.ids: set[str] = set()
        self.beginnings: set[str] = set()
        self.passwords: set[str] = set()
        self.announced: set[str] = set()
        self.places: set[str] = set()
        self.sources: list[Source] = []
        self._text = bytearray()
        self._lines: set[int] = set()
        self._mutex = threading.Lock()

    def wrote(self, place: str, text: bytes | str) -> None:
        """Keep a text that came out at a place: "GET /counter", "log"."""
        found = text.encode() if isinstance(text, str) else text
        for password in CONSOLE.findall(found) if place == "log" else ():
            self.announced.add(password.decode())
        with self._mutex:
            self.places.add(place)
            for line in found.splitlines():
                number = hash((place, line))
                if line and number not in self._lines:
                    self._lines.add(number)
                    self._text += b"%b\t%b\n" % (place.encode(), line)
            if len(self._text) > MOST:
                raise AssertionError(f"the tests wrote more than {MOST} bytes: raise MOST, or show less")

    def answered(self, request: str, headers: Iterable[tuple[str, str]], body: bytes) -> None:
        """Keep an answer to a request such as "GET /counter?a=b", and note the session cookies that it sets."""
        method, _, address = request.partition(" ")
        place = f"{method} {urlsplit(address).path[:40]}" if address.startswith("/") else method
        shown = []
        for name, value in headers:
            if name.lower() == "set-cookie":
                self.cookie(value)
            else:
                shown.append(f"{name}: {value}")
        self.wrote(place, "\n".join(shown).encode("utf-8", "surrogateescape"))
        self.wrote(place, body)

    def cookie(self, line: str) -> None:
        """Note the session cookie in a Set-Cookie, or in NAME=VALUE."""
        for id, token in _SESSION.findall(line):
            if len(set(id)) >= _LETTERS:  # not one that a test made up, which other tests may send in an address
                self.beginnings.add(id[:BEGINNING])
                self.ids.add(id)
                self._add_token(token)

    def sent(self, headers: Iterable[tuple[str, str]], body: bytes | None) -> None:
        """Note the secrets in a request: no page and no log may repeat an id that somebody presents, known or not."""
        for name, value in headers:
            for id, token in _SESSION.findall(value) if name.lower() == "cookie" else ():
                if len(set(id)) >= _LETTERS:
                    self.ids.add(id)
                    self._add_token(token)
        text = (body or b"").decode("latin-1")
        if any(f"{field}=" in text for field in PASSWORD_FIELDS):
            fields = parse_qs(text)
            others = {value for name, values in fields.items() if name not in PASSWORD_FIELDS for value in values}
            for field in PASSWORD_FIELDS:
                for value in fields.get(field, []):
                    if value not in others:  # what was also typed as a name is shown as a name
                        self.password(value)

    def password(self, text: str) -> None:
        """Note a password."""
        longest = max(text.splitlines(), key=len, default="")  # what was written is kept by lines
        if len(longest) >= SHORTEST and len(set(longest)) > 1:  # not the guess that is one letter 5000 times
            self.passwords.add(longest)

    def leaks(self) -> list[str]:
        """Return a sentence for each secret that was written somewhere."""
        for source in self.sources:
            for place, text in source.told():
                self.wrote(place, text)
        everything = bytes(self._text)
        runs = set(_RUN.findall(everything))
        found = [*self._ids_in(runs), *self._passwords()]
        return [
            f"{secret!r} was written at {line[:300]!r}"
            for secret in found
            for line in _lines_with(everything, secret)
            if not self._allowed(secret, line)
        ]

    def _add_token(self, token: str) -> None:
        """Note a token of the cookie profile. Its beginning names the secret; the piece after it and its end are
        random."""
        if token:
            self.ids |= {piece for piece in (token[12 : 12 + _ID], token[-_ID:]) if len(set(piece)) >= _LETTERS}

    def _ids_in(self, runs: set[bytes]) -> Iterator[bytes]:
        ids = {id.encode() for id in self.ids}
        beginnings = {beginning.encode() for beginning in self.beginnings}
        for run in runs:
            for at in range(len(run) - BEGINNING + 1):
                if run[at : at + BEGINNING] in beginnings:
                    yield run[at : at + BEGINNING]
                if run[at : at + _ID] in ids:
                    yield run[at : at + _ID]

    def _passwords(self) -> Iterator[bytes]:
        for plain in self.passwords | self.announced:
            coded = {plain, quote(plain), quote_plus(plain), html.escape(plain), json.dumps(plain)[1:-1]}
            yield from (form.encode() for form in coded)

    def _allowed(self, secret: bytes, line: bytes) -> bool:
        """The random password of a development site: on its console, in that line, and on its sign-in page."""
        if secret.decode() not in self.announced:
            return False
        place, _, text = line.partition(b"\t")
        console = place == b"log" and CONSOLE.fullmatch(text.strip())
        return bool(console) or place in (b"GET /login", b"POST /login")


def _lines_with(everything: bytes, secret: bytes) -> Iterator[bytes]:
    at = everything.find(secret)
    while at >= 0:
        start, end = everything.rfind(b"\n", 0, at) + 1, everything.find(b"\n", at)
        yield everything[start:end]
        at = everything.find(secret, end)


class Keep(logging.Handler):
    """Keeps what the process of the tests logs."""

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the line, and the traceback if there is one."""
        recorder.wrote("log", self.format(record))


recorder = Recorder()
