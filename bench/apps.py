"""The same page four times, with our sessions and with CherryPy's own."""

from __future__ import annotations

from typing import Any

import cherrypy
import cherrypy.lib.sessions as theirs
from cherrypy._cprequest import Request

import sessions
from sessions.registry import registry
from sessions.store import Store

PAGES = ["write", "read", "untouched"]


class Page:
    """A short text; what differs is what becomes of the session."""

    @cherrypy.expose
    def plain(self) -> str:
        """No use of a session; for applications that have none."""
        return "hello"

    untouched = plain

    @cherrypy.expose
    def read(self) -> str:
        """Read one value."""
        return str(cherrypy.session.get("count"))

    @cherrypy.expose
    def write(self) -> str:
        """Change one value."""
        cherrypy.session["count"] = cherrypy.session.get("count", 0) + 1
        return str(cherrypy.session["count"])


def install() -> None:
    """Put both session tools in place, side by side; doing it again does nothing more."""
    if not hasattr(cherrypy.tools, "their_sessions"):
        cherrypy.tools.their_sessions = cherrypy._cptools.SessionTool()
    sessions.install()
    cherrypy.log.screen = False
    # Their cleaners are threads that nobody could stop; each holds its class for "on".
    theirs.RamSession.clean_thread = theirs.FileSession.clean_thread = None


def plain() -> cherrypy.Application:
    """No sessions at all."""
    app = _application({})
    app.request_class = Request
    return app


def ours(**options: Any) -> cherrypy.Application:
    """The sessions of this package with these options; its stores are open."""
    app = _application({"tools.sessions.on": True, **{f"tools.sessions.{name}": v for name, v in options.items()}})
    sessions.open_stores(app)
    return app


def cherrypys(**options: Any) -> cherrypy.Application:
    """CherryPy's own session tool with these options, and the request class that it comes with."""
    # CherryPy does this at the first request while there is no cherrypy.session yet; install() has made one.
    classes = {"ram": theirs.RamSession, "file": theirs.FileSession, "memcached": theirs.MemcachedSession}
    setup = getattr(classes[options["storage_type"]], "setup", None)
    if setup:
        setup(**{name: value for name, value in options.items() if name != "storage_type"})
    config = {f"tools.their_sessions.{name}": value for name, value in options.items()}
    app = _application({"tools.their_sessions.on": True, **config})
    app.request_class = Request  # install() has made another the class of applications
    return app


def store_of(app: cherrypy.Application) -> Store:
    """The one open store of an application."""
    (store,) = registry.stores(app)
    return store


def _application(options: dict[str, Any]) -> cherrypy.Application:
    app = cherrypy.Application(Page(), "", {"/": options})
    app.log.screen = False
    app.log.access_log.disabled = app.log.error_log.disabled = True
    return app
