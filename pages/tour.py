"""The tour: what a cookie and a session are, and the way into the lessons."""

from __future__ import annotations

import cherrypy

from web import rendering


class Tour:
    """GET / tells the idea and lists the lessons. It never touches the session: look, no Set-Cookie."""

    @cherrypy.expose
    @cherrypy.tools.allow(methods=["GET"])
    def index(self) -> bytes:
        """Show the tour."""
        lessons = [
            {"path": rendering.url(lesson.path), "title": lesson.title, "about": lesson.about}
            for lesson in rendering.lessons()
        ]
        return rendering.render("tour.html", {"lessons": lessons})
