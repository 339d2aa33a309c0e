"""A button that lets the site forget a name."""

from __future__ import annotations

import cherrypy

from web import rendering


class Forget:
    """POST /forget takes the name out of the session, and nothing else: 303 /hello."""

    _cp_config = rendering.NO_SLASH

    @cherrypy.expose
    @cherrypy.tools.allow(methods=["POST"])
    def index(self) -> None:
        """Forget both names. pop() with a default does not mind if there is none."""
        for field in ("first", "last"):
            cherrypy.session.pop(field, None)
        rendering.redirect("/hello")
