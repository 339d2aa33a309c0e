"""Experiment: when a session ends, by two clocks that can be moved: the server's and the browser's.

Two browsers visit pages below /lab/expiry/site: the cookie of one outlives it, that of the other ends with it. The
sessions are the laboratory's own, with limits of their own. `expiry_game.py` plays.
"""

from __future__ import annotations

import time

import cherrypy

from lab.expiry_game import CLOCKS, HEADER, LIFETIME, LIMITS, NAME, PATH, Game, away, length
from lab.games import Games
from web import rendering, times

STEPS = {"minute": 60.0, "tenth": LIMITS.timeout * 6, "timeout": LIMITS.timeout * 60, "lifetime": LIFETIME}  # seconds
ACTS = ("begin", "use", "busy", "close", "replay")


def clock() -> float:
    """The server's clock for the request at hand: moved for those of a game, and for nobody else.

    A clock ahead for all would be a danger: the sessions of the laboratory lie where those of other visitors are, and a
    cleaner that goes by it ends them all. `clean_freq` = 0 keeps cleaners away; this is for whoever cleans even so.
    """
    return time.time() + float(getattr(cherrypy.serving.request, "lab_seconds_ahead", 0.0))


class Page:
    """A page of one of the browsers. It answers JSON, whatever is asked for."""

    def __init__(self, persistent: bool) -> None:
        self._cp_config = {**rendering.NO_SLASH, "tools.sessions.persistent": persistent}

    @cherrypy.expose
    @cherrypy.tools.allow(methods=["GET", "POST"])
    def index(self) -> bytes:
        """POST begins a session. GET uses it, and changes nothing in it."""
        if cherrypy.request.method == "POST":
            cherrypy.session["begun"] = times.iso(clock())
        return rendering.as_json({"begun": cherrypy.session.get("begun")})


class Pages:
    """The pages that the browsers visit, on the clock of the game that their header names."""

    def __init__(self, games: Games[Game]) -> None:
        self._games = games
        self.stays, self.ends = Page(persistent=True), Page(persistent=False)
        self._cp_config = {"hooks.on_start_resource.lab_clock": self._set_clock}

    def _set_clock(self) -> None:
        game = cherrypy.request.headers.get(HEADER)
        ahead = self._games.find(game).ahead["server"] if game else 0.0
        cherrypy.serving.request.lab_seconds_ahead = ahead
        cherrypy.serving.session.store.clock = clock


class Expiry:
    """GET /lab/expiry shows a game; POST /lab/expiry/move moves a clock, POST /lab/expiry/act lets the browsers act."""

    experiment = rendering.Lesson(PATH, "Expiry", "Two clocks that can be moved: when a session ends, and who notices.")
    _cp_config = {
        **rendering.NO_SLASH,
        "tools.sessions.name": NAME,
        "tools.sessions.path": "/",
        "tools.sessions.domain": None,
        "tools.sessions.timeout": LIMITS.timeout,
        "tools.sessions.lifetime": LIMITS.lifetime,
        "tools.sessions.locking": "implicit",
        "tools.sessions.clean_freq": 0,  # see clock()
        "tools.sessions.snapshot_path": None,  # one file cannot serve two stores, and nobody misses these sessions
    }

    def __init__(self) -> None:
        self.games: Games[Game] = Games(Game.forget)
        self.site = Pages(self.games)

    @cherrypy.expose
    @cherrypy.tools.allow(methods=["GET"])
    def index(self, run: object = "") -> bytes:
        """Show what is found. HTTPError 404 for a game that is not kept any more."""
        rendering.no_store()
        run = rendering.text_field("run", run)
        game = self.games.find(run) if run else None
        data = {"run": run, "limits": {"timeout": LIMITS.timeout, "lifetime": LIMITS.lifetime}}
        data |= game.state() if game else {}
        label = game.labels if game else None
        return rendering.render(
            "expiry.html", data, experiment=self.experiment, label=label, away=away, length=length, iso=times.iso
        )

    @cherrypy.expose
    @cherrypy.tools.allow(methods=["POST"])
    def move(self, run: object = "", clock: object = "", by: object = "") -> None:
        """Move a clock. HTTPError 400 unless it is one of CLOCKS, by one of STEPS, and no more than a day in all."""
        run, clock, by = (
            rendering.text_field("run", run),
            rendering.text_field("clock", clock),
            rendering.text_field("by", by),
        )
        if clock not in CLOCKS or by not in STEPS:
            what = f"clock= as one of {', '.join(CLOCKS)}, and by= as one of {', '.join(STEPS)}"
            raise cherrypy.HTTPError(400, f"Send {what}.")
        with self.games.turn():
            self.games.find(run).move(CLOCKS[clock], STEPS[by])
        rendering.redirect(f"{PATH}?run={run}#found")

    @cherrypy.expose
    @cherrypy.tools.allow(methods=["POST"])
    def act(self, run: object = "", what: object = "begin") -> None:
        """Do one of ACTS; `begin` without a game makes one. HTTPError 400 for anything else."""
        run, what = rendering.text_field("run", run), rendering.text_field("what", what)
        if what not in ACTS:
            raise cherrypy.HTTPError(400, f"Send what= as one of {', '.join(ACTS)}.")
        with self.games.turn():
            game = self.games.find(run) if run or what != "begin" else Game()
            if not run:
                game.id = run = self.games.add(game)
            getattr(game, what)()
        rendering.redirect(f"{PATH}?run={run}#found")
