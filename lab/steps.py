"""The steps of one request's session, noted as they happen: what the experiments measure."""

from __future__ import annotations

from collections.abc import Callable

import cherrypy

import sessions
from sessions.events import unsubscribe


def follow(note: Callable[[sessions.Event], None], ended: Callable[[], None] = lambda: None) -> None:
    """From now until the end of this request, call `note` at each step of its session, and then `ended`, once.

    The end is when the answer has gone out: the session is saved and let go after the page, but before that.
    """
    request = cherrypy.serving.request

    def watch(event: sessions.Event) -> None:
        if cherrypy.serving.request is request:  # each thread has one of its own
            note(event)

    def end() -> None:
        unsubscribe(watch)
        ended()

    sessions.subscribe(watch)
    request.hooks.attach("on_end_request", end, failsafe=True, priority=95)  # after the tool's own, at 90
