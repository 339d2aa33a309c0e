"""The site of tests/support/rules_app.py with pages that leave something behind, or whose answers a browser keeps."""

from __future__ import annotations

import os
import resource
import threading

import cherrypy

import sessions
from tests.support import rules_app
from tests.support.rules_app import count, wait_for


class Root(rules_app.Root):
    """The pages of the rules, and these."""

    @cherrypy.expose
    def fork(self) -> str:
        """Count, and leave a process behind that ends with this one."""
        result = count()
        lives, here = os.pipe()
        if not os.fork():
            os.close(here)
            os.read(lives, 1)
            os._exit(0)
        os.close(lives)
        return result

    @cherrypy.expose
    def background(self, word: str) -> str:
        """Count, and leave a thread behind that waits for WORD, counts in a block, and says WORD-done."""
        request, response = cherrypy.serving.request, cherrypy.serving.response

        def work() -> None:
            cherrypy.serving.load(request, response)
            wait_for(word)
            with sessions.session_lock() as session:
                session["n"] += 1
            rules_app._words[f"{word}-done"].set()

        threading.Thread(target=work, daemon=True).start()
        return count()

    @cherrypy.expose
    @cherrypy.config(**{"tools.sessions.on": False})
    def files(self, limit: str) -> str:
        """Let this process have no file of this number or above; -1 is as many as the system allows."""
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard if limit == "-1" else int(limit), hard))
        return "limited"

    @cherrypy.expose
    @cherrypy.tools.etags(autotags=True)
    @cherrypy.tools.gzip()
    def tagged(self) -> str:
        count()
        return "the same " * 300

    @cherrypy.expose
    def part(self) -> object:
        count()
        return cherrypy.lib.static.serve_file(os.path.abspath(__file__), "text/plain")


if __name__ == "__main__":
    rules_app.Root = Root  # type: ignore[misc]
    rules_app.main()
