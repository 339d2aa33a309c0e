"""Experiment: an attacker knows the id that a victim will use. Two cookie jars, side by side, step by step.

Both are visitors of the laboratory, who send real requests to the pages below /lab/fixation/site. These have a session
of their own, with a cookie of its own, and sign in nobody but a person who does not exist.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from typing import Any

import cherrypy

import sessions
from lab.games import Games, Labels, answered, exchange, here, jar
from lab.visitor import Answer, Kept, Visitor
from web import rendering

NAME = "lab_fixation"
PATH = "/lab/fixation"
PAGES = PATH + "/site"
USER = "vera"
WISH, BAIT, SECRET = "A present for Grace", "Deliver to: 13 Side Street", "My card ends in 4242"  # noqa: S105 - no password
MOST_NOTES, LONGEST = 20, 200  # characters; what a stranger may make us keep

Found = dict[str, Any]


class Pages:
    """The pages that attacker and victim visit. They answer JSON, whatever is asked for."""

    _cp_config = {
        "tools.sessions.name": NAME,
        "tools.sessions.path": "/",
        "tools.sessions.domain": None,
        "tools.sessions.timeout": 10,
        "tools.sessions.lifetime": 60,
        "tools.sessions.persistent": True,
        "tools.sessions.locking": "implicit",
        "tools.sessions.snapshot_path": None,  # one file cannot serve two stores, and nobody misses these sessions
    }

    @cherrypy.expose
    @cherrypy.tools.allow(methods=["GET"])
    def page(self, **ignored: object) -> bytes:
        """Count the visit, and tell what this session holds. Whatever is in the address is ignored."""
        cherrypy.session["visits"] = cherrypy.session.get("visits", 0) + 1
        return self._tell()

    @cherrypy.expose
    @cherrypy.tools.allow(methods=["POST"])
    def note(self, text: object = "", **ignored: object) -> bytes:
        """Write something down. Every other field of the form is ignored."""
        text = rendering.text_field("text", text)
        if not 0 < len(text) <= LONGEST:
            raise cherrypy.HTTPError(400, f"Send 1 to {LONGEST} characters as text=.")
        cherrypy.session["notes"] = [*cherrypy.session.get("notes", []), text][-MOST_NOTES:]
        return self._tell()

    @cherrypy.expose
    @cherrypy.tools.allow(methods=["POST"])
    def sign_in(self) -> bytes:
        """Sign in as every site should: under a new id."""
        cherrypy.session.regenerate()
        cherrypy.session["user"] = USER
        return self._tell()

    @cherrypy.expose
    @cherrypy.tools.allow(methods=["POST"])
    def sign_in_without_rotation(self) -> bytes:
        """Sign in as no site should: the id stays what it was. It is here to be attacked, and nowhere else."""
        cherrypy.session["user"] = USER
        return self._tell()

    @cherrypy.expose
    @cherrypy.tools.allow(methods=["POST"])
    def end(self) -> bytes:
        """End the session."""
        sessions.expire()
        return self._tell()

    @cherrypy.expose
    @cherrypy.tools.allow(methods=["GET"])
    @cherrypy.config(**{"tools.sessions.on": False})
    def elsewhere(self) -> bytes:
        """Be the page that a link leads to, and tell from which address somebody came."""
        return rendering.as_json({"came_from": cherrypy.request.headers.get("Referer", "")})

    @staticmethod
    def _tell() -> bytes:
        session = cherrypy.session
        return rendering.as_json({name: session.get(name, empty) for name, empty in
                             (("user", None), ("visits", 0), ("notes", []))})  # fmt: skip


class Game:
    """The two of them, and what they have done so far."""

    def __init__(self) -> None:
        self.jars = {"attacker": Visitor(here()), "victim": Visitor(here())}
        self.labels = Labels()
        self.steps: list[dict[str, Any]] = []
        self._events: list[dict[str, Any]] = []

    def play(self) -> None:
        """Play the next step. One that breaks off leaves no trace, and can be played again."""
        number = len(self.steps)
        self._events = []
        found = _STEPS[number](self)
        jars = {who: jar(visitor.jar) for who, visitor in self.jars.items()}
        self.steps.append({"number": number + 1, "events": self._events, "jars": jars, "found": found})

    def ask(
        self, who: str, path: str, form: Mapping[str, str] | None = None, more: Mapping[str, str] | None = None,
        secret: str = "",
    ) -> Answer:  # fmt: skip
        """Send a request: a POST if there is a form, even an empty one."""
        method = "GET" if form is None else "POST"
        answer = answered(self.jars[who].ask(method, PAGES + path, form, more))
        self._events.append(exchange(who, answer, form, secret))
        return answer

    def empty(self, *whose: str) -> None:
        """Empty these jars, or both."""
        for who in whose or self.jars:
            self.jars[who].jar.clear()
        self._events.append({"who": whose[0] if whose else "both", "does": "empty"})

    def plant(self, by: str, kept: Kept, into: str, how: str) -> None:
        """Put a cookie into a jar."""
        self.jars[into].jar[NAME] = kept
        self._events.append({"who": by, "does": how, "into": into, "reference": kept.reference})

    def key(self, who: str) -> Kept:
        """The session cookie that somebody has."""
        return self.jars[who].jar[NAME]


def _unknown_id(game: Game) -> Found:
    game.empty()
    made_up = Kept(secrets.token_urlsafe(32), None)
    game.plant("attacker", made_up, "attacker", "make up")
    game.plant("attacker", made_up, "victim", "plant")
    game.ask("victim", "/page")
    got = game.key("victim")
    game.ask("victim", "/note", {"text": WISH})
    seen = game.ask("attacker", "/page")
    return {"adopted": got.reference == made_up.reference, "read": WISH in seen.told["notes"]}


def _known_id(game: Game) -> Found:
    game.empty()
    game.ask("attacker", "/page")
    game.ask("attacker", "/note", {"text": BAIT})
    game.plant("attacker", game.key("attacker"), "victim", "plant")
    led = game.ask("victim", "/page")
    game.ask("victim", "/note", {"text": WISH})
    seen = game.ask("attacker", "/page")
    return {"led": BAIT in led.told["notes"], "read": WISH in seen.told["notes"]}


def _rotation(game: Game) -> Found:
    before = game.key("victim")
    game.ask("victim", "/sign_in", {})
    return {"rotated": game.key("victim").reference != before.reference, **_what_the_attacker_gets(game)}


def _no_rotation(game: Game) -> Found:
    game.empty()
    game.ask("attacker", "/note", {"text": BAIT})
    game.plant("attacker", game.key("attacker"), "victim", "plant")
    before = game.key("victim")
    game.ask("victim", "/sign_in_without_rotation", {})
    return {"rotated": game.key("victim").reference != before.reference, **_what_the_attacker_gets(game)}


def _what_the_attacker_gets(game: Game) -> Found:
    game.ask("victim", "/note", {"text": SECRET})
    seen = game.ask("attacker", "/page")
    notes = seen.told["notes"]
    return {"user": seen.told["user"], "read": SECRET in notes, "known": BAIT in notes, "told": bool(seen.set_cookie)}


def _in_the_address(game: Game) -> Found:
    game.empty()
    game.ask("victim", "/page")
    game.ask("victim", "/note", {"text": SECRET})
    id = game.key("victim").value
    address = f"/page?session_id={id}&{NAME}={id}"
    query = game.ask("attacker", address, secret=id)
    field = game.ask("attacker", "/note", {"text": "Hello", "session_id": id, NAME: id}, secret=id)
    game.empty("attacker")
    led = game.ask("victim", "/elsewhere", more={"Referer": here() + PAGES + address}, secret=id)
    leaked = str(led.told["came_from"]).rpartition("=")[2]
    game.plant("attacker", Kept(leaked, None), "attacker", "take")
    seen = game.ask("attacker", "/page")
    policy = seen.headers.get("Referrer-Policy", "")
    game.ask("victim", "/end", {})
    notes = {"query": query, "field": field, "referer": seen}
    return {**{way: SECRET in answer.told["notes"] for way, answer in notes.items()}, "policy": policy}


_STEPS: list[Callable[[Game], Found]] = [_unknown_id, _known_id, _rotation, _no_rotation, _in_the_address]


class Fixation:
    """GET /lab/fixation shows a game; POST /lab/fixation/next plays its next step."""

    experiment = rendering.Lesson(
        PATH, "Fixation", "An attacker who knows your session id before you do, and what stops him."
    )
    _cp_config = rendering.NO_SLASH

    def __init__(self) -> None:
        self.site = Pages()
        self.games: Games[Game] = Games()

    @cherrypy.expose
    @cherrypy.tools.allow(methods=["GET"])
    def index(self, run: object = "") -> bytes:
        """Show what has been played. HTTPError 404 for a game that is not kept any more."""
        rendering.no_store()
        run = rendering.text_field("run", run)
        game = self.games.find(run) if run else None
        data = {"run": run, "of": len(_STEPS), "steps": game.steps if game else []}
        label = game.labels if game else None
        return rendering.render("fixation.html", data, label=label, experiment=self.experiment, name=NAME)

    @cherrypy.expose
    @cherrypy.tools.allow(methods=["POST"])
    def next(self, run: object = "", step: object = "1") -> None:
        """Play step number `step`, unless it has been: two clicks on one button are one step. HTTPError 400 for a step
        that is not the next one either."""
        run, number = rendering.text_field("run", run), rendering.text_field("step", step)
        if number not in map(str, range(1, len(_STEPS) + 1)):
            raise cherrypy.HTTPError(400, f"There are steps 1 to {len(_STEPS)}; send one of them as step=.")
        with self.games.turn():
            game = self.games.find(run) if run else Game()
            if int(number) > len(game.steps) + 1:
                raise cherrypy.HTTPError(400, f"Step {len(game.steps) + 1} comes before step {number}. Play it first.")
            if int(number) == len(game.steps) + 1:
                game.play()
            run = run or self.games.add(game)
        rendering.redirect(f"{PATH}?run={run}#step-{number}")
