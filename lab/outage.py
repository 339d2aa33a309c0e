"""Experiment: the server that keeps the sessions hangs for some seconds, while a visitor goes on asking."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from http.client import HTTPException
from typing import Any

import cherrypy

from lab.games import here
from lab.listening import NotOurs, servers_at
from lab.pause import PauseError, paused
from lab.turn import own_turn
from lab.visitor import Kept, Visitor
from sessions.registry import registry
from web import rendering

SECONDS = (2, 4, 6)  # for which the server may be stopped
EVERY = 0.2  # seconds from one request to the next
BEFORE, AFTER = 3, 6  # requests before the outage and after it
MOST = 8  # requests under way at once; the site has ten threads (server.thread_pool), and one is busy with this
SERVER_TIMEOUT = 0.5  # seconds for the server to answer: with the usual three, an outage of two would only delay
PATH = "/lab/outage/count"


@dataclass(frozen=True)
class Shot:
    """One request and what became of it.

    Attributes:
        at, seconds: when it was sent, counted from the first, and how long its answer took.
        count: what the page counted; None for an answer without.
        retry_after: seconds after which the visitor is to come again; None if nothing was said.
        cookie_kept: whether the answer left the cookie alone.
    """

    at: float
    seconds: float
    status: int
    count: int | None
    retry_after: str | None
    cookie_kept: bool


class Failed(RuntimeError):
    """The experiment came to no end; the message says why."""


class Outage:
    """GET /lab/outage explains; POST stops the servers of the sessions for some seconds.

    Its counter is in a session of its own, under a cookie of its own, in a store that is as impatient as it says.
    """

    experiment = rendering.Lesson(
        "/lab/outage", "An outage", "The store of the sessions hangs. What does a visitor see?"
    )
    _cp_config = {
        "tools.sessions.name": "lab_outage",
        "tools.sessions.timeout": 1,  # minute; until then whoever wants may look into the store
        "tools.sessions.server_timeout": SERVER_TIMEOUT,
        "tools.sessions.lock_timeout": SERVER_TIMEOUT,  # those who wait for the one that waits for the server
        "tools.sessions.snapshot_path": None,  # one file cannot serve two stores, and nobody misses this session
    }

    def __init__(self) -> None:
        self._ending = threading.Event()
        cherrypy.engine.subscribe("stop", self._ending.set, priority=5)  # before the stores are closed

    @cherrypy.expose
    @cherrypy.tools.allow(methods=["GET", "POST"])
    def index(self, seconds: object = "") -> bytes:
        """Show the form, and what came of the outage if it was sent."""
        if cherrypy.request.method != "POST":
            return self._show({}, obstacle())
        wanted = rendering.text_field("seconds", seconds)
        if wanted not in map(str, SECONDS):
            raise cherrypy.HTTPError(400, f"Choose one of {', '.join(map(str, SECONDS))} seconds.")
        with own_turn():
            try:
                return self._show(self._cause(find_servers(), int(wanted)), "")
            except NotOurs as error:
                raise cherrypy.HTTPError(409, str(error)) from error
            except (PauseError, Failed) as error:
                raise cherrypy.HTTPError(503, str(error)) from error
            except (OSError, HTTPException) as error:
                raise cherrypy.HTTPError(503, "This site did not answer itself. Please try again.") from error

    @cherrypy.expose
    @cherrypy.tools.allow(methods=["POST"])
    def count(self) -> bytes:
        """Count, as /counter does."""
        count = cherrypy.session["count"] = cherrypy.session.get("count", 0) + 1
        rendering.no_store()
        return rendering.as_json({"count": count})

    def _show(self, result: dict[str, Any], obstacle: str) -> bytes:
        rendering.no_store()
        shots = result.get("shots", [])
        return rendering.render(
            "outage.html", {**result, "obstacle": obstacle}, experiment=self.experiment, result=result,
            choices=SECONDS, server_timeout=SERVER_TIMEOUT,
            polite=all(shot["cookie_kept"] and shot["retry_after"] for shot in shots if shot["status"] == 503),
        )  # fmt: skip

    def _cause(self, pids: list[int], seconds: int) -> dict[str, Any]:
        """Cause the outage, and tell what a visitor saw."""
        url = here()
        visitor = Visitor(url)
        first = visitor.ask("POST", PATH)
        if first.status != 200:
            raise Failed(f"The store does not answer even now: {PATH} is answered with {first.status}.")
        shots = Shots(url, visitor.jar, self._ending)
        with ThreadPoolExecutor(MOST) as pool:
            shots.fire(pool, BEFORE)
            shots.wait()  # what was under way when the server stops might be counted without an answer
            with paused(pids, seconds):
                stopped = shots.now()
                shots.fire(pool, round(seconds / EVERY))
                went_on = shots.now()
            shots.fire(pool, AFTER)
            found = shots.wait()
        last = visitor.ask("POST", PATH)
        answered = sum(shot.status == 200 for shot in found)
        return {
            "seconds": seconds,
            "stopped": stopped,
            "went_on": went_on,
            "before": first.told["count"],
            "answered": answered,
            "refused": len(found) - answered,
            "expected": first.told["count"] + answered + 1,
            "count": last.told.get("count"),
            "shots": [{**asdict(shot), "end": shot.at + shot.seconds} for shot in found],
        }


class Shots:
    """The requests of a visitor who does not wait for an answer before the next one.

    Args:
        url: of this site.
        jar: the cookies that they carry.
        ending: set when the site is about to stop.
    """

    def __init__(self, url: str, jar: Mapping[str, Kept], ending: threading.Event) -> None:
        self._url, self._jar, self._ending = url, jar, ending
        self._began = time.monotonic()
        self._shots: list[Future[Shot]] = []

    def now(self) -> float:
        """Seconds since the first request."""
        return time.monotonic() - self._began

    def fire(self, pool: ThreadPoolExecutor, number: int) -> None:
        """Send that many requests, one every EVERY seconds. Raises Failed."""
        for _ in range(number):
            self._shots.append(pool.submit(self._shoot))
            if self._ending.wait(EVERY):
                raise Failed("This site is about to stop.")

    def wait(self) -> list[Shot]:
        """All of them, when all have their answers."""
        return [shot.result() for shot in self._shots]

    def _shoot(self) -> Shot:
        visitor = Visitor(self._url)
        visitor.jar = dict(self._jar)
        at = self.now()
        answer = visitor.ask("POST", PATH)
        retry = next((value for name, value in answer.headers.items() if name.lower() == "retry-after"), None)
        return Shot(at, answer.seconds, answer.status, answer.told.get("count"), retry, not answer.set_cookie)


def find_servers() -> list[int]:
    """The processes of the servers that keep the sessions here.

    Raises:
        NotOurs: there are none, or not all may be stopped.
    """
    stores = registry.stores(cherrypy.request.app)
    found = list(dict.fromkeys(address for store in stores for address in store.addresses))
    if not found:
        raise NotOurs("The profile that is running keeps its sessions in no server that could be stopped.")
    return [pid for address in found for pid in servers_at(address)]


def obstacle() -> str:
    """Why the experiment cannot be done here; empty if it can."""
    try:
        find_servers()
    except NotOurs as error:
        return str(error)
    return ""
