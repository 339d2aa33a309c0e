"""An application whose pages do to a session whatever a rule is about; tests/sessions/test_rules.py asks it by HTTP.

It is served by CherryPy's own server in a process of its own, as root's tests start everything: unprivileged. Some
pages wait for a word from the test (`/say?word=...`), which forces the order of requests; `/clock?add=SECONDS` moves
the clock of the stores.
"""

from __future__ import annotations

import datetime as dt
import json
import sys
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import cherrypy

import sessions
from sessions.errors import SessionClosed
from sessions.locks import waiting
from sessions.registry import registry
from sessions.tool import reference

sessions.install()

VALUES: dict[Any, Any] = {
    "none": None,
    "bool": True,
    "int": 10**40,
    "float": -0.5,
    "str": "é\0\n😀<b>",
    "bytes": bytes(range(256)),
    "list": [1, [2, (3,)]],
    "tuple": (1, (), [2]),
    "dict": {"a": 1, 2: "b", (3, 4): {"$x": 5}},
    "set": {1, "a", (2, 3)},
    "frozenset": frozenset({b"x"}),
    "datetime": dt.datetime(2026, 7, 1, 12, 30, 15, 250, ZoneInfo("Europe/Vienna")),
    "date": dt.date(2026, 2, 28),
    "time": dt.time(23, 59, 59, 999, dt.timezone(dt.timedelta(hours=-3, minutes=-30))),
    "timedelta": dt.timedelta(days=-1, microseconds=1),
    "decimal": Decimal("1.10"),
    "uuid": uuid.UUID(int=7),
}
_words: defaultdict[str, threading.Event] = defaultdict(threading.Event)
_ahead = 0.0


def count() -> str:
    cherrypy.session["n"] = cherrypy.session.get("n", 0) + 1
    return str(cherrypy.session["n"])


def wait_for(word: str) -> None:
    if not _words[word].wait(30):
        raise TimeoutError(f"nobody said {word}")


