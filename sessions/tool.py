"""The CherryPy tool: where in a request a session begins, is saved and ends, and what the browser is told.

    before all hooks       _setup     makes the Session object; the store is not asked
    before_request_body               locks it, with locking='early' only
    handler                           the first access locks and loads it
    before_finalize        save       saves it if it changed, unlocks, sets the cookie (at 90: after hooks of the site)
    an InternalRedirect               saves it: that goes another way; the next page goes on with it
    the handler fails      fail       unlocks without saving; the error page may use it again
    the error page is made failed     saves what that wrote; sets the cookie that was due all the same
    on_end_request         close      unlocks what a streamed body has left locked

The stores raise `StoreError`s, which know nothing of HTTP. `Request` and the hooks turn them into answers.
"""

from __future__ import annotations

import hashlib
import logging
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from functools import cached_property, partial
from typing import Any
from urllib.parse import quote

import cheroot.server
import cherrypy
import cherrypy.lib.sessions
from cherrypy._cprequest import Hook, HookMap
from cherrypy.lib import caching, is_iterator

from . import compat
from .cookies import HeaderReader, RequestCookies, cookie_header, is_cookie_path, set_cookie, unjoin
from .errors import CannotList, ConfigError, SessionClosed, SessionError, StoreError
from .events import LOGGED, SingleLineFilter, log, publish, subscribe, watchers, write_to_log
from .locks import ThreadPoolScaler
from .options import Settings
from .record import reference as reference_of_key
from .registry import check_names, chosen_class, close_stores, is_cherrypy_class, open_all, registry
from .session import CLAIMED, Session
from .store import Store
from .users import ActiveSessions, LiveSession, revoke, valid_since

# ---------------------------------------------------------------- what a failing store answers


class StoreHTTPError(cherrypy.HTTPError):
    """The answer of a page whose store could not do what it asked: 503 with Retry-After, or 413."""

    def __init__(self, error: StoreError) -> None:
        super().__init__(error.status, error.public)
        self.__cause__ = error
        self.retry_after = error.retry_after
        _note(error)

    def set_response(self) -> None:
        session = current_session()
        if session is not None and self.code == 503:
            session.abandon()  # the error page must not fail by its store, or wait for it again
        super().set_response()  # removes Retry-After, as CherryPy does from every error
        if self.code == 503:
            cherrypy.serving.response.headers["Retry-After"] = str(self.retry_after)


def _note(error: StoreError) -> None:
    level = logging.WARNING if error.status == 503 else logging.INFO
    log.log(level, "%s: %s", type(error).__name__, error)
    publish("failed", why=type(error).__name__)


class RequestHooks(HookMap):
    """The hooks of a request. A StoreError that one of them meets is an answer, where CherryPy logs a traceback."""

    @classmethod
    def run_hooks(cls, hooks: Iterator[Hook]) -> None:
        for hook in hooks:
            try:
                hook()
            except Exception as error:
                if isinstance(error, SessionClosed):
                    error.add_note(f"It was the hook {hook.callback!r} at {cherrypy.serving.request.stage}.")
                if not isinstance(error, (*_ANSWERS, StoreError)):
                    cherrypy.log(traceback=True, severity=logging.ERROR)
                cls.run_hooks(one for one in hooks if one.failsafe)
                if isinstance(error, StoreError):
                    raise StoreHTTPError(error) from error
                raise


_ANSWERS = (cherrypy.HTTPError, cherrypy.HTTPRedirect, cherrypy.InternalRedirect)


