"""The code and the settings behind a page, as they are in force for its request."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import cherrypy

from sessions.tool import current_session
from web.highlighting import highlighted
from web.settings import ROOT

_SECRET = re.compile("secret|password|token|key|dsn|url")  # a url may hold one; a backend of one's own, any of these
_OFF = "tools.sessions.on = False  # this page has no session"


def of_request() -> dict[str, Any]:
    """Return the source of the handler that has just run, the file it stands in, and the settings of its session."""
    handler = cherrypy.serving.request.handler
    handler = getattr(getattr(handler, "oldhandler", handler), "callable", None)  # tools.encode puts itself around it
    found = {"code": None, "file": "", "settings": highlighted(_settings(), "ini")}
    if handler is not None:
        lines, first = inspect.getsourcelines(handler)
        path = Path(inspect.getsourcefile(handler) or "")
        name = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path.name
        code = textwrap.dedent("".join(lines))
        found |= {"code": highlighted(code, "python"), "file": f"{name}, from line {first}"}
    return found


def _settings() -> str:
    """Every option of the session tool as a configuration file would have it, with its default if it is not there."""
    session = current_session()
    if session is None:
        return _OFF
    settings = session.settings
    common = {field.name: getattr(settings, field.name) for field in fields(settings) if field.name != "store"}
    common["storage_class"] = settings.storage_class.__name__
    common["accounts"] = common["accounts"] and "(the accounts of the site)"
    own = _shown(dict(settings.store))
    for option in ("moving_from", "moving_to"):
        common[option] = common[option] and _shown(common[option])
    set_here = cherrypy.serving.request.config
    lines = ["tools.sessions.on = True  # the one line that gives a page a session"]
    for name, value in {**common, **own}.items():
        default = "" if f"tools.sessions.{name}" in set_here else "  # default"
        lines.append(f"tools.sessions.{name} = {value!r}{default}")
    return "\n".join(lines)


def _shown(store: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a store without its secrets."""
    return {name: "(hidden)" if _SECRET.search(name) else value for name, value in store.items()}
