"""A page for members only."""

from __future__ import annotations

import cherrypy

from web import rendering


class Members:
    """GET /members greets who is signed in; a stranger goes to the sign-in form (303), and from there back here."""

    _cp_config = rendering.NO_SLASH

    @cherrypy.expose
    @cherrypy.tools.allow(methods=["GET"])
    def index(self) -> str:
        """Ask the session who it is. no_store keeps the page out of the browser's cache, which outlives a sign-out."""
        rendering.no_store()
        user = cherrypy.session.user
        if user is None:
            rendering.redirect("/login?next=/members")
        cherrypy.response.headers["Content-Type"] = "text/plain;charset=utf-8"
        return f"Only members see this, {user}.\n"
