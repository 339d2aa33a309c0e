"""Which settings and which store a request has: worked out once for all requests with the same options."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

import cherrypy

from .audit import note
from .events import Event, subscribe
from .record import Record
from .settings import Settings, is_cherrypy_class
from .store import Store
from .stored import ask
from .table import stores

Use = tuple[Settings, Store] | None  # None: a class written for CherryPy's own tool
_resolved: weakref.WeakKeyDictionary[Any, dict[Any, Use]] = weakref.WeakKeyDictionary()


def resolve(app: Any, options: Mapping[str, Any]) -> Use:
    """The checked options and the open store; worked out once, for they are the same for thousands of requests."""
    known = _resolved.get(app)
    if known is None:
        known = _resolved.setdefault(app, {})
    key: Any = tuple(options.items())
    try:
        return known[key]
    except KeyError:
        pass
    except TypeError:  # an option that is a list
        key = repr(options)
        if key in known:
            return known[key]
    known[key] = use = _worked_out(app, options)
    return use


def _worked_out(app: Any, options: Mapping[str, Any]) -> Use:
    options = {name: value for name, value in options.items() if name not in ("on", "priority")}
    if is_cherrypy_class(options):
        return None
    settings = Settings.parse(options)
    store = ask(stores.open, app, settings.storage_class.store_class, settings.store, settings.name)
    stores.clean_every(store, settings.clean_freq)
    if settings.debug:
        subscribe(_log_step)
    return settings, store


def forget(app: Any = None) -> None:
    """Work out the options of an application, or of all, anew at its next request."""
    if app is None:
        _resolved.clear()
    else:
        _resolved.pop(app, None)


def _log_step(event: Event) -> None:
    """What `debug` does, for the requests that ask for it."""
    settings = getattr(cherrypy.serving.request, "session_settings", None)
    if settings and settings.debug:
        shown = {name: value for name, value in event.details.items() if not isinstance(value, Record)}
        note("step of a session", event.key, step=event.name, **shown)
