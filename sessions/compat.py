"""Runs a class written for CherryPy's own session tool: a subclass of `cherrypy.lib.sessions.Session`.

Such a class keeps its own rules, and CherryPy's hooks run it. What this package adds is the safer cookie.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from typing import Any

import cherrypy
import cherrypy.lib.sessions as theirs

from .cookies import is_https
from .errors import ConfigError
from .events import log
from .options import check_cookie

_set_up: set[type] = set()
_mutex = threading.Lock()


def attach(options: Mapping[str, Any], storage_class: type[Any], priority: float) -> None:
    """Attach CherryPy's session hooks to this request."""
    hooks = cherrypy.serving.request.hooks
    # The class makes attributes of them all. One that is for another backend, and set above this path, would replace a
    # method: those of FunctionSession are called load, save and delete.
    names = [name for name in options if not callable(getattr(storage_class, name, None))]
    conf = {"httponly": True, **{name: options[name] for name in names}, "storage_class": storage_class}
    locking, samesite = conf.get("locking", "implicit"), conf.pop("samesite", "Lax")
    conf.pop("storage_type", None)
    hooks.attach("before_request_body", _init, priority=priority, **conf)
    if locking == "implicit":
        hooks.attach("before_handler", _lock)
    elif locking == "early":
        hooks.attach("before_request_body", _lock, priority=60)
    hooks.attach("before_finalize", theirs.save)
    for point in ("before_finalize", "after_error_response"):
        hooks.attach(point, _guard_cookie, priority=90, name=conf.get("name", "session_id"), samesite=samesite)
    hooks.attach("on_end_request", theirs.close)


def check(options: Mapping[str, Any], storage_class: type[Any]) -> None:
    """Refuse at the start what CherryPy's FileSession would answer with a 500 at each visitor, and a browser drop."""
    check_cookie(options, storage_class)
    folder = options.get("storage_path")
    if issubclass(storage_class, theirs.FileSession) and not (folder and os.path.isdir(folder)):
        raise ConfigError(f"tools.sessions.storage_path is {folder!r}: CherryPy's FileSession needs an existing folder")


def _init(storage_class: type[Any], **conf: Any) -> None:
    if conf.get("secure", "auto") == "auto":
        conf["secure"] = is_https()
    with _mutex:  # CherryPy calls `setup` of the first class only that any application uses
        if storage_class not in _set_up:
            if hasattr(storage_class, "setup"):
                storage_class.setup(**conf)
                log.info("set up %s", storage_class.__qualname__)
            _set_up.add(storage_class)
    theirs.init(storage_class=storage_class, **conf)


def _lock() -> None:
    cherrypy.serving.session.acquire_lock()


def _guard_cookie(name: str, samesite: str) -> None:
    cookie = cherrypy.serving.response.cookie
    if name in cookie:
        cookie[name]["samesite"] = samesite
