"""What the browser is told about its session: the cookie, and that the answer is for this visitor only."""

from __future__ import annotations

import logging

import cherrypy

from .audit import note
from .cookies import is_cookie_path, is_https, set_cookie
from .events import publish, watchers
from .session import Session
from .settings import Settings


def tell_browser(session: Session) -> None:
    """Set the cookie if it has to change, and say that the answer is for this visitor only."""
    if not session.touched:
        return
    headers = cherrypy.serving.response.headers
    vary = dict.get(headers, "Vary")  # a dict with names in title case; asking it as such costs a third
    if vary is None:
        dict.__setitem__(headers, "Vary", "Cookie")
    elif not {"*", "cookie"} & {field.strip().lower() for field in vary.split(",")}:
        headers["Vary"] = f"{vary}, Cookie" if vary.strip(" ,") else "Cookie"
    if not dict.__contains__(headers, "Cache-Control"):
        dict.__setitem__(headers, "Cache-Control", "private")
    if not session.cookie:
        return
    settings: Settings = cherrypy.serving.request.session_settings
    persistent = session.outlives_browser(settings.persistent)
    if session.cookie == "expired":
        _set_cookie(settings, "", 0)
    elif session.cookie == "new" or (session.cookie == "renewed" and persistent):
        age = session.cookie_age if persistent else None
        _set_cookie(settings, session.cookie_value, age, session.store.clock())
    else:
        return
    if watchers:
        publish("told", session.claimed_key, how=session.cookie)


def _set_cookie(settings: Settings, value: str, max_age: int | None, now: float | None = None) -> None:
    secure = is_https() if settings.secure == "auto" else bool(settings.secure)
    if secure and value and not is_https():
        note(
            "a Secure cookie was set on plain http, and browsers drop it there: serve the site by https, and behind a "
            "proxy turn tools.proxy on",
            level=logging.WARNING,
        )
    set_cookie(
        settings.name,
        value,
        path=_cookie_path(settings.path, settings.path_header),
        domain=settings.domain,
        max_age=max_age,
        secure=secure,
        httponly=settings.httponly,
        samesite=settings.samesite,
        now=now,
    )


def _cookie_path(path: str | None, path_header: str | None) -> str:
    if path:
        return path
    told = cherrypy.serving.request.headers.get(path_header, "") if path_header else ""
    return told if is_cookie_path(told) else "/"


def set_response_cookie(
    path: str | None = None,
    path_header: str | None = None,
    name: str = "session_id",
    timeout: float | None = 60,
    domain: str | None = None,
    secure: bool | str = "auto",
    httponly: bool = True,
    samesite: str = "Lax",
) -> None:
    """Set the cookie of this request's session by hand. The tool does it whenever it is needed.

    Args:
        timeout: minutes until the browser drops it; None or 0: it ends with the browser.
    """
    session = cherrypy.serving.session
    id = session.id  # asks the store first: a cookie session has no value before, and a stranger's id is not repeated
    set_cookie(
        name,
        getattr(session, "cookie_value", "") or id,
        path=_cookie_path(path, path_header),
        domain=domain,
        max_age=round(timeout * 60) if timeout else None,
        secure=is_https() if secure == "auto" else bool(secure),
        httponly=httponly,
        samesite=samesite,
    )


def expire() -> None:
    """End the session: destroy what is stored, now, and expire the browser's cookie. CherryPy's own leaves the data in
    the store, so that whoever kept the cookie is still signed in (ASVS 7.4.1)."""
    session = cherrypy.serving.session
    session.delete()
    if isinstance(session, Session):
        tell_browser(session)  # also where the handler fails after this
    else:
        cherrypy.lib.sessions.expire()


def cookie_name() -> str:
    """The name of the session's cookie for this request, whether or not the page uses the session."""
    return str(cherrypy.serving.request.config.get("tools.sessions.name", "session_id"))
