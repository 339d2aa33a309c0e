"""What the tests visit in a site without lessons: a page that counts, a form, and a page that shows what was typed.

They have the addresses of the lessons, so that each test is the same there. MOUNT adds them: tests/support/process.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cherrypy

from web import csrf, rendering
from web.settings import StartError
from web.wiring import Site


class Counter:
    """GET /counter counts the visit and shows it; POST /counter/reset forgets it."""

    lesson = rendering.Lesson("/counter", "Counter", "One number, in the session.")
    _cp_config = rendering.NO_SLASH

    @cherrypy.expose
    @cherrypy.tools.allow(methods=["GET"])
    def index(self) -> bytes:
        rendering.no_store()
        count = cherrypy.session["count"] = cherrypy.session.get("count", 0) + 1
        return rendering.render("counted.html", {"count": count}, lesson=self.lesson)

    @cherrypy.expose
    @cherrypy.tools.allow(methods=["POST"])
    def reset(self) -> None:
        cherrypy.session.pop("count", None)
        rendering.redirect("/counter")


class Name:
    """GET /name shows the form; with both fields, by POST or in the address, they are kept: 303 /hello."""

    lesson = rendering.Lesson("/name", "Name", "Two fields, kept in the session.")
    _cp_config = rendering.NO_SLASH

    @cherrypy.expose
    @cherrypy.tools.allow(methods=["GET", "POST"])
    def index(self, first: object = "", last: object = "") -> bytes:
        rendering.no_store()
        typed = {"first": first, "last": last}
        name = {field: rendering.text_field(field, text).strip() for field, text in typed.items()}
        if all(name.values()) and not csrf.from_another_site():
            cherrypy.session.update(name)
            rendering.redirect("/hello")
        posted = cherrypy.request.method == "POST"
        shown = name if posted or any(name.values()) else kept()
        return rendering.render("typed.html", shown, lesson=self.lesson, status=400 if posted else 200)


class Hello:
    """GET /hello shows the name that the session holds; empty strings where it holds none."""

    _cp_config = rendering.NO_SLASH

    @cherrypy.expose
    @cherrypy.tools.allow(methods=["GET"])
    def index(self) -> bytes:
        rendering.no_store()
        return rendering.render("greeted.html", kept(), lesson=Name.lesson)


def kept() -> dict[str, str]:
    return {field: cherrypy.session.get(field, "") for field in ("first", "last")}


def mount(root: Any, site: Site) -> None:
    """Add the pages to the tree."""
    rendering.templates_from(Path(__file__).parent)
    for name, page in (("counter", Counter), ("name", Name), ("hello", Hello)):
        if hasattr(root, name):
            raise StartError(f"the tests have a page at /{name}: choose another address for that of the site")
        setattr(root, name, page())