class Request(cherrypy._cprequest.Request):
    """A request whose Cookie header cannot break it, and whose StoreErrors are answers; `install` makes it the default.

    Its cookies are not in `header_list`, which CherryPy copies into its log whenever a page fails: who reads the log
    would be signed in (ASVS 16.2.5).
    """

    header_list: list[tuple[str, str]]
    hooks = RequestHooks(cherrypy._cprequest.hookpoints)
    cookie_header = ""
    due: Mapping[str, Any] = {}  # the cookies of sessions that the answer of an InternalRedirect has to set

    @cached_property
    def cookie(self) -> RequestCookies:
        """The cookies, read when somebody asks: most pages ask for none but the session's."""
        cookies = RequestCookies()
        cookies.load(self.cookie_header)
        return cookies

    def process_headers(self) -> None:
        """Read the headers, but for the cookies, and for what CherryPy would take for an encoded word of a mail
        (RFC 2047): one that it cannot decode is a 500, and any link can put one into a Referer. It stays as it came."""
        plain: list[tuple[str, str]] = []
        worded: list[tuple[str, str]] = []
        cookies = ""
        for header in self.header_list:
            if header[0].lower() == "cookie":
                cookies = f"{cookies}; {header[1]}" if cookies else header[1]
            elif "=?" in header[1]:
                worded.append(header)
            else:
                plain.append(header)
        self.header_list, self.cookie_header = plain, cookies
        del self.__dict__["cookie"]  # which CherryPy has set to none
        super().process_headers()
        if cookies:
            dict.__setitem__(self.headers, "Cookie", cookies)  # headers are a dict with names in title case
        for name, value in worded:
            if name.lower() == "host":
                raise cherrypy.HTTPError(400, "The Host header names no host.")
            dict.__setitem__(self.headers, name.title(), value.strip())
            self.header_list.append((name, value))

    def respond(self, path_info: str) -> None:
        """Answer the request. Save before an InternalRedirect, which begins another without asking the browser: what
        that would have been told goes out with the answer of the other, also if it is of a page without sessions."""
        if self.prev is not None and (due := getattr(self.prev, "due", None)):
            dict.update(cherrypy.serving.response.cookie, due)
        try:
            super().respond(path_info)
        except cherrypy.InternalRedirect:
            try:
                save()
            except StoreError:
                self.handle_error()
            else:
                names = {*getattr(self.prev, "due", ()), *(one.settings.name for one in _sessions_of(self))}
                self.due = {name: one for name, one in cherrypy.serving.response.cookie.items() if name in names}
                raise
        except BaseException:  # Ctrl-C, for one: there is no answer to come
            close()
            raise

    def handle_error(self) -> None:
        """Answer an unexpected error. A StoreError is one that the package expects: no traceback, and nothing saved."""
        error = sys.exc_info()[1]
        if isinstance(error, StoreError):
            error = StoreHTTPError(error)
        if not isinstance(error, StoreHTTPError):
            _attach_error_hooks(self.hooks)
            try:
                super().handle_error()
                return
            except StoreError as met:
                error = StoreHTTPError(met)
            except StoreHTTPError as met:  # when the session of the failed page was put right
                error = met
        with suppress(StoreError):
            fail()
        error.set_response()
        self.hooks.run("before_finalize")
        cherrypy.serving.response.finalize()


# ---------------------------------------------------------------- the hooks of a request


