"""Putting the tool in place, and checking the options of an application before its first visitor."""

from __future__ import annotations

import inspect
import logging
import types
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

import cherrypy

from . import compat, resolve, tool
from .audit import OneLine
from .cookies import LenientRequest
from .facts import Facts
from .response import cookie_name
from .settings import Settings, is_cherrypy_class
from .table import stores
from .workers import SpareWorkers

_PREFIX = "tools.sessions."
_theirs: weakref.WeakKeyDictionary[Any, set[str]] = weakref.WeakKeyDictionary()  # cookies of CherryPy's own classes


class _SessionProxy(cherrypy._ThreadLocalProxy):
    """`cherrypy.session`: the session of whichever request asks. CherryPy's own proxy cannot be iterated over."""

    def __iter__(self) -> Iterator[Any]:
        return iter(cherrypy.serving.session)


class _ToCherryPyLog(logging.Handler):
    """Hands what this package logs to CherryPy's own log, which the site's operator has set up already."""

    def emit(self, record: logging.LogRecord) -> None:
        cherrypy.log.error(self.format(record), "SESSIONS", record.levelno)


def install() -> None:
    """Put the session tool of this package at `cherrypy.tools.sessions`. Calling it again does nothing more.

    It also makes `cherrypy.session` known, lets applications read cookies leniently (`LenientRequest`), and opens and
    closes the stores of every mounted application with `cherrypy.engine`. A WSGI application that runs under another
    server calls `open_stores` instead.
    """
    if isinstance(cherrypy.tools.sessions, tool.SessionTool):
        return
    cherrypy.tools.sessions = tool.SessionTool()
    cherrypy.session = _SessionProxy("session")
    if cherrypy.Application.request_class is cherrypy._cprequest.Request:
        cherrypy.Application.request_class = LenientRequest
    log = logging.getLogger("sessions")
    log.setLevel(logging.INFO)
    log.propagate = False
    log.addFilter(OneLine(_context))
    log.addHandler(_ToCherryPyLog())
    workers = SpareWorkers()
    cherrypy.engine.subscribe("start", _open_all, priority=70)  # before the server takes requests
    cherrypy.engine.subscribe("start", workers.start, priority=80)  # when it has its threads
    cherrypy.engine.subscribe("stop", workers.stop, priority=20)
    cherrypy.engine.subscribe("stop", close_stores, priority=60)  # after the server's last request


def _context() -> dict[str, str]:
    """What is known of the request that this thread works on."""
    request = cherrypy.serving.request
    if request.app is None:  # a thread of the package's own
        return {}
    session = tool.ours()
    return {"address": request.remote.ip, **(session.known if session is not None else {})}


def _open_all() -> None:
    for app in list(cherrypy.tree.apps.values()):
        if isinstance(app, cherrypy.Application):  # the tree may hold any WSGI application
            open_stores(app)


def open_stores(app: cherrypy.Application) -> None:
    """Check every session option of an application, wherever it is set, and open its stores.

    Raises:
        ConfigError: an option is unknown, missing or has a value it cannot have, or a store cannot be opened.
        Unavailable: a store does not answer.
    """
    for options in places(app):
        if is_cherrypy_class(options):
            compat.check(options)
            _theirs.setdefault(app, set()).add(options.get("name", "session_id"))
        else:
            settings = Settings.parse(options)
            stores.open(app, settings.storage_class.store_class, settings.store, settings.name)


def close_stores(app: cherrypy.Application = None) -> None:
    """Close the stores of an application, or of all. The next request opens them again."""
    stores.close(app)
    resolve.forget(app)


def describe(app: cherrypy.Application) -> Facts | None:
    """What the backend of an application declares of itself; None while it has no store open."""
    found = stores.of(app)
    return found[0].facts if found else None


def cookie_names() -> set[str]:
    """The names of the cookies that open sessions, anywhere in the application of the current request. Whoever shows
    cookies must hide the values of these."""
    app = cherrypy.serving.request.app
    return {cookie_name(), *(store.cookie_name for store in stores.of(app)), *_theirs.get(app, ())}


def addresses(app: cherrypy.Application) -> list[str]:
    """The servers that the stores of an application talk to, each as host:port."""
    return list(dict.fromkeys(address for store in stores.of(app) for address in store.addresses))


def ping(app: cherrypy.Application) -> None:
    """Do nothing if every store of an application answers.

    Raises:
        Unavailable: one does not.
    """
    for store in stores.of(app):
        store.ping()


def places(app: cherrypy.Application) -> Iterator[dict[str, Any]]:
    """The session options that are in force at each path at which something configures them, where they are on."""
    set_at: dict[str, dict[str, Any]] = {"": _own(cherrypy.config)}
    for path, config in _handlers(app.root, "", set()):
        set_at.setdefault(path, {}).update(_own(config))
    for path, config in app.config.items():
        if path.startswith("/"):
            set_at.setdefault(path.rstrip("/"), {}).update(_own(config))
    for path in sorted(set_at):
        options: dict[str, Any] = {}
        for above in sorted(set_at):
            if path == above or path.startswith(f"{above}/"):
                options |= set_at[above]
        if options.pop("on", False):
            yield options


def _own(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(_PREFIX): value for name, value in config.items() if name.startswith(_PREFIX)}


def _handlers(node: Any, path: str, seen: set[int]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every page handler below `node` that brings configuration of its own (`_cp_config`, tools as decorators)."""
    if id(node) in seen:
        return
    seen.add(id(node))
    config = getattr(node, "_cp_config", None)
    if isinstance(config, Mapping):
        yield path, config
    if inspect.isroutine(node) or node is None:
        return
    members: dict[str, Any] = {}
    for source in (*reversed(type(node).__mro__), node):
        members.update(getattr(source, "__dict__", {}))
    for name, member in members.items():
        if not name.startswith("_") and (_is_handler(member) or _has_handlers(member)):
            yield from _handlers(member, f"{path}/{name}", seen)


def _is_handler(member: Any) -> bool:
    """Whether it is exposed, or has options of its own as the GET and POST of a MethodDispatcher may have."""
    return not isinstance(member, type) and bool(getattr(member, "exposed", False) or hasattr(member, "_cp_config"))


def _has_handlers(member: Any, levels: int = 3) -> bool:
    """Whether `member` is a node of the page tree, maybe an empty one with others below, rather than something a page
    happens to use."""
    if levels == 0 or isinstance(member, (type, types.ModuleType)) or not hasattr(member, "__dict__"):
        return False
    own = [value for name, value in vars(member).items() if not name.startswith("_")]
    of_class = [value for cls in type(member).__mro__ for value in vars(cls).values()]
    return any(map(_is_handler, own + of_class)) or any(_has_handlers(value, levels - 1) for value in own)
