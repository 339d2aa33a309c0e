"""The X-ray: what a request did to its cookies and its session, shown under the page that it answered with.

The session is saved after the page has been made. So the template leaves a placeholder, which the tool fills when the
session has been saved and unlocked, and its cookie set. It knows of the session by the events of `sessions`.

It exists only on a site in development (see mount() of the lessons), and shows itself to nobody but this machine's
users: who looks over a visitor's shoulder could read the session there.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from typing import Any

import cherrypy

import sessions
from lessons.xray import report, source
from web import csrf, rendering

_MOST_STEPS = 300  # of one request; a page that unlocks its session and locks it again may have any number
_MOST_BEFORE = 100  # redirects that are remembered until the page they lead to is shown

_before: OrderedDict[str, dict[str, Any]] = OrderedDict()  # by the hash of the session's id, until it is shown
_mutex = threading.Lock()


def watch(event: sessions.Event) -> None:
    """Keep each step with the request that takes it; a thread of the package's own has none."""
    request = cherrypy.serving.request
    if request.app is not None:
        steps = vars(request).setdefault("xray_steps", [])
        if len(steps) < _MOST_STEPS:
            steps.append(event)


class XRay(cherrypy.Tool):
    """`cherrypy.tools.xray`."""

    def __init__(self) -> None:
        super().__init__("before_finalize", fill, name="xray", priority=95)  # the session is saved at 90

    def _setup(self) -> None:
        # After tools.proxy (at 30): before it, whoever comes through a proxy on this machine seems to be on it.
        cherrypy.serving.request.hooks.attach("before_request_body", self._begin, priority=35)

    def _begin(self) -> None:
        request = cherrypy.serving.request
        if csrf.from_this_machine():
            request.placeholder = True
            request.hooks.attach("before_handler", lambda: _mark("handler"), priority=95)
            request.hooks.attach("before_finalize", lambda: _mark("answered"), priority=5)
            super()._setup()


def _mark(name: str) -> None:
    watch(sessions.Event(name, time.perf_counter(), "", {}))


def fill() -> None:
    """Put the X-ray in the place of the placeholder; of a redirect, keep it for the page that it leads to."""
    response = cherrypy.serving.response
    session = getattr(cherrypy.serving, "session", None)
    # The hash of the id, which each key ends with: where the cookie is the store, the rest changes with each save.
    key = session.claimed_key[-64:] if isinstance(session, sessions.Session) else ""
    if 300 <= int(str(response.status or 200)[:3]) < 400:
        _keep(key, report.of_request())
    elif _is_page(response) and rendering.PLACEHOLDER in (body := response.collapse_body()):
        with _mutex:
            before = _before.pop(key, None)
        panel = rendering.fragment("xray/panel.html", now=report.of_request(), before=before, **source.of_request())
        response.body = body.replace(rendering.PLACEHOLDER, panel, 1)
        response.headers.setdefault("Cache-Control", "no-store")


def _is_page(response: Any) -> bool:
    """Whether the placeholder can be in it: in JSON, which is not escaped, the same words would be a visitor's."""
    return not response.stream and str(response.headers.get("Content-Type")).startswith("text/html")


def _keep(key: str, shown: dict[str, Any]) -> None:
    if key:
        with _mutex:
            _before[key] = shown
            _before.move_to_end(key)
            while len(_before) > _MOST_BEFORE:
                _before.popitem(last=False)


cherrypy.tools.xray = XRay()
