"""What happens to sessions, told to whoever subscribes: a page that teaches, a meter, the log.

A subscriber is called in the thread of the request, while the session may be locked: it has to be quick, and must not
use the session.

    cookie       the browser's cookie was read                    sent, well_formed
    asked        the session was asked for
    queued       another request of this process has it           ahead: how many come before
    trip         one round trip to a server                       to, what
    locked       nobody else can use it now
    loaded       its record is here                               record, locked
    malformed    what the browser sent is no id
    unknown      the store has no such live session               why
    expired      it has come to its end                           record
    revoked      its account has ended it                         record
    quarantined  its record could not be read                     why
    compared     with what was loaded                             changed
    saved        a record was stored                              record, how: created, changed, renewed, moved
    moved        it has a new id                                  account, before: reference under the old id
    taken_over   it has come from the former store                account
    unsaved      nothing was stored                               why
    lost         nothing was stored: it was deleted meanwhile
    failed       the store could not do what was asked            why
    deleted      what was stored is destroyed                     account
    ended        another session or an operator ended it          account
    ended_all    an account has ended all of its sessions         account
    unlocked     others can use it
    cookie_set   the answer sets the browser's cookie             how: new, renewed, expired
    insecure     a Secure cookie was set on plain http            site, again: whether that was logged before
    refused      a cookie was set that browsers refuse            why, site, again
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import cherrypy

from . import codec
from .record import reference

log = logging.getLogger("sessions")

_BREAKS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")  # also what a terminal would obey (ASVS 16.4.1)
_PLAIN = re.compile(r"[\w.:@+/-]{1,200}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened."""

    name: str  # one of the words above
    at: float  # seconds of `time.perf_counter()`
    key: str  # of the session, as the store knows it; empty where there is none
    details: Mapping[str, Any]  # as above; nothing in them opens a session, but a `record` holds its values

    @property
    def values(self) -> dict[Any, Any]:
        """Return the values of the session, for an event whose details have its `record`."""
        return codec.decode(self.details["record"].data)


Subscriber = Callable[[Event], None]

# What each request does. Putting these events together would cost it as much as its lock: look at `watchers`, those who
# subscribe to any of them, before publishing one. Other events are published unasked.
STEPS = frozenset("cookie asked locked loaded compared saved unsaved unlocked trip cookie_set".split())
watchers: list[Subscriber] = []
_subscriptions: list[tuple[Subscriber, frozenset[str]]] = []


def subscribe(subscriber: Subscriber, *names: str) -> None:
    """Call `subscriber` at each event of this process, or at those of these names. Calling again replaces the names."""
    unsubscribe(subscriber)
    _subscriptions.append((subscriber, frozenset(names)))
    if not names or not STEPS.isdisjoint(names):
        watchers.append(subscriber)


def unsubscribe(subscriber: Subscriber) -> None:
    """Stop calling `subscriber`."""
    _subscriptions[:] = [one for one in _subscriptions if one[0] != subscriber]
    watchers[:] = [one for one in watchers if one != subscriber]


def publish(name: str, key: str = "", **details: Any) -> None:
    """Tell the subscribers. One that fails is logged and harms nobody: it may only watch."""
    event = None
    for subscriber, names in tuple(_subscriptions):
        if not names or name in names:
            event = event or Event(name, time.perf_counter(), key, details)
            try:
                subscriber(event)
            except Exception:
                log.exception("a subscriber of sessions failed at %r", name)


# ---------------------------------------------------------------- the log

# The events that stand in the log, for those who have to find out later what happened (ASVS 16.2 and 16.3).
LOGGED = {
    "malformed": "malformed id presented",
    "unknown": "unknown id presented",
    "expired": "session has expired",
    "revoked": "session was revoked",
    "lost": "session was deleted meanwhile; nothing was saved",
    "moved": "session has moved to a new id",
    "taken_over": "session was taken over from the former store",
    "deleted": "session was ended",
    "ended": "session was ended from elsewhere",
    "ended_all": "all sessions of the account were revoked",
    "quarantined": "unreadable record of session quarantined",
    "insecure": "a Secure cookie was set on plain http, and browsers drop it there: serve the site by https, and "
    "behind a proxy turn tools.proxy on",
    "refused": "browsers refuse the session's cookie",
}


def write_to_log(event: Event) -> None:
    """Log an event: the subscriber that `sessions.install()` adds."""
    fields = dict(event.details)
    if fields.pop("again", False):  # of one configuration one line is enough
        return
    if "record" in fields:
        fields["account"] = fields.pop("record").user
    if event.name not in LOGGED:
        fields["step"] = event.name
    level = logging.WARNING if event.name in ("quarantined", "insecure", "refused") else logging.INFO
    log_event(LOGGED.get(event.name, "step of a session"), event.key, level=level, **fields)


def log_event(event: str, key: str = "", *, level: int = logging.INFO, **fields: object) -> None:
    """Log an event in one line: `sign-in account=ada address=192.0.2.7 session=3d2e6796`.

    The event is a few fixed words, nothing that a visitor sent, and no field an id or a password. The session is that
    of the request unless there is a `key`.
    """
    if key:
        fields["session"] = reference(key)
    log.log(level, "%s", event, extra={"fields": fields})


class SingleLineFilter(logging.Filter):
    """Completes each line of the log: its fields, and those of the request in which it was written."""

    def filter(self, record: logging.LogRecord) -> bool:
        request = cherrypy.serving.request
        fields = {"address": request.remote.ip} if request.app else {}  # None in a thread of the package's own
        if (session := getattr(request, "session", None)) is not None:
            fields |= session.known
        fields |= record.__dict__.pop("fields", {})
        told = "".join(f" {name}={as_word(v)}" for name, v in sorted(fields.items()) if v not in (None, ""))
        record.msg, record.args = _BREAKS.sub(" ", record.getMessage()) + told, ()
        return True


def as_word(value: object) -> str:
    """Return a value as one word of a line: quoted, its control characters escaped, unless it is a plain word."""
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text[:200])
