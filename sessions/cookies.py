"""Reading and writing cookies.

`http.cookies.SimpleCookie`, which CherryPy reads requests with, gives up at the first cookie it does not like:
`prefs={"a":1}; session_id=...` loses the session, and `br(oken=1` answers 400 on every page until the visitor
clears the browser. Cookies of one host are set by many programs, so reading has to be as lenient as browsers are
(RFC 6265bis section 5.6): cut at each ';', split at the first '=', take what is there.
"""

from __future__ import annotations

import re
import time
from http.cookies import CookieError, SimpleCookie
from typing import Any

import cherrypy
from cherrypy.lib import httputil

_ESCAPED = re.compile(r"\\(?:([0-3][0-7]{2})|(.))")


def parse(header: str) -> list[tuple[str, str]]:
    """The cookies of a Cookie header as pairs of name and value, in the order in which they came.

    A cookie without '=' has an empty name, as in browsers. Values in double quotes are unquoted as `http.cookies`
    quotes them, and bytes that are UTF-8 are read as such. Nothing is refused.
    """
    pairs = []
    for part in header.split(";"):
        name, equals, value = part.partition("=")
        if not equals:
            name, value = "", name
        name, value = name.strip(" \t"), value.strip(" \t")
        if name or value:
            pairs.append((name, value))
    if header.isascii() and '"' not in header:
        return pairs
    return [(_text(name), _text(_unquote(value))) for name, value in pairs]


def _unquote(value: str) -> str:
    if len(value) < 2 or value[0] != '"' or value[-1] != '"':
        return value
    return _ESCAPED.sub(lambda found: chr(int(found[1], 8)) if found[1] else found[2], value[1:-1])


def _text(value: str) -> str:
    """A header's bytes come as latin-1 (PEP 3333)."""
    if value.isascii():
        return value
    try:
        return value.encode("latin-1").decode()
    except UnicodeError:
        return value


class RequestCookies(SimpleCookie):
    """`cherrypy.request.cookie` of a `LenientRequest`: what has a legal name, of two alike the first (the one with the
    longer path, RFC 6265bis section 5.8.3)."""

    def load(self, rawdata: Any) -> None:
        for name, value in parse(rawdata):
            if name not in self:
                try:
                    self[name] = value
                except CookieError:
                    continue  # request_cookies() still has it


class LenientRequest(cherrypy._cprequest.Request):
    """A request whose Cookie header cannot break it; `sessions.install()` makes it the default of all applications.

    Its cookies are read when somebody asks for them: most pages ask for none but the session's. They are not in
    `header_list`, which CherryPy copies into its log whenever a page fails: who reads the log would be signed in
    (ASVS 16.2.5).
    """

    header_list: list[tuple[str, str]]
    cookie_header = ""
    _cookie: Any = None

    @property
    def cookie(self) -> Any:
        """The cookies, as `http.cookies` has them."""
        if self._cookie is None:
            self._cookie = RequestCookies()
            self._cookie.load(self.cookie_header)
        return self._cookie

    @cookie.setter
    def cookie(self, cookies: Any) -> None:
        self._cookie = cookies

    def process_headers(self) -> None:
        """Read the headers, and put the cookies aside, and what CherryPy would take for an encoded word of a mail
        (RFC 2047): one that it cannot decode is a 500, and any link can put one into a Referer. It stays as it came.

        Raises:
            cherrypy.HTTPError: 400, there is such a word in Host.
        """
        plain: list[tuple[str, str]] = []
        worded: list[tuple[str, str]] = []
        cookies: list[str] = []
        for name, value in self.header_list:
            if name.lower() == "cookie":
                cookies.append(value)
            else:
                (worded if "=?" in value else plain).append((name, value))
        self.header_list, self.cookie_header = plain, "; ".join(cookies)
        super().process_headers()
        for name, value in worded:
            if name.lower() == "host":
                raise cherrypy.HTTPError(400, "The Host header names no host.")
            dict.__setitem__(self.headers, name.title(), value.strip())
        self.header_list += worded
        if self.cookie_header:  # headers are a dict with names in title case
            dict.__setitem__(self.headers, "Cookie", self.cookie_header)
        self._cookie = None


def _cookie_header(headers: list[tuple[str, str]]) -> str:
    return "; ".join(value for name, value in headers if name.lower() == "cookie")


def request_cookies() -> list[tuple[str, str]]:
    """Every cookie of the current request as (name, value), also those whose names `http.cookies` refuses."""
    request = cherrypy.serving.request
    lenient = isinstance(request, LenientRequest)
    return parse(request.cookie_header if lenient else _cookie_header(request.header_list))


def set_cookie(
    name: str,
    value: str,
    *,
    path: str,
    domain: str | None = None,
    max_age: int | None = None,
    secure: bool = False,
    httponly: bool = True,
    samesite: str | None = "Lax",
    now: float | None = None,
) -> None:
    """Set a cookie of the response.

    Args:
        max_age: seconds; 0 to delete it, None for a cookie that ends with the browser. Expires says the same moment to
            the clients that know no Max-Age.
        now: epoch seconds that `max_age` counts from; the time of day if None.
    """
    cookie = cherrypy.serving.response.cookie
    cookie[name] = value
    morsel = cookie[name]
    morsel["path"] = path
    if domain:
        morsel["domain"] = domain
    if max_age is not None:
        morsel["max-age"] = max_age
        morsel["expires"] = httputil.HTTPDate((time.time() if now is None else now) + max_age if max_age else 0)
    if secure:
        morsel["secure"] = True
    if httponly:
        morsel["httponly"] = True
    if samesite:
        morsel["samesite"] = samesite


def is_cookie_path(value: str) -> bool:
    """Whether `value` can be the Path of a cookie. A header that a visitor made up may hold a line break."""
    return re.fullmatch(r"/[ -:<-~]*", value) is not None


def is_https() -> bool:
    """Whether the browser speaks https, as far as `tools.proxy` has told."""
    return bool(cherrypy.serving.request.base.startswith("https:"))
