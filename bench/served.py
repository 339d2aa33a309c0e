"""The benchmark's own small site under CherryPy's server, as a process: `python -m bench.served OPTIONS-AS-JSON`.

The pages of `apps`, and some that hold a session, fill the store and have it cleaned while the site serves.
"""

from __future__ import annotations

import json
import sys
import threading
import time

import cherrypy

import sessions
from sessions.registry import Cleaner
from web.server import listen, serve

from . import apps, filling

THREADS = 10


class Site(apps.Page):
    """What the benchmark asks for."""

    def __init__(self) -> None:
        self._cleaning: threading.Thread | None = None
        self._cleaned = 0.0

    @cherrypy.expose
    def hold(self, seconds: str) -> str:
        """Change the session, and keep it as long as this."""
        count = cherrypy.session["count"] = cherrypy.session.get("count", 0) + 1
        time.sleep(float(seconds))
        return str(count)

    @cherrypy.expose
    def fill(self, number: str) -> str:
        """Put that many expired sessions into the store, here, where a store in memory is."""
        filling.fill(apps.store_of(cherrypy.request.app), int(number), expired=True)
        return number

    @cherrypy.expose
    def clean(self) -> str:
        """Begin to clean, as the cleaner does when its time has come."""
        self._cleaning = threading.Thread(target=self._clean, args=(cherrypy.request.app,), daemon=True)
        self._cleaning.start()
        return "begun"

    def _clean(self, app: cherrypy.Application) -> None:
        began = time.perf_counter()
        Cleaner(apps.store_of(app), 0).clean()
        self._cleaned = time.perf_counter() - began

    @cherrypy.expose
    def cleaned(self) -> str:
        """Seconds the cleaning took; nothing while it goes on."""
        return "" if self._cleaning is None or self._cleaning.is_alive() else str(self._cleaned)


def main() -> None:
    """Serve until SIGTERM; the first line printed has the address."""
    sessions.install()
    cherrypy.config.update({"server.thread_pool": THREADS, "engine.autoreload.on": False, "log.screen": False})
    options = {f"tools.sessions.{name}": value for name, value in json.loads(sys.argv[1]).items()}
    # No cleaner of its own: it would come when it likes, and not when it is measured.
    config = {"/": {"tools.sessions.on": True, "tools.sessions.clean_freq": 0, **options}}
    app = cherrypy.tree.mount(Site(), "", config)
    app.log.access_log.disabled = True
    server = listen("127.0.0.1", 0)
    serve(server, f"Serving {server.url}")


if __name__ == "__main__":
    main()