class SessionTool(cherrypy._cptools.Tool):
    """`cherrypy.tools.sessions`."""

    def __init__(self) -> None:
        super().__init__("before_request_body", init, name="sessions")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Turn the tool on for a handler: `@cherrypy.tools.sessions(locking='explicit')`."""
        if not is_cherrypy_class(kwargs):
            check_names(kwargs)
        return super().__call__(*args, **kwargs)

    def _setup(self) -> None:
        """Make the session of a request for which the tool is on, now: a hook with options costs more than that."""
        request = cherrypy.serving.request
        conf = request.toolmaps["tools"]["sessions"]
        try:  # worked out once, for the options are the same for thousands of requests
            found = request.app.session_stores.found[tuple(conf.items())]
        except (AttributeError, KeyError, TypeError):
            found = registry.lookup(request.app, conf)
        if found is None:
            conf = self._merged_args()
            compat.attach(conf, chosen_class(conf), conf.pop("priority", self._priority))
            return
        session = _begin(request, *found)
        if session.settings.locking == "early":
            priority = conf.get("priority", self._priority) + 10
            request.hooks["before_request_body"].append(Hook(session.acquire_lock, priority=priority))

    def regenerate(self) -> None:
        """Give the session of this request a new id; see `Session.regenerate`."""
        cherrypy.serving.session.regenerate()


class CachingTool(cherrypy._cptools.CachingTool):
    """CherryPy's `tools.caching`, which keeps the answers that depend on no session, for visitors who have none.

    CherryPy's own hands out the page of whoever came first: to know whose it is, it would have to make it.
    """

    def _wrapper(self, **kwargs: Any) -> None:
        request, session = cherrypy.serving.request, current_session()
        if session is None:  # a class that was written for CherryPy's own tool does not say whether it was used
            depends = request.toolmaps["tools"].get("sessions", {}).get("on", False)
        else:
            depends = session.accessed or session.originalid is not None
        if depends and request.method in _SAFE:
            request.cached = request.cacheable = False
        elif caching.get(**kwargs):
            request.handler = None
        elif request.cacheable:
            request.hooks.attach("before_finalize", _put_into_cache, priority=100)

    _wrapper.priority = 90  # type: ignore[attr-defined]


def _put_into_cache() -> None:
    request, session = cherrypy.serving.request, current_session()
    if session is None or not session.accessed:
        caching.tee_output()
        return
    request.cacheable = False
    variants = getattr(cherrypy._cache, "store", {}).get(cherrypy.url(qs=request.query_string), {})
    cherrypy._cache.delete()
    for one in list(variants.values()):
        if isinstance(one, threading.Event):  # others wait for this answer, which they cannot have
            one.set()


def init(
    storage_type: str = "ram", path: str | None = None, path_header: str | None = None, name: str = "session_id",
    timeout: float = 60, domain: str | None = None, secure: bool | str = "auto", clean_freq: float = 5, **kwargs: Any,
) -> None:  # fmt: skip
    """Give this request its session by hand, where the tool is not on, with the options of the tool."""
    options = dict(
        kwargs, storage_type=storage_type, path=path, path_header=path_header, name=name, timeout=timeout,
        domain=domain, secure=secure, clean_freq=clean_freq,
    )  # fmt: skip
    request = cherrypy.serving.request
    found = registry.lookup(request.app, options)
    if found is None:
        raise ConfigError("sessions.init() takes classes of this package only")
    if current_session() is None:
        _begin(request, *found)


def _begin(request: Any, settings: Settings, store: Store) -> Session:
    serving = cherrypy.serving
    left = getattr(serving, "session", None)
    if left is not None and isinstance(left, Session):
        left.rollback()  # an earlier request in this thread, whose server never closed the answer (PEP 3333)
    try:
        header = request.cookie_header
    except AttributeError:  # a request class of the site's own
        header, hooks = cookie_header(), request.hooks
        request.hooks = RequestHooks()
        request.hooks.update(hooks)
        _attach_error_hooks(request.hooks)
        request.hooks["on_end_resource"].append(_END_RESOURCE)
    if "," in header and "ACTUAL_SERVER_PROTOCOL" not in request.wsgi_environ:  # of cheroot, see HeaderReader
        header = request.cookie_header = unjoin(header, settings.name)
        request.cookie = RequestCookies(header)
    session: Session | None = None
    if request.prev is not None:  # an InternalRedirect, and so the same request to the browser
        session = next((one for one in _sessions_of(request.prev) if one.store is store), None)
    if session is None:
        session = settings.storage_class(store, settings, header, serving.response.time)
        if request.method not in _SAFE and settings.samesite != "None" and not settings.cross_site:
            session.may_begin = dict.get(request.headers, "Sec-Fetch-Site") != "cross-site"
    else:
        session.settings, session.sealed = settings, False
    request.session = serving.session = session
    request._session_init_flag = True  # what CherryPy's own init() looks at: called by hand, it begins no second one
    request.hooks["before_finalize"].append(_SAVE)
    if request.error_page:
        request.error_page = ErrorPages(request.error_page)
    if watchers:
        key = session.claimed_key
        publish("cookie", key, sent=bool(session.originalid), well_formed=bool(key))
    return session


_SAFE = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})  # methods (RFC 9110 section 9.2.1)


def _sessions_of(request: Any) -> Iterator[Session]:
    """Return the session of a request, and of those from which an InternalRedirect led to it."""
    while request is not None:
        if isinstance(session := getattr(request, "session", None), Session):
            yield session
        request = request.prev


def _attach_error_hooks(hooks: Any) -> None:
    hooks["before_error_response"].append(_FAIL)
    hooks["after_error_response"].append(_FAILED)


def current_session() -> Session | None:
    """Return the session of this request, if it has one of this package."""
    return getattr(cherrypy.serving.request, "session", None)


def save() -> None:
    """Save the session of this request and unlock it, unless the answer is a 5xx: that saves nothing (rule 11)."""
    serving = cherrypy.serving
    try:
        session: Session = serving.request.session
    except AttributeError:
        return
    response = serving.response
    body = response.body
    if type(body) is not list:  # the usual case, at a tenth of what the question costs
        if response.stream:
            serving.request.hooks["on_end_request"].append(_END)
        elif is_iterator(body) and not response.headers.get("Content-Length"):  # no file, which writes no session
            response.collapse_body()  # a generator may write to the session while it yields
    if session._state is CLAIMED:
        session.sealed = True
        if session.settings.name in response.cookie:
            set_response_headers(session)
        return
    try:
        if response.status is not None and str(response.status).startswith("5"):
            if watchers:
                publish("unsaved", session.claimed_key, why="the answer is an error of the server")
            session.rollback()
        else:
            session.save()
    finally:
        session.sealed = True
        set_response_headers(session)


def end_resource() -> None:
    """Do what `Request.respond` does, for a request class of the site's own."""
    error = sys.exc_info()[1]
    if isinstance(error, cherrypy.InternalRedirect):
        save()
    elif error is not None and not isinstance(error, Exception):
        close()


