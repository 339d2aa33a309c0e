"""What happens to sessions, step by step, for whoever wants to watch: a page that teaches, a trace, a meter.

    def show(event):
        print(event.name, event.details)

    sessions.subscribe(show)

A watcher is called in the thread of the request, while the session may be locked: it has to be quick, and must not use
the session. While there is none, a step costs one look at an empty list.

    cookie     the browser's cookie was read            sent, well_formed
    asked      the session was asked for
    queued     another request of this process has it   ahead: how many come before
    trip       one round trip to a server               to, what
    locked     nobody else can use it now
    loaded     its record is here                       record, locked
    unknown    the store has no such live session       why
    compared   with what was loaded                     changed
    saved      a record was stored                      record, how: created, changed, renewed, moved
    unsaved    nothing was stored                       why
    failed     the store could not do what was asked    why
    deleted    what was stored is destroyed
    unlocked   others can use it
    told       the answer sets the browser's cookie     how: new, renewed, expired
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

log = logging.getLogger("sessions")


@dataclass(frozen=True, slots=True)
class Event:
    """One step.

    Attributes:
        name: one of the words above.
        at: when it had happened, in seconds of `time.perf_counter()`.
        key: of the session, as the store knows it; empty where there is none.
        details: what the table above lists. Nothing in them opens a session, but a `record` holds its values.
    """

    name: str
    at: float
    key: str
    details: Mapping[str, Any]


Watcher = Callable[[Event], None]

watchers: list[Watcher] = []
"""Who watches. Look here before calling `publish`: putting an event together costs more than the look."""


def subscribe(watcher: Watcher) -> None:
    """Call `watcher` at each step of every session of this process. Doing it again does nothing more."""
    if watcher not in watchers:
        watchers.append(watcher)


def unsubscribe(watcher: Watcher) -> None:
    """Stop calling `watcher`, if it is called at all."""
    if watcher in watchers:
        watchers.remove(watcher)


def publish(name: str, key: str = "", **details: Any) -> None:
    """Tell all watchers. One that fails is logged and harms nobody: it may only watch."""
    event = Event(name, time.perf_counter(), key, details)
    for watcher in tuple(watchers):
        try:
            watcher(event)
        except Exception:
            log.exception("a watcher of sessions failed at %r", name)
