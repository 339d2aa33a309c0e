"""Experiment: a slow page has loaded the session when its visitor signs out elsewhere. Then it saves.

The same pages, below, are there twice: /ours with the sessions of this site, /theirs with CherryPy's own class. The
laboratory sends visitors of its own through them. Each has a cookie jar; the session of whoever looks on is in none.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import cherrypy
from cherrypy.lib.sessions import RamSession

import sessions
from lab.games import Games, answered, here
from lab.steps import follow
from lab.visitor import Answer, Visitor
from web import rendering

WHO = "Grace"
PATIENCE = 5.0  # seconds that one request waits for the other at most
OUTCOMES = ("dead", "alive")

# Explicit locking, so that nobody waits: with a lock in hand the slow page would be asked to finish first.
OURS = {"tools.sessions.locking": "explicit"}


class CherryPySession(RamSession):
    """CherryPy's own class as it comes with it. Named itself, it would be answered by the one of this package."""


# It has a cookie of its own: it would put a new id over any that it does not know.
THEIRS = {
    "tools.sessions.storage_class": CherryPySession,
    "tools.sessions.name": "lab_logout",
    "tools.sessions.locking": "explicit",
    "tools.sessions.clean_freq": 0,  # no thread: what is stored is removed when the play is over
}


@dataclass
class Play:
    """What the two requests of one play wait for, and what happened to their session meanwhile."""

    loaded: threading.Event = field(default_factory=threading.Event)
    left: threading.Event = field(default_factory=threading.Event)
    events: list[sessions.Event] = field(default_factory=list)

    def note(self, event: sessions.Event) -> None:
        """A step of its session; told by `follow`."""
        self.events.append(event)

    def drain(self) -> list[str]:
        """What was noted since this was last asked, in the words of `sessions.events`."""
        noted, self.events = self.events, []
        told = ("loaded", "unknown", "deleted", "saved", "unsaved", "lost")
        reasons = ((event.name, event.details.get("why") or event.details.get("how")) for event in noted)
        return [f"{name}: {why}" if why else name for name, why in reasons if name in told]


class Room:
    """The pages. Each belongs to a play that is under way: `play` is its id.

    Args:
        plays: those under way.
        config: the options of the session tool.
    """

    def __init__(self, plays: dict[str, Play], config: dict[str, Any]) -> None:
        self._plays, self._cp_config = plays, config

    def _play(self, id: object) -> Play:
        play = self._plays.get(str(id))
        if play is None:
            raise cherrypy.HTTPError(404, "There is no such play under way.")
        follow(play.note)
        return play

    @cherrypy.expose
    @cherrypy.tools.allow(methods=["POST"])
    def enter(self, play: object = "") -> bytes:
        """Begin a session."""
        self._play(play)
        cherrypy.session["who"] = WHO
        return rendering.as_json({"who": WHO})

    @cherrypy.expose
    @cherrypy.tools.allow(methods=["POST"])
    def slow(self, play: object = "") -> bytes:
        """Load the session, work until the visitor has signed out, and write to the session."""
        this = self._play(play)
        who = cherrypy.session.get("who")
        this.loaded.set()
        this.left.wait(PATIENCE)
        cherrypy.session["worked"] = True
        return rendering.as_json({"who": who})

    @cherrypy.expose
    @cherrypy.tools.allow(methods=["POST"])
    def leave(self, play: object = "") -> bytes:
        """Sign out."""
        self._play(play)
        sessions.expire()
        return rendering.as_json({"who": None})

    @cherrypy.expose
    @cherrypy.tools.allow(methods=["GET"])
    def who(self, play: object = "") -> bytes:
        """Say whose session the cookie opens."""
        self._play(play)
        return rendering.as_json({"who": cherrypy.session.get("who")})


@dataclass
class Step:
    """One step.

    Attributes:
        at: when it was over, in milliseconds since the beginning.
        who: for whom the answer was.
        cookie: what the answer did to it: 'set', 'expired' or ''.
        events: what the package told of the session.
    """

    name: str
    at: float
    status: int | None = None
    who: str | None = None
    cookie: str = ""
    events: list[str] = field(default_factory=list)


