"""The tour: what a cookie and a session are, and the way into the lessons."""

from __future__ import annotations

from dataclasses import asdict

import cherrypy

from pages import site


class Tour:
    """GET / tells the idea and lists the lessons. It never touches the session: look, no Set-Cookie."""

    @cherrypy.expose
    @cherrypy.tools.allow(methods=["GET"])
    def index(self) -> bytes:
        """Show the tour."""
        lessons = [{**asdict(lesson), "path": site.url(lesson.path)} for lesson in site.lessons()]
        return site.render("tour.html", {"lessons": lessons})
