"""The game of the experiment `expiry`: two browsers, two clocks, and what is found of each session."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http.cookies import SimpleCookie
from typing import Any

import cherrypy

import sessions
from lab.games import Labels, answered, exchange, here
from lab.visitor import Answer, Kept, Visitor
from sessions.record import Limits
from web import times

NAME = "lab_expiry"
PATH = "/lab/expiry"
LIMITS = Limits(30, 120)  # minutes
LIFETIME = 120 * 60.0  # seconds
CLOCKS = {"both": ("server", "browser"), "server": ("server",), "browser": ("browser",)}
BROWSERS = ("stays", "ends")
FARTHEST = 86400.0  # seconds; what begins tomorrow lies in the store until then, and no cleaner takes it before
HOUR = (600.0, 6)  # a busy one: seconds between two visits, and how many
SHOWN = 12  # of the last requests
HEADER = "Lab-Game"


@dataclass
class Browser:
    """A browser, and what is known of its session.

    Attributes:
        last: its newest cookie, also when it has lost it.
        line: the Set-Cookie that brought it.
        key: what the store knows the session by.
    """

    visitor: Visitor
    last: Kept | None = None
    line: str = ""
    key: str = ""


class Game:
    """Two browsers, two clocks, and what has happened.

    Attributes:
        ahead: seconds by which each clock is ahead of the time of day.
    """

    id = ""

    def __init__(self) -> None:
        self.ahead = {"server": 0.0, "browser": 0.0}
        self.browsers = {name: Browser(Visitor(here(), lambda: self.now("browser"))) for name in BROWSERS}
        self.labels = Labels()
        self.log: deque[dict[str, Any]] = deque(maxlen=SHOWN)

    def now(self, whose: str) -> float:
        """Epoch seconds of a clock."""
        return time.time() + self.ahead[whose]

    def move(self, clocks: tuple[str, ...], seconds: float) -> None:
        """Move clocks ahead. HTTPError 400 beyond a day."""
        if any(self.ahead[whose] + seconds > FARTHEST for whose in clocks):
            raise cherrypy.HTTPError(400, "A clock goes a day ahead at most. Start over, and it is right again.")
        for whose in clocks:
            self.ahead[whose] += seconds

    def begin(self) -> None:
        """End what there was, and begin a session in each browser."""
        self.forget()
        for name, browser in self.browsers.items():
            browser.visitor.jar.clear()
            self._ask(name, browser.visitor, "POST")

    def use(self) -> None:
        """Let each browser use its session."""
        for name, browser in self.browsers.items():
            self._ask(name, browser.visitor, "GET")

    def busy(self) -> None:
        """Let an hour pass in which both browsers come every ten minutes."""
        seconds, visits = HOUR
        for _ in range(visits):
            self.move(CLOCKS["both"], seconds)
            self.use()

    def close(self) -> None:
        """Close the browsers, and open them again."""
        for browser in self.browsers.values():
            browser.visitor.close_browser()

    def replay(self) -> None:
        """Send each cookie once more, whatever its browser did with it: what a thief does, or a browser that does not
        look at dates."""
        for name, browser in self.browsers.items():
            if browser.last:
                thief = Visitor(here())
                thief.jar[NAME] = Kept(browser.last.value, None)
                self._ask(name, thief, "GET")

    def _ask(self, name: str, visitor: Visitor, method: str) -> None:
        browser = self.browsers[name]
        own = visitor is browser.visitor
        before = self.record(browser)
        form = {} if method == "POST" else None
        answer = answered(visitor.ask(method, f"{PATH}/site/{name}", form, {HEADER: self.id}))
        if own and NAME in visitor.jar:
            self._keep(browser, visitor.jar[NAME], answer)
        after = self.record(browser)
        renewed = after.deadline - before.deadline if before and after and method == "GET" else None
        moment = times.iso(self.now("server"))
        self.log.append({**exchange(name, answer), "own": own, "at": moment, "renewed": renewed})

    def _keep(self, browser: Browser, kept: Kept, answer: Answer) -> None:
        browser.last = kept
        browser.line = next((line for line in answer.set_cookie if line.startswith(NAME + "=")), browser.line)
        browser.key = _key_of(kept)

    def record(self, browser: Browser) -> sessions.Record | None:
        """What the store has of a browser's session: under the cookie, while it keeps it; then under its key, unless
        the cookie is the store."""
        store = cherrypy.serving.session.store
        key = _key_of(browser.visitor.jar.get(NAME)) or (browser.key if store.capabilities.revokes else "")
        return store.load(key) if key else None

    def state(self) -> dict[str, Any]:
        """All that is found now, times in epoch seconds."""
        now = {whose: self.now(whose) for whose in self.ahead}
        return {
            "now": now,
            "browsers": {name: self._found(browser, now) for name, browser in self.browsers.items()},
            "log": list(self.log),
        }

    def _found(self, browser: Browser, now: dict[str, float]) -> dict[str, Any]:
        browser.visitor.cookie_header()  # by its clock, which has moved
        kept, record = browser.visitor.jar.get(NAME), self.record(browser)
        marks = [Mark("now", whose, moment) for whose, moment in now.items()]
        if record:
            end = record.created + LIFETIME
            marks += [Mark("begun", "server", record.created), Mark("idle limit", "server", record.deadline)]
            marks.append(Mark("absolute limit", "server", end))
        said = _said(browser.line)
        if kept and kept.until:
            marks.append(Mark("Max-Age is over", "browser", kept.until))
        if kept and said["expires_at"]:
            marks.append(Mark("Expires", "browser", said["expires_at"]))
        return {
            "cookie": {"reference": kept.reference, "until": kept.until} if kept else None,
            "record": {"created": record.created, "deadline": record.deadline, "end": record.created + LIFETIME,
                       "alive": not LIMITS.expired(record, now["server"])} if record else None,
            "said": said,
            "marks": _on_a_line(marks, now),
        }  # fmt: skip

    def forget(self) -> None:
        """Remove what is in the store: nobody cleans here."""
        for browser in self.browsers.values():
            if browser.key:
                cherrypy.serving.session.store.delete(browser.key)


def _key_of(kept: Kept | None) -> str:
    """Return the key of a cookie; empty where it is none."""
    found = cherrypy.serving.session.store.find(kept.value) if kept else None
    return found[1] if found else ""


@dataclass(frozen=True)
class Mark:
    """A moment on the time line: whose clock reaches it, and when."""

    name: str
    clock: str
    at: float


def _on_a_line(marks: list[Mark], now: dict[str, float]) -> list[dict[str, Any]]:
    """The marks in their order, each with its place from 0 to 1000, and how far it is by the clock that counts."""
    first = min(mark.at for mark in marks)
    span = max(max(mark.at for mark in marks) - first, 60.0)
    return [
        {"name": mark.name, "clock": mark.clock, "at": mark.at, "x": round((mark.at - first) / span * 1000),
         "away": away(mark.at - now[mark.clock])}
        for mark in sorted(marks, key=lambda mark: mark.at)
    ]  # fmt: skip


def _said(line: str) -> dict[str, Any]:
    """What a Set-Cookie says of the end: Max-Age in seconds, Expires as it stands and in epoch seconds."""
    morsel = next(iter(SimpleCookie(line).values()), None)
    age, expires = (morsel["max-age"], morsel["expires"]) if morsel else ("", "")
    return {
        "max_age": int(age) if age else None,
        "expires": expires or None,
        "expires_at": parsedate_to_datetime(expires).timestamp() if expires else None,
    }


def away(seconds: float) -> str:
    """How far a moment is: "in 12 minutes", "40 seconds ago", "now"."""
    if abs(seconds) < 1:
        return "now"
    return f"in {length(seconds)}" if seconds > 0 else f"{length(seconds)} ago"


def length(seconds: float) -> str:
    """How long it is, to the minute, for limits that a minute decides: "40 seconds", "117 minutes", "12 h 5 min"."""
    distance = abs(seconds)
    minutes = round(distance / 60)
    if distance >= 3 * 3600:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{round(distance)} seconds" if distance < 90 else f"{minutes} minutes"
