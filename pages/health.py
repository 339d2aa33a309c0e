"""/healthz, for whatever watches over the site."""

from __future__ import annotations

import cherrypy

import sessions
from sessions.registry import registry
from web import rendering


class Health:
    """GET /healthz: 503 when the session store does not answer or the site is about to stop, else 200. Always JSON."""

    _cp_config = rendering.NO_SLASH

    @cherrypy.expose
    @cherrypy.tools.allow(methods=["GET"])
    def index(self) -> bytes:
        """Ask the store, and say which profile is running."""
        rendering.no_store()
        profile = cherrypy.request.config.get("profile")
        error = "The site is about to stop." if cherrypy.engine.state is cherrypy.engine.states.STOPPING else None
        try:
            for store in registry.stores(cherrypy.request.app):
                store.ping()
        except sessions.StoreError:
            error = "The session store does not answer."
            cherrypy.log(error, context="HEALTH", severity=40, traceback=True)
        if error:
            cherrypy.response.headers["Retry-After"] = "5"
            return rendering.as_json({"status": 503, "error": error, "profile": profile}, status=503)
        return rendering.as_json({"status": "ok", "profile": profile})
