"""The lessons: a folder each, with its page, its exercise and the solution. To take one out, delete its folder and its
line here; the line `mount.lessons` of site.conf takes out all of them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from markupsafe import Markup

import sessions
from lessons.attributes.page import Attributes
from lessons.backends.page import Backends
from lessons.cookies.page import Cookies
from lessons.counter.page import Counter
from lessons.glossary.page import Glossary
from lessons.name.page import Hello, Name
from lessons.session.page import Identity
from lessons.xray import tool
from web import rendering
from web.highlighting import highlighted
from web.wiring import Site, Static

FOLDER = Path(__file__).resolve().parent


def mount(root: Any, site: Site) -> None:
    """Add the lessons to the page tree, and in development the X-ray below each page."""
    rendering.templates_from(FOLDER, solution=solution)
    root.lessons = SimpleNamespace(static=Static(FOLDER / "static"))
    root.cookie = Cookies()
    root.cookie.attributes = Attributes()
    root.counter = Counter()
    root.name = Name()
    root.hello = Hello()
    root.session = Identity()
    root.backends = Backends(site.profiles)
    root.glossary = Glossary()
    site.config["/"].setdefault("tools.xray.on", True)
    if not site.profiles:
        for options in site.config.values():
            options["tools.xray.on"] = False
    if site.config["/"]["tools.xray.on"]:
        sessions.subscribe(tool.watch)


def solution(name: str) -> Markup:
    """Return the program of an exercise as HTML: 'counter/last_visit.py'."""
    return highlighted((FOLDER / name).read_text(encoding="utf-8"), "python")
