"""An application in the process of the tests, for tests/support/client.py's WsgiClient, and what it logs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import cherrypy

import sessions


def application(root: Any, mount: str = "", **options: Any) -> cherrypy.Application:
    """Return an application with sessions on and these options; its stores are open, and nothing cleans them."""
    sessions.install()
    set_here = {f"tools.sessions.{name}": value for name, value in {"on": True, "clean_freq": 0, **options}.items()}
    app = cherrypy.Application(root, mount, {"/": {"request.show_tracebacks": False, **set_here}})
    app.log.screen = cherrypy.log.screen = False
    sessions.open_stores(app)
    return app


class Counter:
    """The page of most tests: it counts its visits."""

    @cherrypy.expose
    def index(self) -> str:
        cherrypy.session["n"] = cherrypy.session.get("n", 0) + 1
        return str(cherrypy.session["n"])


@contextmanager
def logged(name: str = "sessions") -> Iterator[list[str]]:
    """Collect the lines that the package logs meanwhile, or that another logger does."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    log = logging.getLogger(name)
    log.addHandler(handler)
    try:
        yield lines
    finally:
        log.removeHandler(handler)
