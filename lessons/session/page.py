"""Lesson: when a session begins, by what it is recognised, and what a page is like without one."""

from __future__ import annotations

import cherrypy

import sessions
from sessions.tool import reference
from web import rendering

_KEPT = "kept"


class Off:
    """GET /session/off: a page for which sessions are off, as they are everywhere until one line turns them on."""

    _cp_config = {**rendering.NO_SLASH, "tools.sessions.on": False}

    @cherrypy.expose
    @cherrypy.tools.allow(methods=["GET"])
    def index(self) -> bytes:
        """Try to count, as /counter does, and show what comes of it."""
        try:
            count = cherrypy.session["count"] = cherrypy.session.get("count", 0) + 1
            outcome = {"count": count}
        except AttributeError as error:
            outcome = {"error": f"AttributeError: {error}"}
        return rendering.render("session/off.html", outcome, lesson=Identity.lesson)


class Identity:
    """GET /session shows the session id of this request; POST /session/keep keeps something, /session/end ends it."""

    lesson = rendering.Lesson("/session", "Session", "When it begins, by what it is known, and when it is over.")
    _cp_config = rendering.NO_SLASH

    def __init__(self) -> None:
        self.off = Off()

    @cherrypy.expose
    @cherrypy.tools.allow(methods=["GET"])
    def index(self) -> bytes:
        """Show the reference of the session id. Asking stores nothing: the id is new each time, until it is needed."""
        return self.lesson.page(
            "session/page.html", reference=reference(cherrypy.session.id), kept=bool(cherrypy.session.keys())
        )

    @cherrypy.expose
    @cherrypy.tools.allow(methods=["POST"])
    def keep(self) -> None:
        """Keep something, whatever it is: from now on there is a record, and so the session id stays."""
        cherrypy.session[_KEPT] = True
        rendering.redirect("/session")

    @cherrypy.expose
    @cherrypy.tools.allow(methods=["POST"])
    def end(self) -> None:
        """Destroy the record and expire the cookie; of everything in the session nothing is left."""
        sessions.expire()
        rendering.redirect("/session")
