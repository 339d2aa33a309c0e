"""The CherryPy tool: where in the life of a request a session is made, saved and let go.

    before all hooks       _begin    makes the Session object; the store is not asked
    before_request_body    _lock     with locking='early' only
    handler                          the first access locks and loads it
    before_finalize        save      saves it if it changed, lets go, sets the cookie
    on_end_resource                  saves it before an internal redirect, which goes another way
    before_error_response  fail      the handler failed: lets go without saving
    after_error_response   tell      sets the cookie that was due all the same
    on_end_request         end       once more, for whatever went another way
"""

from __future__ import annotations

import hashlib
import sys
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import cherrypy
import cherrypy.lib.sessions
from cherrypy._cprequest import Hook
from cherrypy.lib import is_iterator

from . import compat
from .cookies import request_cookies
from .errors import ConfigError, SessionError
from .events import publish, watchers
from .resolve import resolve
from .response import tell_browser
from .session import Session
from .settings import Settings, check_names, is_cherrypy_class
from .store import Store


class SessionTool(cherrypy._cptools.Tool):
    """`cherrypy.tools.sessions`; its options are those of `Settings` and of the backend in use."""

    def __init__(self) -> None:
        super().__init__("before_request_body", init, name="sessions")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Turn the tool on for a handler: `@cherrypy.tools.sessions(locking='explicit')`.

        Raises:
            ConfigError: an unknown option.
        """
        if not is_cherrypy_class(kwargs):
            check_names(kwargs)
        return super().__call__(*args, **kwargs)

    def _setup(self) -> None:
        """Called by CherryPy for each request for which the tool is on. The session is made here, where CherryPy's tool
        attaches a hook to make it later: a hook with options costs more than the session."""
        conf = cherrypy.serving.request.toolmaps[self.namespace][self._name]
        use = resolve(cherrypy.serving.request.app, conf)
        if use:
            _begin(*use)
            if use[0].locking == "early":
                priority = conf.get("priority", self._priority) + 10
                cherrypy.serving.request.hooks.attach("before_request_body", _lock, priority=priority)
        else:
            conf = self._merged_args()
            compat.attach(conf, conf.pop("priority", self._priority))

    def regenerate(self) -> None:
        """Give the session of this request a new id; see `Session.regenerate`."""
        session = cherrypy.serving.session
        session.regenerate()
        if not isinstance(session, Session):
            conf = self._merged_args()
            names = ("path", "path_header", "name", "timeout", "domain", "secure")
            kept = {name: conf[name] for name in names if name in conf and conf[name] != "auto"}  # see compat
            cherrypy.lib.sessions.set_response_cookie(**kept)


def init(
    storage_type: str = "ram",
    path: str | None = None,
    path_header: str | None = None,
    name: str = "session_id",
    timeout: float = 60,
    domain: str | None = None,
    secure: bool | str = "auto",
    clean_freq: float = 5,
    **kwargs: Any,
) -> None:
    """Give this request its session by hand, where the tool is not on. Nothing is read, locked or set until it is used.

    The arguments are the options of the tool; see `Settings`, and the store of the backend in use.

    Raises:
        ConfigError: an option that is none; `open_stores` finds it when the site starts.
    """
    options = dict(
        kwargs, storage_type=storage_type, path=path, path_header=path_header, name=name, timeout=timeout,
        domain=domain, secure=secure, clean_freq=clean_freq,
    )  # fmt: skip
    use = resolve(cherrypy.serving.request.app, options)
    if use is None:
        raise ConfigError("sessions.init() takes classes of this package only")
    if not hasattr(cherrypy.serving.request, "session_settings"):
        _begin(*use)


def _begin(settings: Settings, store: Store) -> None:
    """Make the session of this request."""
    serving = cherrypy.serving
    request = serving.request
    left = getattr(serving, "session", None)
    if isinstance(left, Session):
        left.end()  # an earlier request in this thread, whose server never closed the answer (PEP 3333)
    request.session_settings = settings
    serving.session = session = settings.storage_class(
        partial(_presented_id, store, settings.name), store=store, settings=settings, arrived=serving.response.time
    )
    request.hooks["before_finalize"].append(_SAVE)
    request.hooks["on_end_request"].append(_END)
    if store.finds_early:
        session.read_cookie()
    session.on_first_use = _attach_the_rest
    if watchers:
        publish("cookie", session.claimed_key, sent=bool(session.originalid), well_formed=bool(session.claimed_key))


def _attach_the_rest() -> None:
    """The hooks of a request that uses its session: a page without one does not pay for them."""
    hooks = cherrypy.serving.request.hooks
    hooks["on_end_resource"].append(_SAVE_FOR_THE_NEXT_PAGE)
    hooks["before_error_response"].append(_FAIL)
    hooks["after_error_response"].append(_TELL)


def _presented_id(store: Store, name: str) -> str | None:
    """The id that the browser sent; of several cookies of this name, the first that could be one of ours."""
    found = [value for other, value in request_cookies() if other == name]
    if len(found) < 2:
        return found[0] if found else None
    return next(filter(store.is_well_formed, found), found[0])


def _lock() -> None:
    cherrypy.serving.session.acquire_lock()


def ours() -> Session | None:
    """The session of this request, if it has one of this package."""
    serving = cherrypy.serving
    return serving.session if hasattr(serving.request, "session_settings") else None


def save() -> None:
    """Save the session of this request and let go of it, unless the answer is a 5xx: that saves nothing (rule 11).

    Raises:
        UnstorableValue: a value cannot be stored.
        cherrypy.HTTPError: 503, the store does not answer.
    """
    session = ours()
    if session is None:
        return
    response = cherrypy.serving.response
    made = type(response.body) is list  # the usual case, at a tenth of what the question costs
    if not made and not response.stream and is_iterator(response.body) and not response.headers.get("Content-Length"):
        response.collapse_body()  # a generator may write to the session while it yields; a file on its way will not
    if not session.touched:
        session.seal()
        return
    try:
        if str(response.status or 200).startswith("5"):
            if watchers:
                publish("unsaved", session.claimed_key, why="the answer is an error of the server")
            session.discard()
        else:
            session.save()
    except cherrypy.HTTPError as error:
        # While it answers an error or a redirect, CherryPy would turn this one into a 500.
        cherrypy.serving.request.error_response = error.set_response
        raise
    finally:
        session.seal()
        tell_browser(session)


def save_for_the_next_page() -> None:
    """Save before an InternalRedirect, which ends this request and begins another without asking the browser. A session
    that began here is lost to it: the cookie would have had to go out in between."""
    if isinstance(sys.exc_info()[1], cherrypy.InternalRedirect):
        save()


def fail() -> None:
    """Let go of the session after an unexpected error. What an early release or a session_lock() block has saved
    stays."""
    session = ours()
    if session is not None:
        try:
            session.discard()
        finally:
            session.seal()


def close() -> None:
    """Let go of the session without saving it. After `save` there is nothing left to do."""
    session = ours()
    if session is not None:
        session.discard()


def tell() -> None:
    """Tell the browser about its session in the answer to an unexpected error: an id that was saved before is new, and
    the old one is dead. Not before that answer is made: making it removes headers."""
    session = ours()
    if session is not None:
        tell_browser(session)


def end() -> None:
    """The request is over: let go of whatever is left."""
    session = ours()
    if session is not None:
        session.end()


# Made once: making them anew for each request would cost more than the session. failsafe: CherryPy runs it though
# another hook has failed. save comes after hooks of the site's own, which may write to the session.
_SAVE = Hook(save, failsafe=True, priority=60)
_SAVE_FOR_THE_NEXT_PAGE = Hook(save_for_the_next_page, failsafe=True)
_FAIL = Hook(fail, failsafe=True, priority=90)
_TELL = Hook(tell, failsafe=True)
_END = Hook(end, failsafe=True, priority=90)


def session_lock() -> AbstractContextManager[Session]:
    """Hold this request's session for a block: load it afresh, save it at the end, whatever `locking` says.

        with sessions.session_lock():
            cherrypy.session['count'] += 1

    If the block raises, what it wrote is thrown away. A block inside a block, or in a page that holds the session
    already, joins it: the lock is let go by whoever took it first. So two blocks one after the other are two separate
    steps, and another request may come between them; what the second does must not rest on what the first has read.

    Raises:
        cherrypy.HTTPError: 503, the session stayed locked for `lock_timeout` seconds, or the store does not answer.
        SessionError: sessions are not on for this page.
    """
    session = ours()
    if session is None:
        raise SessionError("session_lock() needs tools.sessions.on, with a storage class of this package")
    return session.lock()


def reference(id: str) -> str:
    """A short name of a session for pages and logs, made from the hash of its id: nobody can make the id of it."""
    return hashlib.sha256(id.encode()).hexdigest()[:8]
