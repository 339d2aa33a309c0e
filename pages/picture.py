"""What the X-ray shows of a request, as plain data: its cookies, its steps, what the store has, what has changed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from http.cookies import Morsel
from typing import Any

import cherrypy

import sessions
from pages import site, times
from sessions import codec
from sessions.limits import Limits

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
    "moved": "Under the old id there is only word now that the session has moved: {}.",
}

# What a step was, in words; the details of the event fill it in. Those of the site's own are at the end.
_STEPS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "cookie": lambda d: "The browser's cookie was read: " + _presented(d),
    "asked": lambda d: "The session was asked for: nobody else may use it from now on.",
    "queued": lambda d: f"Another request has it. Waiting; {d['ahead']} in the queue, this one included.",
    "trip": lambda d: f"A round trip to {d['to']}: {d['what']}",
    "locked": lambda d: "It is ours alone now.",
    "loaded": lambda d: f"The record was loaded, {_size(d)}, {'with' if d['locked'] else 'without'} the lock.",
    "unknown": lambda d: f"There is no such session: {d['why']}.",
    "compared": lambda d: "Compared with what was loaded: " + ("something changed." if d["changed"] else "the same."),
    "saved": lambda d: _SAVED[d["how"]].format(_size(d)),
    "unsaved": lambda d: f"Not saved: {d['why']}.",
    "failed": lambda d: f"The store could not do it: {d['why']}.",
    "deleted": lambda d: "What was stored is destroyed.",
    "unlocked": lambda d: "Let go: the next request may have it.",
    "told": lambda d: f"The answer sets the cookie ({d['how']}).",
    "handler": lambda d: "The page's own code begins.",
    "answered": lambda d: "The page is made. What is left is to save.",
}


def _presented(details: Mapping[str, Any]) -> str:
    if not details["sent"]:
        return "there was none for a session."
    return "it may be a session's." if details["well_formed"] else "it cannot be a session's."


def _size(details: Mapping[str, Any]) -> str:
    return f"{len(details['record'].data)} bytes of values"


def of_request() -> dict[str, Any]:
    """Return the picture of the current request, whose session has been saved and let go."""
    request = cherrypy.serving.request
    steps: list[sessions.Event] = getattr(request, "xray_steps", [])
    began = steps[0].at if steps else 0.0
    trips = [step for step in steps if step.name == "trip"]
    return {
        "asked": f"{request.method} {site.url(request.path_info)}",
        "came": [(name, site.shown_cookie(name, value)) for name, value in sessions.request_cookies()],
        "set": [_told(morsel) for morsel in cherrypy.serving.response.cookie.values()],
        "steps": [(round((step.at - began) * 1e6), step.name, _STEPS[step.name](step.details)) for step in steps],
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
    return {"name": morsel.key, "value": site.shown_cookie(morsel.key, morsel.value), "attributes": attributes}


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
    saved = [_values(step.details["record"]) for step in steps if step.name == "saved" and step.details["record"].data]
    after = {} if any(step.name == "deleted" for step in steps) else saved[-1] if saved else before
    keys = [*before, *(key for key in after if key not in before)]
    return [(key, before.get(key), after.get(key)) for key in keys if before.get(key) != after.get(key)]


def _values(record: sessions.Record) -> dict[str, str]:
    values = {str(key): site.shown(repr(value)) for key, value in codec.decode(record.data).items()}
    return values | ({"(signed in)": record.user} if record.user else {})


def _stored() -> dict[str, Any] | None:
    """What the store has now, read once more for this picture; None where the request has no session that is stored."""
    session = getattr(cherrypy.serving, "session", None)
    if not isinstance(session, sessions.Session) or not session.touched or session.key is None:
        return None
    store, key = session.store, session.key
    try:
        record = store.load(key)
    except sessions.StoreError as error:
        return {"place": store.place(key), "gone": f"The store cannot say: {type(error).__name__}."}
    if record is None or not record.data:
        return {"place": store.place(key), "gone": "It is there no more."}
    limits = session.when_remembered if record.remembered else Limits(session.timeout, session.lifetime)
    ends = {"if it is not used": record.deadline}
    if limits.lifetime:
        ends["at the latest"] = record.created + limits.lifetime * 60
    now = store.clock()
    return {
        "place": store.place(key),
        "text": site.shown(store.as_stored(key, record)),
        "bytes": len(store.as_stored(key, record)),
        "values": _values(record),
        "ends": [(when, times.iso(end), times.duration(max(0, end - now))) for when, end in ends.items()],
        "kept": session.outlives_browser(True),
        "read": times.iso(time.time()),
    }
