"""Lesson: a visit counter, the smallest use of a session."""

from __future__ import annotations

import cherrypy

from web import rendering
from web.flash import flash


class Counter:
    """GET /counter counts the visit and shows it; POST /counter/reset forgets it."""

    lesson = rendering.Lesson("/counter", "Counter", "A count, kept on the server, found again by a cookie.")
    _cp_config = rendering.NO_SLASH

    @cherrypy.expose
    @cherrypy.tools.allow(methods=["GET"])
    def index(self) -> bytes:
        """Count this visit. The session is locked from here to the end of the request: no visit is lost."""
        count = cherrypy.session["count"] = cherrypy.session.get("count", 0) + 1
        return self.lesson.page("counter/page.html", count=count)

    @cherrypy.expose
    @cherrypy.tools.allow(methods=["POST"])
    def reset(self) -> None:
        """Forget the count, and only the count."""
        if cherrypy.session.pop("count", None):
            flash("The count is forgotten.", "success")
        rendering.redirect("/counter")