class Pages:
    """The pages; mounted once for each way of configuring them."""

    @cherrypy.expose
    def untouched(self) -> str:
        return "nothing"

    @cherrypy.expose
    def count(self) -> str:
        return count()

    @cherrypy.expose
    def read(self) -> str:
        return str(cherrypy.session.get("n"))

    @cherrypy.expose
    def put(self, name: str, value: str) -> str:
        cherrypy.session[name] = value
        return "put"

    @cherrypy.expose
    def load(self) -> str:
        cherrypy.session.load()
        return "loaded"

    @cherrypy.expose
    def identity(self) -> str:
        """Everything about the id but the id."""
        session = cherrypy.session
        facts = {"reference": reference(session.id), "missing": session.missing}
        return json.dumps({**facts, "adopted": bool(session.originalid) and session.originalid == session.cookie_value})

    @cherrypy.expose
    def live(self) -> str:
        try:
            return str(sessions.count())
        except NotImplementedError as error:
            return str(error)

    @cherrypy.expose
    def nested(self) -> str:
        cherrypy.session.setdefault("list", []).append(1)
        return str(len(cherrypy.session["list"]))

    @cherrypy.expose
    def listed(self) -> str:
        return json.dumps([list(cherrypy.session), sorted(cherrypy.session)])

    @cherrypy.expose
    def mapping(self) -> str:
        """What a dictionary can do besides."""
        session = cherrypy.session
        return json.dumps([len(session), bool(session), "n" in session, list(session.items()), dict(session)])

    @cherrypy.expose
    def cookie_by_hand(self) -> str:
        sessions.set_response_cookie()
        return "set"

    @cherrypy.expose
    def closed_by_hand(self) -> str:
        count()
        sessions.save()
        sessions.close()
        return "closed"

    # --- order

    @cherrypy.expose
    def hold(self, word: str, then: str = "") -> str:
        """Count, say WORD-in, wait for WORD."""
        result = count()
        _words[f"{word}-in"].set()
        wait_for(word)
        if then:
            raise cherrypy.HTTPError(int(then))
        return result

    @cherrypy.expose
    def late(self, word: str) -> str:
        """Say WORD-in, wait for WORD, count."""
        _words[f"{word}-in"].set()
        wait_for(word)
        return count()

    @cherrypy.expose
    def slow_count(self) -> str:
        n = cherrypy.session.get("n", 0)
        time.sleep(0.001)  # lets other threads and processes in, if the lock does
        cherrypy.session["n"] = n + 1
        return str(n + 1)

    @cherrypy.expose
    def locked_count(self) -> str:
        with sessions.session_lock():
            return self.slow_count()

    @cherrypy.expose
    def acquired_count(self) -> str:
        cherrypy.session.acquire_lock()
        result = self.slow_count()
        cherrypy.session.release_lock()
        return result

    @cherrypy.expose
    def release(self, word: str) -> str:
        """Count, release the lock, say WORD-in, wait for WORD, read again."""
        count()
        cherrypy.session.release_lock()
        _words[f"{word}-in"].set()
        wait_for(word)
        return str(cherrypy.session.get("n"))

    # --- session_lock()

    @cherrypy.expose
    def lock_fails(self) -> str:
        try:
            with sessions.session_lock():
                cherrypy.session["n"] = 99
                raise KeyError("n")
        except KeyError:
            return str(cherrypy.session.get("n"))

    @cherrypy.expose
    def lock_in_lock(self) -> str:
        with sessions.session_lock(), sessions.session_lock():
            return count()

    @cherrypy.expose
    def inner_lock_fails(self) -> str:
        cherrypy.session["outer"] = "kept"
        try:
            with sessions.session_lock():
                cherrypy.session["n"] = 99
                raise KeyError("n")
        except KeyError:
            return f"{cherrypy.session.get('n')} {cherrypy.session['outer']}"

    @cherrypy.expose
    def lock_answers(self, how: str) -> str:
        """Leave a block, by what answers the request."""
        with sessions.session_lock():
            count()
            raise self.answers(how)

    @cherrypy.expose
    def held_lock_answers(self, how: str) -> str:
        """Do the same within a session that is held already, and catch it: what comes after fails."""
        cherrypy.session.acquire_lock()
        try:
            return self.lock_answers(how)
        except (cherrypy.HTTPError, cherrypy.HTTPRedirect, cherrypy.InternalRedirect):
            cherrypy.session["n"] = 99
            raise RuntimeError("as the test wants it") from None

    @staticmethod
    def answers(how: str) -> Exception:
        if how == "redirect":
            return cherrypy.HTTPRedirect("read", 303)
        if how == "inside":
            return cherrypy.InternalRedirect("/read")
        return cherrypy.HTTPError(int(how))

    @cherrypy.expose
    def lock_then_boom(self) -> str:
        with sessions.session_lock():
            count()
        cherrypy.session["n"] = 99
        raise RuntimeError("as the test wants it")

    # --- ends

    @cherrypy.expose
    def regenerate(self) -> str:
        cherrypy.session.regenerate()
        return str(cherrypy.session.get("n"))

    @cherrypy.expose
    def tool_regenerate(self) -> str:
        cherrypy.tools.sessions.regenerate()
        return "regenerated"

    @cherrypy.expose
    def delete(self) -> str:
        cherrypy.session.delete()
        cherrypy.session["n"] = 99
        return "deleted"

    @cherrypy.expose
    def expire(self) -> str:
        sessions.expire()
        return "expired"

    @cherrypy.expose
    def timeout(self, minutes: str = "") -> str:
        """Say the time-out of this session, or set it."""
        if minutes:
            cherrypy.session.timeout = float(minutes)
        return f"{cherrypy.session.timeout:g} {cherrypy.session.now():%Y}"

    @cherrypy.expose
    def boom(self) -> str:
        count()
        raise RuntimeError("as the test wants it")

    @cherrypy.expose
    def fail(self, status: str) -> str:
        count()
        raise cherrypy.HTTPError(int(status))

    @cherrypy.expose
    def answer(self, status: str) -> str:
        cherrypy.response.status = int(status)
        return count()

    @cherrypy.expose
    def redirect_inside(self) -> str:
        count()
        raise cherrypy.InternalRedirect("/read")

    @cherrypy.expose
    def redirect(self) -> str:
        count()
        raise cherrypy.HTTPRedirect("read", 303)

    # --- values and headers

    @cherrypy.expose
    def values_in(self) -> str:
        cherrypy.session.update(VALUES)
        return "stored"

    @cherrypy.expose
    def values_out(self) -> str:
        """The names of the values that did not come back as they went in."""
        same = {name for name, value in VALUES.items() if repr_of(cherrypy.session.get(name)) == repr_of(value)}
        return json.dumps(sorted(set(VALUES) - same))

    @cherrypy.expose
    def unstorable(self) -> str:
        count()
        cherrypy.session["culprit"] = object()
        return "stored"

    @cherrypy.expose
    def own_headers(self) -> str:
        cherrypy.response.headers["Cache-Control"] = "no-store"
        cherrypy.response.headers["Vary"] = "Accept"
        return count()

    # --- streams

    @cherrypy.expose
    def stream(self, word: str) -> Iterator[bytes]:
        cherrypy.response.stream = True
        count()

        def body() -> Iterator[bytes]:
            yield b"first "
            wait_for(word)
            try:
                cherrypy.session["n"] = 99
            except SessionClosed as error:
                yield str(error).encode()
            with sessions.session_lock():
                count()

        return body()

    @cherrypy.expose
    def generated(self) -> Iterator[bytes]:
        def body() -> Iterator[bytes]:
            yield count().encode()

        return body()


