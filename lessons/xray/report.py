"""What the X-ray shows of a request, as plain data: its cookies, its steps, what the store has, what has changed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from http.cookies import Morsel
from typing import Any

import cherrypy

import sessions
from sessions import codec
from sessions.cookies import request_cookies
from sessions.record import SESSION
from web import rendering, times

# What an attribute of Set-Cookie tells the browser (RFC 6265bis section 4.1.2). {} is its value.
_ATTRIBUTES = {
    "max-age": "Keep it for {} seconds by your own clock. 0 throws it away. Without this it ends with the browser.",
    "expires": "The same as a date by our clock, for clients that know no Max-Age. Max-Age wins.",
    "path": "Send it with requests for {} and everything below.",
    "domain": "Send it to {} and all hosts below, too. Without this, to this host alone.",
    "version": "A leftover from 1997. Browsers skip what they do not know.",
    "httponly": "Scripts must not see it.",
    "secure": "Send it by https only.",
    "samesite": "{}: do not send it with forms and images on other people's sites.",
}

_SAVED = {
    "created": "A new record is stored, under a new id: {}.",
    "changed": "The changed record is stored: {}.",
    "renewed": "Nothing changed, but the deadline is moved on: {}.",
    "moved": "Under the old id there is only a tombstone now, which says that the session has moved.",
}

# What a step was, in words; the details of the event fill it in. Those of the site's own are at the end.
_STEPS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "cookie": lambda d: "The browser's cookie was read: " + _presented(d),
    "asked": lambda d: "The session was asked for: nobody else may use it from now on.",
    "queued": lambda d: f"Another request has it. Waiting; {d['ahead']} in the queue, this one included.",
    "trip": lambda d: f"A round trip to {d['to']}: {d['what']}",
    "locked": lambda d: "It is ours alone now.",
    "loaded": lambda d: f"The record was loaded, {_size(d)}, {'with' if d['locked'] else 'without'} the lock.",
    "malformed": lambda d: "What the browser sent cannot be the id of a session. It is not looked up.",
    "unknown": lambda d: f"There is no such session: {d['why']}.",
    "expired": lambda d: "The session has come to its end: it was not used for too long, or began too long ago.",
    "revoked": lambda d: "The account of this session has ended it, or is gone itself.",
    "quarantined": lambda d: f"The record cannot be read, and is put aside: {d['why']}.",
    "compared": lambda d: "Compared with what was loaded: " + ("something changed." if d["changed"] else "the same."),
    "saved": lambda d: _SAVED[d["how"]].format(_size(d)),
    "moved": lambda d: f"The session has a new id. The old one, whose reference is {d['before']}, is dead.",
    "taken_over": lambda d: "The session has come from the former store, and is in this one from now on.",
    "unsaved": lambda d: f"Not saved: {d['why']}.",
    "lost": lambda d: "Not saved: another request has ended the session meanwhile, and it must not come back.",
    "failed": lambda d: f"The store could not do it: {d['why']}.",
    "deleted": lambda d: "What was stored is destroyed.",
    "ended": lambda d: f"Another session of {d['account']} is ended from here.",
    "ended_all": lambda d: f"All other sessions of {d['account']} are ended by the account itself.",
    "unlocked": lambda d: "The lock is released: the next request may have it.",
    "cookie_set": lambda d: f"The answer sets the cookie ({d['how']}).",
    "insecure": lambda d: "The cookie is for https only, and this answer goes by plain http: the browser drops it.",
    "refused": lambda d: f"The browser refuses the cookie: {d['why']}.",
    "handler": lambda d: "The page's own code begins.",
    "answered": lambda d: "The page is made. What is left is to save.",
}

# The same where the cookie is the store, which locks nothing.
_WITHOUT_LOCK: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "asked": lambda d: "The session was asked for. It is in the cookie, and nobody else is kept away from it.",
    "locked": lambda d: "The cookie is opened.",
    "loaded": lambda d: f"The record in it was loaded, {_size(d)}.",
    "unlocked": lambda d: "Done with it. Of several answers, the cookie of the last one stays.",
}


def _presented(details: Mapping[str, Any]) -> str:
    if not details["sent"]:
        return "there was none for a session."
    return "it may be a session's." if details["well_formed"] else "it cannot be a session's."


def _size(details: Mapping[str, Any]) -> str:
    return f"{len(details['record'].data)} bytes of values"


def of_request() -> dict[str, Any]:
    """Return the picture of the current request, whose session has been saved and unlocked."""
    request = cherrypy.serving.request
    steps: list[sessions.Event] = getattr(request, "xray_steps", [])
    began = steps[0].at if steps else 0.0
    trips = [step for step in steps if step.name == "trip"]
    backend = rendering.backend()
    words = _STEPS if backend is None or backend.locks_threads else _STEPS | _WITHOUT_LOCK
    return {
        "asked": f"{request.method} {rendering.url(request.path_info)}",
        "came": [(name, rendering.shown_cookie(name, value)) for name, value in request_cookies()],
        "set": [_told(morsel) for morsel in cherrypy.serving.response.cookie.values()],
        "steps": [(round((step.at - began) * 1e6), step.name, words[step.name](step.details)) for step in steps],
        "spans": _spans(steps),
        "took": round((steps[-1].at - began) * 1e6) if steps else 0,
        "trips": len(trips),
        "changes": _changes(steps),
        "stored": _stored(),
    }


def _told(morsel: Morsel[str]) -> dict[str, Any]:
    """A Set-Cookie, attribute by attribute."""
    given = {name: value for name, value in morsel.items() if value not in ("", None, False)}
    attributes = [(name, value, _ATTRIBUTES.get(name, "").format(value)) for name, value in given.items()]
    return {"name": morsel.key, "value": rendering.shown_cookie(morsel.key, morsel.value), "attributes": attributes}


def _spans(steps: list[sessions.Event]) -> list[tuple[str, float, float]]:
    """What went on from when to when, as name, beginning and length in parts of a thousand of the whole."""
    found = []
    whole = (steps[-1].at - steps[0].at) * 1e-3 if len(steps) > 1 else 1.0
    for name, opens, closes in (("waited", "asked", "locked"), ("held", "locked", "unlocked"),
                                ("page", "handler", "answered")):  # fmt: skip
        start = None
        for step in steps:
            if step.name == opens:
                start = step.at
            elif step.name == closes and start is not None:
                found.append((name, (start - steps[0].at) / whole, (step.at - start) / whole))
                start = None
    return found


def _changes(steps: list[sessions.Event]) -> list[tuple[str, str | None, str | None]]:
    """Each value that this request has changed: its key, what it was and what it is; None where there was none."""
    before = next((_values(step.details["record"]) for step in steps if step.name == "loaded"), {})
    records = [step.details["record"] for step in steps if step.name == "saved"]
    saved = [_values(record) for record in records if record.kind == SESSION]
    after = {} if any(step.name == "deleted" for step in steps) else saved[-1] if saved else before
    keys = [*before, *(key for key in after if key not in before)]
    return [(key, before.get(key), after.get(key)) for key in keys if before.get(key) != after.get(key)]


def _values(record: sessions.Record) -> dict[str, str]:
    values = {str(key): rendering.shortened(repr(value)) for key, value in codec.decode(record.data).items()}
    return values | ({"(signed in)": record.user} if record.user else {})


def _stored() -> dict[str, Any] | None:
    """What the store has now, read once more for this picture; None where the request has no session that is stored."""
    session = getattr(cherrypy.serving, "session", None)
    if not isinstance(session, sessions.Session) or not session.accessed or session.key is None:
        return None
    store, key = session.store, session.key
    try:
        record = store.load(key)
    except sessions.StoreError as error:
        return {"place": store.describe_location(key), "gone": f"The store cannot say: {type(error).__name__}."}
    if record is None or record.kind != SESSION:
        return {"place": store.describe_location(key), "gone": "It is there no more."}
    limits = session.settings.limits_of(record)
    ends = {"if it is not used": record.deadline}
    if limits.lifetime:
        ends["at the latest"] = record.created + limits.lifetime * 60
    now, text = store.clock(), store.describe_record(key, record)
    return {
        "place": store.describe_location(key),
        "text": rendering.shortened(text, 400),
        "bytes": len(text),
        "values": _values(record),
        "ends": [(when, times.iso(end), times.duration(max(0, end - now))) for when, end in ends.items()],
        "read": times.iso(time.time()),
    }