def fail() -> None:
    """Unlock the session after an unexpected error. What was saved before stays."""
    if (session := current_session()) is not None:
        session.rollback()


close = fail  # after `save` there is nothing left to do


def failed() -> None:
    """Save what the answer to an unexpected error has written, and tell the browser the id that was saved before: the
    old one is dead, and making the answer has removed the headers."""
    if (session := current_session()) is not None:
        try:
            session.save()
        finally:
            session.sealed = True
            set_response_headers(session)


class ErrorPages(dict[Any, Any]):
    """The error pages of a request, which may use its session, also where that, or its store, has failed."""

    def get(self, code: Any, default: Any = None) -> Any:
        page = super().get(code, default)
        return partial(_make_error_page, page) if callable(page) else page


def _make_error_page(page: Callable[..., Any], **shown: str) -> Any:
    session, saves_nothing = cherrypy.serving.session, shown["status"].startswith("5")
    try:
        if saves_nothing:  # but for what the page writes (rule 11)
            session.rollback()
        made = page(**shown)
        if saves_nothing:
            session.save()
        return made
    except StoreError as error:
        _note(error)
        session.abandon()  # this answer stays the one that it is
        return page(**shown)


# Made once, for a hook costs more than the session. failsafe: CherryPy runs it though another hook has failed.
_SAVE = Hook(save, failsafe=True, priority=90)
_END_RESOURCE = Hook(end_resource, failsafe=True)
_FAIL = Hook(fail, failsafe=True, priority=90)
_FAILED = Hook(failed, failsafe=True)
_END = Hook(close, failsafe=True, priority=90)


# ---------------------------------------------------------------- what the browser is told


