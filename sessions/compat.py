"""Runs a class written for CherryPy's own session tool (`cherrypy.lib.sessions.RamSession`, `FileSession`, a subclass).

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
from .store import log

_set_up: set[type] = set()
_mutex = threading.Lock()


def attach(options: Mapping[str, Any], priority: float) -> None:
    """Attach CherryPy's session hooks to this request."""
    hooks = cherrypy.serving.request.hooks
    # The class makes attributes of them all. One that is for another backend, and set above this path, would replace a
    # method: those of FunctionSession are called load, save and delete.
    names = [name for name in options if not callable(getattr(options["storage_class"], name, None))]
    conf = {"httponly": True, **{name: options[name] for name in names}}
    locking = conf.pop("locking", "implicit")
    samesite = conf.pop("samesite", "Lax")
    conf.pop("storage_type", None)
    hooks.attach("before_request_body", _init, priority=priority, **conf)
    if locking == "implicit":
        hooks.attach("before_handler", _lock)
    elif locking == "early":
        hooks.attach("before_request_body", _lock, priority=60)
    hooks.attach("before_finalize", theirs.save)
    hooks.attach("before_finalize", _guard_cookie, priority=90, name=conf.get("name", "session_id"), samesite=samesite)
    hooks.attach("after_error_response", _guard_cookie, name=conf.get("name", "session_id"), samesite=samesite)
    hooks.attach("on_end_request", theirs.close)


def check(options: Mapping[str, Any]) -> None:
    """Refuse at the start what CherryPy's FileSession would answer with a 500 at each visitor.

    Raises:
        ConfigError: it has no folder, or one that is not there.
    """
    folder = options.get("storage_path")
    if issubclass(options["storage_class"], theirs.FileSession) and not (folder and os.path.isdir(folder)):
        raise ConfigError(f"tools.sessions.storage_path is {folder!r}: CherryPy's FileSession needs an existing folder")


def _init(**conf: Any) -> None:
    if conf.get("secure", "auto") == "auto":
        conf["secure"] = is_https()
    _set_up_once(conf)
    theirs.init(**conf)


def _set_up_once(conf: dict[str, Any]) -> None:
    """CherryPy calls `setup` of the first class only that any application uses."""
    storage_class = conf["storage_class"]
    with _mutex:
        if storage_class not in _set_up:
            if hasattr(storage_class, "setup"):
                storage_class.setup(**{name: value for name, value in conf.items() if name != "storage_class"})
                log.info("set up %s", storage_class.__qualname__)
            _set_up.add(storage_class)


def _lock() -> None:
    cherrypy.serving.session.acquire_lock()


def _guard_cookie(name: str, samesite: str) -> None:
    cookie = cherrypy.serving.response.cookie
    if name in cookie:
        cookie[name]["samesite"] = samesite