def walk(path: str, id: str, play: Play) -> list[Step]:
    """Play it in the room below `path`, and return what happened.

    Raises:
        OSError, http.client.HTTPException: a request did not come through.
    """
    began = time.perf_counter()
    steps: list[Step] = []

    def note(name: str, visitor: Visitor, answer: Answer | None) -> None:
        step = Step(name, round((time.perf_counter() - began) * 1000, 2), events=play.drain())
        if answer is not None:
            step.status, step.who = answered(answer).status, answer.told.get("who")
            step.cookie = ("set" if visitor.jar else "expired") if answer.set_cookie else ""
        steps.append(step)

    browser = Visitor(here())
    note("enter", browser, browser.ask("POST", f"{path}/enter", {"play": id}))
    copy = Visitor(here())
    copy.jar = dict(browser.jar)
    with ThreadPoolExecutor(1) as pool:
        slow: Future[Answer] = pool.submit(browser.ask, "POST", f"{path}/slow", {"play": id})
        try:
            if not play.loaded.wait(PATIENCE):
                raise TimeoutError("the slow request has not come")
            note("load", browser, None)
            note("leave", browser, browser.ask("POST", f"{path}/leave", {"play": id}))
            again = Visitor(here())
            again.jar = dict(copy.jar)
            note("between", again, again.ask("GET", f"{path}/who?play={id}"))
        finally:
            play.left.set()
        note("save", browser, slow.result())
    note("browser", browser, browser.ask("GET", f"{path}/who?play={id}"))
    note("copy", copy, copy.ask("GET", f"{path}/who?play={id}"))
    for visitor in (browser, again, copy):  # leave nothing behind
        visitor.ask("POST", f"{path}/leave", {"play": id})
    return steps


class LogoutRace:
    """GET /lab/logout-race explains, and shows the result of ?run=ID."""

    experiment = rendering.Lesson(
        "/lab/logout-race", "Signed out?", "A slow page saves a session that has just been ended."
    )

    def __init__(self) -> None:
        self._plays: dict[str, Play] = {}
        self._results: Games[dict[str, Any]] = Games()
        self.ours = Room(self._plays, OURS)
        self.theirs = Room(self._plays, THEIRS)

    @cherrypy.expose
    @cherrypy.tools.allow(methods=["GET"])
    def index(self, run: object = "") -> bytes:
        """Show the form, and the result of a play."""
        result = self._results.find(rendering.text_field("run", run)) if run else {}
        rendering.no_store()
        return rendering.render("logout_race.html", result, experiment=self.experiment, result=result, who=WHO)

    @cherrypy.expose
    @cherrypy.tools.allow(methods=["POST"])
    def play(self, ours: object = "", theirs: object = "") -> None:
        """Play it in both rooms; `ours` and `theirs` are what the visitor expects of the old cookie."""
        for name, value in (("ours", ours), ("theirs", theirs)):
            if value not in OUTCOMES:
                raise cherrypy.HTTPError(400, f"The field '{name}' must be one of: {', '.join(OUTCOMES)}.")
        result: dict[str, Any] = {"predicted": {"ours": ours, "theirs": theirs}}
        with self._results.turn():  # one at a time: each takes threads that wait for others
            for room in ("ours", "theirs"):
                with self._new_play() as (id, play):
                    steps = walk(f"/lab/logout-race/{room}", id, play)
                result[room] = {"outcome": OUTCOMES[steps[-1].who == WHO], "steps": [asdict(step) for step in steps]}
            result["run"] = self._results.add(result)
        rendering.redirect(f"/lab/logout-race?run={result['run']}#outcome")

    @contextmanager
    def _new_play(self) -> Iterator[tuple[str, Play]]:
        """Open the rooms to whoever knows the id, for one play."""
        id, play = secrets.token_urlsafe(8), Play()
        self._plays[id] = play
        try:
            yield id, play
        finally:
            del self._plays[id]
