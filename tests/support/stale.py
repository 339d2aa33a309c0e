"""A page that makes the last proof of whoever is signed in older, as if time had passed; MOUNT adds it."""

from __future__ import annotations

from typing import Any

import cherrypy

from web import rendering
from web.wiring import Site


class Stale:
    """POST /stale takes an hour off."""

    _cp_config = rendering.NO_SLASH

    @cherrypy.expose
    @cherrypy.tools.allow(methods=["POST"])
    def index(self) -> str:
        session = cherrypy.session
        since = session.settings.accounts.valid_since(session.user)  # before that it would be no session any more
        session.sign_in(session.user, session.remembered, max(since, session.signed_in_at - 3600))
        return ""


def mount(root: Any, site: Site) -> None:
    """Add the page to the tree."""
    root.stale = Stale()
