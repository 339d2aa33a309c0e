"""Pages of the tests: Windows has no signal by which one program could ask another to stop."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import cherrypy

from tests.support import pages
from web import rendering
from web.settings import ROOT

LESSONS = (ROOT / "lessons").is_dir()  # or the pages of the tests, at their addresses


class Order:
    """POST here gives the site an order: to stop, as Ctrl-C does, or to start again, as a changed file does."""

    def __init__(self, order: Callable[[], None]) -> None:
        self.order = order

    _cp_config = rendering.NO_SLASH

    @cherrypy.expose
    @cherrypy.tools.allow(methods=["POST"])
    def index(self) -> str:
        threading.Thread(target=self.order).start()
        return "It is done."


def mount(root: Any, site: Any) -> None:
    """Add the pages to the site."""
    if not LESSONS:
        pages.mount(root, site)
    root.stop = Order(cherrypy.engine.exit)
    root.again = Order(cherrypy.engine.restart)
