"""Reading and writing cookies.

`http.cookies`, which CherryPy reads requests with, gives up at the first cookie it does not like: `prefs={"a":1}` loses
the session behind it, and `br(oken=1` answers 400 on every page. Many programs set cookies for one host, so reading has
to be as lenient as browsers are (RFC 6265bis section 5.6): cut at each ';', split at the first '='.
"""

from __future__ import annotations

import re
import time
from contextlib import suppress
from functools import lru_cache
from http.cookies import CookieError, SimpleCookie
from typing import Any

import cheroot.server
import cherrypy
from cherrypy.lib import httputil

_PATH = re.compile(r"/[ -:<-~]*")
_ESCAPED = re.compile(r"\\(?:([0-3][0-7]{2})|(.))")


def parse(header: str) -> list[tuple[str, str]]:
    """Return the cookies of a Cookie header as pairs of name and value, in the order in which they came.

    A cookie without '=' has an empty name, as in browsers. Values are unquoted as `http.cookies` quotes them.
    """
    pairs = []
    for part in header.split(";"):
        name, equals, value = part.partition("=")
        if not equals:
            name, value = "", name
        name, value = name.strip(" \t"), value.strip(" \t")
        if name or value:
            pairs.append((_text(name), _text(_unquote(value))))
    return pairs


class HeaderReader(cheroot.server.HeaderReader):
    """Reads the headers of a request. Of several Cookie headers cheroot keeps the last; here they become one, as in a
    server of HTTP/2 (RFC 9113 section 8.2.3)."""

    def __call__(self, rfile: Any, hdict: Any = None) -> Any:
        headers = {} if hdict is None else hdict
        headers.update(super().__call__(rfile, _Headers()))
        return headers


class _Headers(dict[bytes, bytes]):
    def __setitem__(self, name: bytes, value: bytes) -> None:
        super().__setitem__(name, self[name] + b"; " + value if name == b"Cookie" and name in self else value)


def unjoin(header: str, name: str) -> str:
    """Return a Cookie header with the cookies of this name set apart from others that were in a Cookie header of their
    own: most servers join several by a comma, as HTTP does with other headers.

    A comma may as well be part of a value. So only those beside a cookie of this name count, whose own value has none.
    One behind a comma comes last, for whoever can choose a part of some value might have put it there; and a name whose
    prefix promises that no other host has set it is not looked for there at all.
    """
    kept: list[str] = []
    behind: list[str] = []
    prefixed = name.lower().startswith(("__host-", "__secure-"))
    for part in header.split(";"):
        apart, quotes = True, 0  # whether what comes next is a cookie by itself; quotation marks so far
        for number, piece in enumerate(part.split(",")):
            own = piece.partition("=")[0].strip(" \t") == name
            if own and number and not prefixed and quotes % 2 == 0:
                behind += ";", piece
            else:
                kept += ";" if apart else ",", piece
                own = own and apart
            apart = own
            quotes += piece.count('"') - piece.count('\\"')
    return "".join(kept + behind)[1:]


def pattern_of(name: str) -> re.Pattern[str]:
    """Return what finds the values of all cookies of a name in a Cookie header, as `parse` reads it, with one look."""
    return re.compile(rf"(?:^|;)[ \t]*{re.escape(name)}[ \t]*=[ \t]*([^;]*?)[ \t]*(?=;|\Z)")


def _unquote(value: str) -> str:
    if len(value) < 2 or value[0] != '"' or value[-1] != '"':
        return value
    return _ESCAPED.sub(lambda found: chr(int(found[1], 8)) if found[1] else found[2], value[1:-1])


def _text(value: str) -> str:
    """Return the text of a header, whose bytes come as latin-1 (PEP 3333)."""
    try:
        return value.encode("latin-1").decode()
    except UnicodeError:
        return value


class RequestCookies(SimpleCookie):
    """`cherrypy.request.cookie` of a `Request`: the cookies with a legal name. Of two of one name it has the first, the
    one with the longer path (RFC 6265bis section 5.8.3)."""

    def load(self, rawdata: Any) -> None:
        for name, value in parse(rawdata):
            if name not in self:
                with suppress(CookieError):  # request_cookies() still has it
                    self[name] = value


def cookie_header() -> str:
    """Return the Cookie header of the current request; empty without one."""
    request = cherrypy.serving.request
    header: str | None = getattr(request, "cookie_header", None)  # of our own Request, which has taken it out
    if header is None:
        header = "; ".join(value for name, value in request.header_list if name.lower() == "cookie")
    return header


def request_cookies() -> list[tuple[str, str]]:
    """Return every cookie of the current request as (name, value), also those whose names `http.cookies` refuses."""
    return parse(cookie_header())


def presented(name: str, header: str, values: list[str]) -> list[str]:
    """Return the values of a cookie as the browser sent them, or the one put into `cherrypy.request.cookie` since."""
    cookies = cherrypy.serving.request.cookie
    sent = type(cookies)()
    with suppress(CookieError):
        sent.load(header)
    if cookies.get(name) == sent.get(name):
        return values
    return [cookies[name].value] if name in cookies else []


def set_cookie(
    name: str, value: str, *, path: str, domain: str | None = None, max_age: int | None = None,
    secure: bool | str = "auto", httponly: bool = True, samesite: str = "Lax", now: float | None = None,
) -> None:  # fmt: skip
    """Set a cookie of the response.

    Args:
        max_age: seconds; 0 to delete it, None for a cookie that ends with the browser. Expires says the same.
        now: epoch seconds that `max_age` counts from; the time of day if None.
    """
    cookie = cherrypy.serving.response.cookie
    cookie[name] = value
    secure = is_https() if secure == "auto" else bool(secure)
    attributes: dict[str, Any] = {"path": path, "domain": domain or "", "secure": secure, "httponly": httponly}
    if max_age is not None:
        end = (time.time() if now is None else now) + max_age if max_age else 0
        attributes |= {"max-age": max_age, "expires": _http_date(int(end))}
    dict.update(cookie[name], attributes, samesite=samesite)  # past a check of each name, which is one of its own


@lru_cache(maxsize=64)
def _http_date(second: int) -> str:
    return str(httputil.HTTPDate(second))


def is_cookie_path(value: str) -> bool:
    """Return whether `value` can be the Path of a cookie. A header that a visitor made up may hold a line break."""
    return _PATH.fullmatch(value) is not None


def is_https() -> bool:
    """Return whether the browser speaks https, as far as `tools.proxy` has told."""
    return bool(cherrypy.serving.request.base.startswith("https:"))