def set_response_headers(session: Session) -> None:
    """Set the cookie if it has to change, and say that the answer is for this visitor only (rule 10).

    A program may have set it itself, at CherryPy's tool with a value or a lifetime only: that tool has set the rest.
    """
    cookie, name = cherrypy.serving.response.cookie, session.settings.name
    by_hand = name in cookie and not (cookie[name]["path"] and cookie[name]["samesite"])
    if session._state is CLAIMED and not by_hand:
        return
    headers = cherrypy.serving.response.headers
    vary = dict.get(headers, "Vary")  # a dict with names in title case; asking it as such costs a third
    if vary is None:
        dict.__setitem__(headers, "Vary", "Cookie")
    elif not {"*", "cookie"} & {field.strip().lower() for field in vary.split(",")}:
        headers["Vary"] = f"{vary}, Cookie" if vary.strip(" ,") else "Cookie"
    if not dict.__contains__(headers, "Cache-Control"):
        dict.__setitem__(headers, "Cache-Control", "private")
    how = session.cookie
    if by_hand and how != "expired":
        value, given = cookie[name].value, {key: one for key, one in cookie[name].items() if one != ""}
        _set_cookie(session, value and (session.cookie_value or value))
        ages = {"max-age": "", "expires": ""}
        dict.update(cookie[name], ages | given if ages.keys() & given.keys() else given)
    elif how and (how != "renewed" or session.outlives_browser):
        _set_cookie(session, "" if how == "expired" else session.cookie_value)
        if watchers:
            publish("cookie_set", session.claimed_key, how=how)


def _set_cookie(session: Session, value: str) -> None:
    settings = session.settings
    max_age = 0 if session.cookie == "expired" else session.cookie_age or None if session.outlives_browser else None
    if value and (settings.secure is True or settings.samesite == "None" or settings.domain):
        for name, why in settings.refusals(site := cherrypy.serving.request.base):
            publish(name, session.claimed_key, why=why, site=site, again=why in settings.refusals_logged)
            settings.refusals_logged.add(why)
    path = "/" if settings.name.lower().startswith("__host-") else _cookie_path(settings.path, settings.path_header)
    set_cookie(
        settings.name, value, path=path, domain=settings.domain, max_age=max_age, secure=settings.secure,
        httponly=settings.httponly, samesite=settings.samesite, now=session.store.clock(),
    )  # fmt: skip


def _cookie_path(path: str | None, path_header: str | None) -> str:
    """Return the configured Path, or what the header says, or where the application is mounted."""
    if path:
        return path
    told = cherrypy.serving.request.headers.get(path_header, "") if path_header else ""
    if is_cookie_path(told):
        return str(told)
    mounted = cherrypy.serving.request.script_name
    return quote(mounted, safe="/!$&'()*+,:=@") if is_cookie_path(mounted) else "/"  # as browsers write it


def set_response_cookie(
    path: str | None = None, path_header: str | None = None, name: str = "session_id", timeout: float | None = 60,
    domain: str | None = None, secure: bool | str = "auto", httponly: bool = True, samesite: str = "Lax",
) -> None:  # fmt: skip
    """Set the cookie of this request's session by hand, for so many minutes; the tool does it whenever it is needed."""
    session = cherrypy.serving.session
    id = session.id  # asks the store first: a cookie session has no value before, and a foreign id is not repeated
    set_cookie(
        name, getattr(session, "cookie_value", "") or id, path=_cookie_path(path, path_header), domain=domain,
        max_age=round(timeout * 60) if timeout else None, secure=secure, httponly=httponly, samesite=samesite,
    )  # fmt: skip


def cookie_name() -> str:
    """Return the name of the session's cookie for this request, whether or not the page uses the session."""
    return str(cherrypy.serving.request.config.get("tools.sessions.name", "session_id"))


# ---------------------------------------------------------------- what a page calls


def session_lock() -> AbstractContextManager[Session]:
    """Hold this request's session for a block: load it afresh, save it at the end, whatever `locking` says.

        with sessions.session_lock():
            cherrypy.session['count'] += 1

    If the block raises, what it wrote is thrown away; a redirect, an InternalRedirect or an HTTPError below 500 leaves
    it as a return does (rules 5 and 11). A block inside a block, or in a page that holds the session already, joins it:
    the lock is released by whoever took it first. Between two blocks one after the other, another request may come.
    """
    return _this_session().lock(_is_an_answer)


def _is_an_answer(error: BaseException) -> bool:
    if isinstance(error, cherrypy.HTTPError):
        return bool(error.code < 500)
    return isinstance(error, _ANSWERS)


def expire() -> None:
    """End the session: destroy what is stored, now, and expire the browser's cookie (ASVS 7.4.1)."""
    session = cherrypy.serving.session
    session.delete()
    if isinstance(session, Session):
        set_response_headers(session)  # also where the handler fails after this
    else:
        _their_expire()