def repr_of(value: Any) -> str:
    """Type and value; sets have no order of their own."""
    if isinstance(value, (set, frozenset)):
        return f"{type(value)}{sorted(map(repr, value))}"
    return f"{type(value)}{value!r}"


class Root(Pages):
    """The pages, and what the test talks to without a session."""

    @cherrypy.expose
    @cherrypy.config(**{"tools.sessions.on": False})
    def say(self, word: str) -> str:
        _words[word].set()
        return "said"

    @cherrypy.expose
    @cherrypy.config(**{"tools.sessions.on": False})
    def listen(self, word: str) -> str:
        wait_for(word)
        return "heard"

    @cherrypy.expose
    @cherrypy.config(**{"tools.sessions.on": False})
    def waiting(self) -> str:
        """How many requests wait for a session."""
        return str(waiting.count)

    @cherrypy.expose
    @cherrypy.config(**{"tools.sessions.on": False})
    def clock(self, add: str) -> str:
        """Move the clock of every store."""
        global _ahead
        _ahead += float(add)
        for app in cherrypy.tree.apps.values():
            for store in registry.stores(app):
                store.clock = lambda: time.time() + _ahead
        return "moved"

    @cherrypy.expose
    def early(self, **form: str) -> str:
        return count()


def main() -> None:
    """Serve on a free port; the argument is a JSON object of session options."""
    options = {f"tools.sessions.{name}": value for name, value in json.loads(sys.argv[1]).items()}
    cherrypy.config.update(
        {"server.socket_port": 0, "server.shutdown_timeout": 1, "engine.autoreload.on": False}
        # CherryPy's own is 5: of a hundred connections at once most are tried again after one, three, seven seconds.
        | {"server.socket_queue_size": 256}
        | {"request.show_tracebacks": False}  # as in production
    )
    root = Root()
    for name in ("implicit", "explicit", "short"):
        setattr(root, name, Pages())
    on = {"tools.sessions.on": True, **options}
    cherrypy.tree.mount(
        root,
        "",
        {
            "/": on,
            "/explicit": {"tools.sessions.locking": "explicit"},
            "/early": {"tools.sessions.locking": "early", "tools.sessions.lock_timeout": 0.2},
            "/short": {"tools.sessions.lock_timeout": 0.2},
        },
    )
    cherrypy.tree.mount(Pages(), "/other", {"/": on})
    named = {"tools.sessions.name": "named_id", "tools.sessions.timeout": 1}
    cherrypy.tree.mount(Pages(), "/named", {"/": {**on, **named}})
    cherrypy.engine.start()
    print("http://{}:{}".format(*cherrypy.server.httpserver.bind_addr), flush=True)
    cherrypy.engine.signals.subscribe()
    cherrypy.engine.block()


if __name__ == "__main__":
    main()
