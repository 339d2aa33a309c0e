"""The backends side by side: what each can do, which one is running, and which could run here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import cherrypy

from sessions import registry
from web import rendering
from web.availability import Availability


class Backends:
    """GET /backends. It shows what each backend declares of itself, and touches no session.

    Args:
        profiles: as for Availability.
    """

    lesson = rendering.Lesson("/backends", "Backends", "Six session stores, and what each of them is good for.", 60)
    _cp_config = rendering.NO_SLASH

    def __init__(self, profiles: Mapping[str, Mapping[str, Any]]) -> None:
        self._availability = Availability(profiles)

    @cherrypy.expose
    @cherrypy.tools.allow(methods=["GET"])
    def index(self) -> bytes:
        """Compare the backends."""
        running = cherrypy.request.config.get("profile")
        states = self._availability.states(running)
        backends = {}
        for name in registry.BACKENDS:
            cls = registry.backend(name)
            backends[name] = {
                "class": cls.__name__, "state": states.get(name, "none"), **asdict(cls.store_class.capabilities),
            }  # fmt: skip
        return rendering.render("backends/page.html", {"running": running, "backends": backends}, lesson=self.lesson)
