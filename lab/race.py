"""Experiment: requests of one visitor race for one counter, and lose updates or do not, by the way in which they lock.

The browser sends them: POST begin, then all hits at once, then POST finish. Without scripts POST fire does all three,
and the requests are as real. The counter is in the visitor's own session, under a key of its own.
"""

from __future__ import annotations

import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from typing import Any

import cherrypy

from lab.games import Games, answered, here
from lab.race_modes import KEY, MODES, THINKING, Mode
from lab.race_run import Run
from lab.steps import follow
from lab.visitor import Kept, Visitor
from sessions.tool import cookie_name
from web import rendering

FEWEST, MOST = 2, 20  # requests
PATIENCE = 5.0  # seconds that a race may still take when its last answer has come


class HitPage:
    """POST /lab/race/hit/MODE?run=ID&number=N: one request of a race."""

    def __init__(self, name: str, mode: Mode, runs: Games[Run]) -> None:
        self._name, self._mode, self._runs = name, mode, runs
        self._cp_config = {"tools.sessions.locking": mode.locking}

    @cherrypy.expose
    @cherrypy.tools.allow(methods=["POST"])
    def index(self, run: object = "", number: object = "") -> bytes:
        """Read, think, write."""
        found = self._runs.find(rendering.text_field("run", run))
        if found.mode != self._name:
            raise cherrypy.HTTPError(400, f"This race is run with the mode '{found.mode}'.")
        hit = found.begin(whole("number", number, 1, found.requests))
        cherrypy.serving.request.race_hit = hit
        follow(hit.note, lambda: found.end(hit))
        self._mode.work()
        rendering.no_store()
        return rendering.as_json({"read": hit.read, "wrote": hit.wrote})


class Hits:
    """Has a page for each mode: locking is an option of a path."""

    def __init__(self, runs: Games[Run]) -> None:
        for name, mode in MODES.items():
            setattr(self, name, HitPage(name, mode, runs))


class Race:
    """GET /lab/race explains, and shows the result of ?run=ID."""

    experiment = rendering.Lesson(
        "/lab/race", "A race", "Requests at once, one counter, five ways to lock. Who is lost?"
    )

    def __init__(self) -> None:
        self._runs: Games[Run] = Games()
        self.hit = Hits(self._runs)

    @cherrypy.expose
    @cherrypy.tools.allow(methods=["GET"])
    def index(self, run: object = "") -> bytes:
        """Show the form, and the result of a race."""
        result = self._runs.find(rendering.text_field("run", run)).told() if run else {}
        chosen = {"mode": result.get("mode", "none"), "requests": result.get("requests", 6)}
        rendering.no_store()
        return rendering.render(
            "race.html", result, experiment=self.experiment, modes=MODES, chosen=chosen, fewest=FEWEST, most=MOST,
            thinking=round(THINKING * 1000), result=result, ticks=ticks(result.get("milliseconds", 0)),
        )  # fmt: skip

    @cherrypy.expose
    @cherrypy.tools.allow(methods=["POST"])
    def begin(self, mode: object = "", requests: object = "", predicted: object = "") -> bytes:
        """Set the counter to 0 for a race that the browser runs."""
        run = self._add(new_run("browser", mode, requests, predicted))
        cherrypy.session[KEY] = 0
        return rendering.as_json(
            {"run": run.id, "requests": run.requests, "hit": rendering.url(f"/lab/race/hit/{run.mode}")}
        )

    @cherrypy.expose
    @cherrypy.tools.allow(methods=["POST"])
    def finish(self, run: object = "", outside: object = "") -> bytes:
        """Look at the counter when all requests are back. `outside` is how long each of them waited in the browser, in
        milliseconds, separated by commas, in the order of their numbers."""
        found = self._runs.find(rendering.text_field("run", run))
        times = milliseconds("outside", outside, found.requests)
        found.wait(PATIENCE)
        for number, waited in enumerate(times, 1):
            if number in found.hits:
                found.hits[number].outside = waited / 1000
        found.count = int(cherrypy.session.get(KEY, 0))
        return rendering.as_json(found.told())

    @cherrypy.expose
    @cherrypy.tools.allow(methods=["POST"])
    def fire(self, mode: object = "", requests: object = "", predicted: object = "") -> None:
        """Run a race from here, for a browser without scripts."""
        run = new_run("server", mode, requests, predicted)
        with self._runs.turn():  # one at a time: each takes a thread that waits for others
            self._add(run)
            cherrypy.session[KEY] = 0
            cherrypy.session.release_lock()  # saved: from here on it is the session of whoever has its cookie
            visitor = Visitor(here())
            visitor.jar = fire_all(run, {cookie_name(): Kept(cherrypy.session.cookie_value, None)})
            run.wait(PATIENCE)
            # Asked with the cookie of the last answer: where the cookie is the session, this request has an older one.
            run.count = int(answered(visitor.ask("GET", "/lab/race/count")).told["count"])
        rendering.redirect(f"/lab/race?run={run.id}#outcome")

    @cherrypy.expose
    @cherrypy.tools.allow(methods=["GET"])
    def count(self) -> bytes:
        """Tell the counter."""
        rendering.no_store()
        return rendering.as_json({"count": int(cherrypy.session.get(KEY, 0))})

    def _add(self, run: Run) -> Run:
        run.id = self._runs.add(run)
        return run