_their_expire = cherrypy.lib.sessions.expire


def count() -> int:
    """Return how many live sessions the application has. A backend that cannot count raises CannotCount."""
    return _this_session().store.count()


def reference(id: str) -> str:
    """Return a short name of a session for pages and logs, made from the hash of its id."""
    return reference_of_key(hashlib.sha256(id.encode()).hexdigest())


def _this_session() -> Session:
    session = current_session()
    if session is None:
        raise SessionError("this page has no session: it needs tools.sessions.on and a storage class of this package")
    return session


def _active(session: Session) -> ActiveSessions:
    return ActiveSessions(session.store, session.settings.limits_of, session.key)


def live_sessions() -> list[LiveSession]:
    """Return the live sessions of the user who is signed in, this one first; CannotList where the backend cannot."""
    session = _this_session()
    user = session.user
    return _active(session).list(user) if user else []


def end_session(reference: str) -> bool:
    """End another session of the user who is signed in. Return whether there was one of this reference."""
    session = _this_session()
    user = session.user
    session.release_lock()  # of two browsers that end each other, neither must wait for the other
    return bool(user and _active(session).end(user, reference))


def end_other_sessions() -> int | None:
    """End all other sessions of the user who is signed in, and give this one a new id.

    Returns:
        The number found and deleted; None where the backend cannot tell, and the accounts end them at their next use.
    """
    session = _this_session()
    session.acquire_lock()
    user, accounts, proved = session.user, session.settings.accounts, session.signed_in_at
    if not user:
        return 0
    if accounts:  # this session moves to the moment of the revocation, before which all have ended; it is no proof
        revoke(accounts, user)
        proved = valid_since(accounts, user)
    session.sign_in(user, session.remembered, proved)
    session.release_lock()  # as above
    try:
        return _active(session).end(user)
    except CannotList:
        if not accounts:
            raise
        return None


# ---------------------------------------------------------------- putting it in place


class _SessionProxy(cherrypy._ThreadLocalProxy):
    """`cherrypy.session`: the session of whichever request asks. CherryPy's own proxy cannot be iterated over."""

    def __iter__(self) -> Any:
        return iter(cherrypy.serving.session)


class _CherryPyLogHandler(logging.Handler):
    """Hands what this package logs to CherryPy's own log."""

    def emit(self, record: logging.LogRecord) -> None:
        cherrypy.log.error(self.format(record), "SESSIONS", record.levelno)


def install() -> None:
    """Put the session tool of this package at `cherrypy.tools.sessions`, and `cherrypy.session` beside it. Calling it
    again does nothing more.

    `cherrypy.engine` then opens and closes the stores of every mounted application. One that runs under another WSGI
    server calls `open_stores`.
    """
    if isinstance(cherrypy.tools.sessions, SessionTool):
        return
    cherrypy.tools.sessions = SessionTool()
    cherrypy.tools.caching = CachingTool("before_handler", caching.get, "caching")
    cherrypy.session = _SessionProxy("session")
    cherrypy.lib.sessions.expire = expire  # CherryPy's own would leave what is stored to whoever kept the cookie
    if type(cheroot.server.HTTPRequest.header_reader) is cheroot.server.HeaderReader:
        cheroot.server.HTTPRequest.header_reader = HeaderReader()
    if cherrypy.Application.request_class is cherrypy._cprequest.Request:
        cherrypy.Application.request_class = Request
    log.setLevel(logging.INFO)
    log.propagate = False
    log.addFilter(SingleLineFilter())
    log.addHandler(_CherryPyLogHandler())
    subscribe(write_to_log, *LOGGED)
    scaler = ThreadPoolScaler()
    engine = cherrypy.engine
    engine.subscribe("start", open_all, priority=60)  # before the server opens its port
    engine.subscribe("start", scaler.start, priority=80)  # when it has its threads
    engine.subscribe("stop", scaler.stop, priority=20)
    engine.subscribe("stop", close_stores, priority=60)  # after the server's last request
