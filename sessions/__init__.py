"""Sessions for CherryPy: every backend, the same rules on each.

    import cherrypy, sessions
    sessions.install()

    class Root:
        @cherrypy.expose
        def index(self):
            cherrypy.session['count'] = cherrypy.session.get('count', 0) + 1
            return str(cherrypy.session['count'])

    cherrypy.quickstart(Root(), '/', {'/': {'tools.sessions.on': True}})

How to read the package, in the order in which a request runs through it:

    startup.py    install(), and the check of all options before the first visitor
    settings.py   the options: names, defaults, what they may be
    cookies.py    the browser's cookie, in and out
    tool.py       the hooks of a request: init, save, end
    resolve.py    which settings and store a request has
    response.py   what the browser is told
    session.py    Session: what pages see as cherrypy.session
    values.py     the dictionary in it
    life.py       its rules: when it is locked and loaded
    saving.py     when it is saved, renewed, moved, lost
    signing.py    when it changes hands, and ends
    limits.py     when a session ends
    owner.py      who is signed in, and what a site says of its accounts
    live.py       the live sessions of a user, and ending them
    events.py     each step, for whoever wants to watch
    audit.py      what is noted for those who look into the log
    stored.py     one id and what the store has under it
    store.py      Store, Hold, Record: what a backend must do
    record.py     Record: a session as it is stored
    facts.py      Facts: what a backend says it can, and cannot
    backends/     one file each; file.py is the one to read first
    errors.py     what can go wrong, told apart
    codec.py      the values of a session as text
    locks.py      fair locks between the threads of a process
    table.py      which stores are open, and their cleaners
    workers.py    a busy session does not take every thread
    compat.py     classes written for CherryPy's own tool
    testing.py    the tests that every backend must pass
    operators.py  what an operator does to the sessions of a site
    __main__.py   the command line for it
"""

from .audit import note
from .cookies import LenientRequest, request_cookies
from .errors import (
    CannotList,
    ConfigError,
    LockTimeout,
    SessionClosed,
    SessionError,
    StoreError,
    TooLarge,
    Unavailable,
    Unreadable,
    UnstorableValue,
)
from .events import Event, subscribe, unsubscribe
from .facts import Facts
from .live import Directory, LiveSession, end_other_sessions, end_session, live_sessions
from .owner import Accounts
from .record import Record
from .response import cookie_name, expire, set_response_cookie
from .session import (
    CookieSession,
    FileSession,
    FunctionSession,
    MemcachedSession,
    PostgresqlSession,
    RamSession,
    Session,
)
from .startup import addresses, close_stores, cookie_names, describe, install, open_stores, ping
from .store import Hold, Store
from .stored import StoreHTTPError
from .tool import SessionTool, close, init, reference, save, session_lock

__all__ = [
    "Accounts",
    "CannotList",
    "ConfigError",
    "CookieSession",
    "Directory",
    "Event",
    "Facts",
    "FileSession",
    "FunctionSession",
    "Hold",
    "LenientRequest",
    "LiveSession",
    "LockTimeout",
    "MemcachedSession",
    "PostgresqlSession",
    "RamSession",
    "Record",
    "StoreHTTPError",
    "Session",
    "SessionClosed",
    "SessionError",
    "SessionTool",
    "Store",
    "StoreError",
    "TooLarge",
    "Unavailable",
    "Unreadable",
    "UnstorableValue",
    "addresses",
    "close",
    "close_stores",
    "cookie_name",
    "cookie_names",
    "describe",
    "end_other_sessions",
    "end_session",
    "expire",
    "init",
    "install",
    "live_sessions",
    "note",
    "open_stores",
    "ping",
    "reference",
    "request_cookies",
    "save",
    "session_lock",
    "set_response_cookie",
    "subscribe",
    "unsubscribe",
]
