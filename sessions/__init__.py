"""Sessions for CherryPy: every backend, the same rules on each.

    import cherrypy, sessions
    sessions.install()

    class Root:
        @cherrypy.expose
        def index(self):
            cherrypy.session['count'] = cherrypy.session.get('count', 0) + 1
            return str(cherrypy.session['count'])

    cherrypy.quickstart(Root(), '/', {'/': {'tools.sessions.on': True}})

A map of the package, in the order in which a request runs through it:

    tool.py      the hooks of a request: it begins, is saved, ends; what the browser is told; install()
    registry.py  which stores are open, for which application and options
    privileges.py  who opens them, where the site starts as root
    options.py   the options: names, defaults, what they may be; the check at the start
    session.py   Session: its whole life, in one class with one state. Read this first
    store.py     Store and Hold: what a backend must do, and what comes with it
    record.py    Record: what is stored, its line of text, when it ends
    codec.py     the values of a session as text
    locks.py     fair locks between the threads of a process
    backends/    a file or folder each, with a Store and a Session; file.py is the one to read first
    moving.py    from one store to another, without signing anybody out
    users.py     what a site says of its accounts, the live sessions of a user
    cookies.py   reading and writing cookies
    events.py    what happens, told to whoever subscribes; the log is one subscriber
    errors.py    what can go wrong, told apart
    compat.py    classes written for CherryPy's own tool
    cli.py       `python -m sessions`: what an operator does
    old_names.py what every CherryPy from 0.9 on called the options
    convert.py   its configuration in the words of today
    testing.py   the tests that every backend must pass

The names below, and RamSession, FileSession and the others, are what most sites need. The rest has its place there.
"""

from typing import Any

from . import registry
from .errors import CannotList, ConfigError, SessionError, StoreError, Unavailable
from .events import Event, subscribe
from .record import Record
from .registry import close_stores, open_stores
from .session import Session
from .store import Capabilities, Hold, Store
from .tool import close, count, end_other_sessions, end_session, expire, init, install, live_sessions, save
from .users import Accounts

from .tool import session_lock, set_response_cookie  # isort: skip

__all__ = [
    "Accounts", "CannotList", "Capabilities", "ConfigError", "Event", "Hold", "Record", "Session", "SessionError",
    "Store", "StoreError", "Unavailable", "close", "close_stores", "count", "end_other_sessions", "end_session",
    "expire", "init", "install", "live_sessions", "open_stores", "save", "session_lock", "set_response_cookie",
    "subscribe",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import a backend when its class is first named: sessions.FileSession."""
    for storage_type, place in registry.BACKENDS.items():
        if place.endswith(f".{name}"):
            return registry.backend(storage_type)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