def new_run(by: str, mode: object, requests: object, predicted: object) -> Run:
    """Return a race from the fields of the form; 400 for one that makes no sense."""
    name = rendering.text_field("mode", mode)
    if name not in MODES:
        raise cherrypy.HTTPError(400, f"The field 'mode' must be one of: {', '.join(MODES)}.")
    backend = rendering.backend()
    locks = backend is None or backend.locks_threads
    return Run(name, whole("requests", requests, FEWEST, MOST), whole("predicted", predicted, 0, MOST), by, locks)


def ticks(milliseconds: float) -> list[int]:
    """Return the marks of an axis that ends here: five or fewer after the 0, at round numbers up to a minute."""
    rounds = (10, 20, 50, 100, 200, 500, 1000, 2000, 10_000, 20_000)
    step = next((step for step in rounds if milliseconds <= 5 * step), math.ceil(milliseconds / 5))
    return list(range(0, round(milliseconds) + 1, step))


def whole(name: str, value: object, lowest: int, highest: int) -> int:
    """Return the whole number in a form field; 400 outside of its bounds, which are inclusive."""
    text = rendering.text_field(name, value).strip()
    if not (text.isdecimal() and len(text) < 4 and lowest <= int(text) <= highest):
        raise cherrypy.HTTPError(400, f"The field '{name}' must be a whole number from {lowest} to {highest}.")
    return int(text)


def milliseconds(name: str, value: object, count: int) -> list[float]:
    """Return the times in a form field, between 0 and a minute; 400 for anything else."""
    try:
        times = [float(text) for text in rendering.text_field(name, value).split(",")]
    except ValueError:
        times = []
    if len(times) != count or not all(0 <= time <= 60_000 for time in times):
        raise cherrypy.HTTPError(400, f"The field '{name}' must be {count} times in milliseconds, separated by commas.")
    return times


def fire_all(run: Run, jar: dict[str, Kept]) -> dict[str, Kept]:
    """Send all requests of a race at once, each over a connection of its own, and note how long each waited for a
    thread of the server. One that fails is missing in the result. Return the cookies after the last answer."""
    url, ready = here(), threading.Barrier(run.requests)
    jars = [jar]

    def send(number: int) -> None:
        visitor = Visitor(url)
        visitor.jar = dict(jar)
        ready.wait(PATIENCE)
        asked = time.perf_counter()
        visitor.ask("POST", f"/lab/race/hit/{run.mode}?run={run.id}&number={number}", {})
        jars.append(visitor.jar)
        run.hits[number].outside = max(0.0, run.hits[number].arrived - asked)

    with ThreadPoolExecutor(run.requests) as pool:
        sent: list[Any] = [pool.submit(send, number) for number in range(1, run.requests + 1)]
    for number, one in enumerate(sent, 1):
        error = one.exception()
        if isinstance(error, (OSError, HTTPException, KeyError)):
            cherrypy.log(f"Request {number} of a race did not come through: {type(error).__name__}", "LAB", 30)
        elif error:
            raise error
    return jars[-1]
