"""/healthz, for whatever watches over the site."""

from __future__ import annotations

import cherrypy

import sessions
from pages import site


class Health:
    """GET /healthz: 200 while the session store answers, 503 when it does not. Always JSON."""

    _cp_config = site.NO_SLASH

    @cherrypy.expose
    @cherrypy.tools.guard(methods=["GET"])
    def index(self) -> bytes:
        """Ask the store, and say which profile is running."""
        site.no_store()
        profile = cherrypy.request.config.get("profile")
        try:
            sessions.ping(cherrypy.request.app)
        except sessions.StoreError:
            cherrypy.log("The session store does not answer.", context="HEALTH", severity=40, traceback=True)
            cherrypy.response.headers["Retry-After"] = "5"
            error = {"status": 503, "error": "The session store does not answer.", "profile": profile}
            return site.as_json(error, status=503)
        return site.as_json({"status": "ok", "profile": profile})
