"""Lesson: a cookie by itself. Set one, see what comes back, take it away."""

from __future__ import annotations

import re
from http.cookies import Morsel, SimpleCookie
from typing import Any

import cherrypy

import sessions
from sessions.cookies import is_https, request_cookies
from sessions.tool import cookie_name
from web import csrf, rendering

MAX_BYTES = 4096
"""What browsers take for the name and the value together (RFC 6265bis section 5.6); above it they drop the cookie."""

MAX_ALL_BYTES = 4 * MAX_BYTES
"""Of cookies in one request; 64 KiB of headers are the most that the site reads (site.conf)."""

REFUSED = (
    "Its name asks for https, and this page came by plain http: your browser refuses it, unless it makes an exception "
    "for its own machine, as Chromium does for 127.0.0.1 and localhost."
)

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_NOT_IN_A_NAME = re.compile(r"[\x00-\x1f\x7f;=]")


class Cookies:
    """GET /cookie/ explains; /cookie/set, /cookie/read and /cookie/delete do it."""

    lesson = rendering.Lesson("/cookie/", "Cookies", "A small note the site hands you, and your browser hands back.")

    @cherrypy.expose
    @cherrypy.tools.allow(methods=["GET"])
    def index(self) -> bytes:
        """Show the forms."""
        addresses = {action: rendering.url(f"/cookie/{action}") for action in ("set", "read", "delete")}
        return rendering.render("cookies/page.html", addresses, lesson=self.lesson)

    @cherrypy.expose
    @cherrypy.tools.allow(methods=["GET"])
    def set(self, name: object = "cookieName", value: object = "cookieValue") -> bytes:
        """Set a cookie for an hour, and show the header line that did it.

        A GET, so that the lesson fits in a link: in one of this site, that is. Those of others could fill a visitor's
        browser with cookies until each request is too big. Whatever matters should be changed by POST only.

        HTTPError 403 for a link of another site, 400 when the browser sends too many cookies already.
        """
        csrf.own_pages_only("A page of another site led here, so no cookie was set. Open /cookie/, and use its form.")
        check_room(cherrypy.request.headers.get("Cookie", ""))
        morsel = new_cookie(rendering.text_field("name", name), rendering.text_field("value", value))
        cherrypy.response.cookie[morsel.key] = morsel
        rendering.no_store()
        sent = {"name": morsel.key, "value": value, "set_cookie": morsel.OutputString()}
        if morsel["secure"] and not is_https():
            sent["warning"] = REFUSED
        return rendering.render("cookies/set.html", sent, lesson=self.lesson, sent=morsel)

    @cherrypy.expose
    @cherrypy.tools.allow(methods=["GET"])
    def read(self) -> bytes:
        """List the cookies of this request. The session cookie shows a reference: its value is as good as a key."""
        own = cookie_name()
        cookies = [(name, rendering.shown_cookie(name, value)) for name, value in request_cookies()]
        rendering.no_store()
        first: dict[str, str] = {}  # of each name: the cookie with the longest path comes first (RFC 6265 section 5.4)
        for name, value in cookies:
            first.setdefault(name, value)
        return rendering.render("cookies/read.html", {"cookies": first}, lesson=self.lesson, pairs=cookies, own=own)

    @cherrypy.expose
    @cherrypy.tools.allow(methods=["POST"])
    def delete(self, name: object = "") -> None:
        """Expire the cookie of this name; for the session's own, the session behind it ends too."""
        name = rendering.text_field("name", name)
        if not name:
            raise cherrypy.HTTPError(400, "Say which cookie to delete: send its name as name=.")
        if name == cookie_name():
            sessions.expire()
        else:
            morsel = expired_cookie(name)
            cherrypy.response.cookie[morsel.key] = morsel
        rendering.redirect("/cookie/read")


def new_cookie(name: str, value: str) -> Morsel[str]:
    """Return a cookie for the whole site that lasts an hour. HTTPError 400 says what is wrong with its name or value.

    Version=1 is of RFC 2109 and has no meaning today; browsers skip the attributes they do not know.
    """
    check_name(name)
    control = _CONTROL.search(value)
    if control:
        code = f"U+{ord(control[0]):04X}"
        raise cherrypy.HTTPError(400, f"The value holds the control character {code}. Take it out and try again.")
    jar: SimpleCookie = SimpleCookie()
    # A header is bytes: the value goes as UTF-8, which http.cookies writes as octal escapes in quotes.
    jar[name] = value.encode().decode("latin-1")
    morsel = jar[name]
    size = len(name) + len(morsel.coded_value)
    if size > MAX_BYTES:
        raise cherrypy.HTTPError(
            400, f"This cookie would take {size} bytes. Browsers keep at most {MAX_BYTES}: shorten its value or name."
        )
    morsel.update({"path": "/", "max-age": "3600", "version": "1", "samesite": "Lax", **promised(name)})
    return morsel


def promised(name: str) -> dict[str, Any]:
    """Return what a browser wants of a cookie of this name, beside Path=/ and no Domain, to set or to delete it.

    It compares the prefixes without case (RFC 6265bis section 4.1.3; those with Http also want HttpOnly).
    """
    prefix = name.lower()
    for_http = prefix.startswith(("__http-", "__host-http-"))
    return {"secure": for_http or prefix.startswith(("__secure-", "__host-")), "httponly": for_http}


def check_room(sent: str) -> None:
    """Raise HTTPError 400 when the request's cookies leave no room for one more. On plain http, and in old browsers,
    nothing tells a link of another site from one of this site."""
    if len(sent) > MAX_ALL_BYTES:
        raise cherrypy.HTTPError(
            400, f"Your browser sends {len(sent)} bytes of cookies already, and {MAX_ALL_BYTES} are the most to which "
            "this page adds one. Delete some first, at /cookie/read."
        )  # fmt: skip


def check_name(name: str) -> None:
    """Raise HTTPError 400 unless a visitor may set a cookie of this name (RFC 6265 section 4.1.1)."""
    if not _TOKEN.fullmatch(name):
        raise cherrypy.HTTPError(
            400,
            f"'{name[:80]}' cannot be the name of a cookie. Use letters, digits and marks such as - and _, no spaces.",
        )
    if Morsel().isReservedKey(name):
        raise cherrypy.HTTPError(
            400, f"'{name}' is the name of a cookie's attribute, and cannot be its own. Choose another name."
        )
    if name == cookie_name():
        raise cherrypy.HTTPError(
            400,
            f"'{name}' is the cookie of your session. If a link could set it, whoever made the link would know your "
            "session and share it with you. Choose another name.",
        )


def expired_cookie(name: str) -> Morsel[str]:
    """Return the cookie that makes a browser forget `name`. HTTPError 400 for what no browser can have sent.

    Other programs set names that http.cookies refuses, such as <b>, and those must be deletable too.
    """
    if _NOT_IN_A_NAME.search(name) or name != name.strip() or len(name) > MAX_BYTES:
        raise cherrypy.HTTPError(400, f"There is no cookie of the name '{name[:80]}'.")
    morsel: Morsel[str] = Morsel()
    # set() would check the name; the state that pickle restores is the public way around it.
    morsel.__setstate__({"key": name.encode().decode("latin-1"), "value": "", "coded_value": ""})
    morsel.update({"path": "/", "max-age": "0", "expires": "Thu, 01 Jan 1970 00:00:00 GMT", **promised(name)})
    return morsel
