"""Lesson: a visit counter, the smallest use of a session."""

from __future__ import annotations

import cherrypy

from pages import site


class Counter:
    """GET /counter counts the visit and shows it; POST /counter/reset forgets it."""

    lesson = site.Lesson("/counter", "Counter", "One number, kept on the server, found again by a cookie.")
    _cp_config = site.NO_SLASH

    @cherrypy.expose
    @cherrypy.tools.allow(methods=["GET"])
    def index(self) -> bytes:
        """Count this visit. The session is locked from here to the end of the request: no visit is lost."""
        count = cherrypy.session["count"] = cherrypy.session.get("count", 0) + 1
        site.no_store()
        return site.render("counter.html", {"count": count}, lesson=self.lesson, reference=site.session_reference())

    @cherrypy.expose
    @cherrypy.tools.allow(methods=["POST"])
    def reset(self) -> None:
        """Forget the count, and only the count."""
        cherrypy.session.pop("count", None)
        site.redirect("/counter")
