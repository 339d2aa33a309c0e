"""What the pages share: answers in HTML and JSON, error pages, accepted methods, form fields, redirects.

A page is a class with an exposed `index`. A page that is a lesson also has a `lesson`, and so stands in the navigation.
"""

from __future__ import annotations

import functools
import html
import ipaddress
import json
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import cherrypy
import jinja2
from cherrypy._cpreqbody import process_multipart_form_data, process_urlencoded
from markupsafe import Markup, escape

import sessions
from pages.source import highlighted, solution

# Merged into a page's `_cp_config`: /counter answers as it stands instead of redirecting to /counter/.
NO_SLASH = {"tools.trailing_slash.on": False}

_HIDDEN_CHARACTERS = {code: 0x2400 + code for code in range(0x20)} | {0x7F: 0x2421}
_HIDDEN_CHARACTERS |= dict.fromkeys([*range(0x80, 0xA0), *range(0xD800, 0xE000)], 0xFFFD)

_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")  # RFC 9110 section 9.2.1

SLOT = b"<!-- what is known when the session has been saved -->"

_LOOPBACK = re.compile(r"(?:localhost|127(?:\.[0-9]{1,3}){3}|\[::1\])(?::[0-9]+)?", re.IGNORECASE)

_HALF_CHARACTER = re.compile("[\ud800-\udfff]")

_ONE_RANGE = re.compile(r"bytes=(?:[0-9]{1,18}-[0-9]{0,18}|-[0-9]{1,18})")


@dataclass(frozen=True)
class Lesson:
    """A page's place in the navigation: its address within the site, its name, and one sentence on what it shows."""

    path: str
    title: str
    about: str


def lessons() -> list[Lesson]:
    """Return the lessons that are mounted, in the order in which app.py mounts them."""
    return [page.lesson for page in vars(cherrypy.request.app.root).values() if hasattr(page, "lesson")]


def lesson_at(path: str) -> Lesson | None:
    """Return what the page or the experiment at this address calls itself; None when nothing is mounted there."""
    page = cherrypy.request.app.root
    for name in path.strip("/").split("/"):
        page = getattr(page, name.replace("-", "_"), None)  # as CherryPy finds it
    return getattr(page, "experiment", None) or getattr(page, "lesson", None)


def pictures(text: object) -> str:
    """Return the text with each control character replaced by its visible Unicode picture (NUL becomes U+2400).

    What has no picture (C1 controls, lone surrogates) becomes U+FFFD.
    """
    return str(text).translate(_HIDDEN_CHARACTERS)


def url(path: str) -> str:
    """Return the address of a path of this site, wherever the site is mounted."""
    return str(cherrypy.request.script_name) + path


def base() -> str:
    """Return the absolute address of the site without a final slash, for the curl lines.

    It begins with the Host header, which is a visitor's text like any other.
    """
    return pictures(cherrypy.request.base) + url("")


def typed(command: str) -> Markup:
    """Return a command for a shell as HTML, SITE in it being the address of this site."""
    return highlighted(command, "bash").replace("SITE", escape(base()))


def is_loopback() -> bool:
    """Tell whether the visitor calls the site by a name that means their own machine.

    Any other name may be led here too, by whoever owns it, and then that owner's pages can read the answer (DNS
    rebinding): a site that only this machine reaches must not tell them what is for this machine's users.
    """
    return _LOOPBACK.fullmatch(cherrypy.request.base.partition("://")[2]) is not None


def address_of(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the address that text is; None where it is none."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address  # a socket for both families shows IPv4 as ::ffff:192.0.2.1


def from_this_machine() -> bool:
    """Tell whether the visitor is on this machine, and calls the site by a name that means it."""
    address = address_of(cherrypy.request.remote.ip)
    return address is not None and address.is_loopback and is_loopback()


def backend() -> sessions.Facts | None:
    """Return what the backend that keeps the sessions here says of itself."""
    return sessions.describe(cherrypy.request.app)


_loader = jinja2.FileSystemLoader([Path(__file__).resolve().parent.parent / "templates"])
_templates = jinja2.Environment(
    loader=_loader,
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def shown(text: object, most: int = 200) -> str:
    """Return a text as a page shows it: without control characters, and not endless."""
    text = pictures(text)
    return text if len(text) <= most else f"{text[:most]}… ({len(text)} characters)"


def templates_from(folder: Path) -> None:
    """Look for templates in another folder, too, after the site's own."""
    if str(folder) not in _loader.searchpath:
        _loader.searchpath.append(str(folder))


_templates.filters |= {"pictures": pictures, "shown": shown}


def slot() -> Markup:
    """Return what the layout leaves for a tool that fills it in later, see pages/xray.py; nothing without one."""
    return Markup(SLOT.decode() if getattr(cherrypy.request, "slot", False) else "")  # noqa: S704 - a constant


_templates.globals.update(url=url, base=base, navigation=lessons, lesson_at=lesson_at, backend=backend, slot=slot)
_templates.globals.update(typed=typed, solution=solution, cookie_name=sessions.cookie_name)


def wants_json() -> bool:
    """Tell whether the request accepts application/json and not text/html; the answer then varies by Accept."""
    cherrypy.lib.set_vary_header(cherrypy.response, "Accept")
    accept = cherrypy.request.headers.get("Accept", "")
    types = {part.partition(";")[0].strip().lower() for part in accept.split(",")}
    return "application/json" in types and "text/html" not in types


def as_json(data: Mapping[str, Any], status: int = 200) -> bytes:
    """Return data as the JSON body of the answer, and set its status and type.

    Pure ASCII on purpose: what a visitor sent cannot then steer the terminal that curl prints to.
    """
    cherrypy.response.status = status
    cherrypy.response.headers["Content-Type"] = "application/json"
    return json.dumps(data).encode("ascii") + b"\n"


def render(
    template: str, data: Mapping[str, Any], *, lesson: Lesson | None = None, status: int = 200, **more: Any
) -> bytes:
    """Return the body of the answer: data as JSON, or the template filled with data and more, by the Accept header."""
    if wants_json():
        return as_json(data, status)
    body = _templates.get_template(template).render(**data, **more, lesson=lesson, path=cherrypy.request.path_info)
    cherrypy.response.status = status
    cherrypy.response.headers["Content-Type"] = "text/html;charset=utf-8"
    return body.encode("utf-8")


def fragment(template: str, **data: Any) -> bytes:
    """Return a part of a page: the template filled with data."""
    return _templates.get_template(template).render(**data).encode("utf-8")


def redirect(path: str) -> NoReturn:
    """Send the visitor on to another page of this site by GET (303, RFC 9110 section 15.4.4)."""
    raise cherrypy.HTTPRedirect(url(path), 303)


def no_store() -> None:
    """Keep the answer out of every cache, so that the back button does not bring back what was private."""
    cherrypy.response.headers["Cache-Control"] = "no-store"


def text_field(name: str, value: object) -> str:
    """Return the value of the form field `name`; 400 when it came twice, as a file, or as half a character.

    A lone surrogate, which some encodings of a form can bring, is in no text that can be written anywhere.
    """
    if not isinstance(value, str) or _HALF_CHARACTER.search(value):
        raise cherrypy.HTTPError(400, f"Send the field '{name}' once, as plain text.")
    return value


def shown_cookie(name: str, value: str) -> str:
    """Return the value of a cookie as it may be shown: that of a session is as good as a key, and has a reference."""
    if name not in sessions.cookie_names():
        return value
    return f"(hidden; reference {sessions.reference(value.partition('.')[0])})"


def session_reference() -> str | None:
    """Return the short masked reference of the visitor's session, or None when it holds nothing."""
    return sessions.reference(cherrypy.session.id) if list(cherrypy.session.keys()) else None


def same_origin() -> None:
    """Refuse, with 403, a request that may change something and that a page of another site has sent.

    For every method but GET, HEAD and OPTIONS, which change nothing here. SameSite=Lax keeps the session cookie off
    foreign forms already. This also covers other hosts of the same domain, for which SameSite does nothing, and forms
    that need no session to do harm: signing a visitor in to somebody else's account (OWASP ASVS 5.0, 3.5.1 and 3.5.3).
    """
    if cherrypy.request.method not in _SAFE_METHODS:
        own_pages_only("This was sent from another site, so nothing was changed.")


def own_pages_only(message: str) -> None:
    """Refuse, with 403 and the message, what a page of another site has sent, by whatever method."""
    if from_another_site():
        sessions.note("cross-site request refused", level=logging.WARNING)
        raise cherrypy.HTTPError(403, message)


def from_another_site() -> bool:
    """Tell whether a page of another site has sent the request, as far as the browser says."""
    headers = cherrypy.request.headers
    if "Sec-Fetch-Site" in headers:
        return headers["Sec-Fetch-Site"] not in ("same-origin", "none")
    # Browsers without it, and every browser on plain http, send Origin. A program such as curl sends neither.
    origin = headers.get("Origin")
    own = cherrypy.request.base.lower()
    # A proxy that ends TLS and does not say so leaves the site thinking that it is visited over http. The other way
    # round, a page that somebody has put into a plain http connection, is another origin.
    return origin is not None and origin.lower() not in (own, own.replace("http:", "https:", 1))


# Before the body is read (at 50 the session begins), and after tools.proxy (at 30) has found out the public host.
cherrypy.tools.same_origin = cherrypy.Tool("before_request_body", same_origin, priority=40)


def error_pages() -> dict[str, Any]:
    """Return the configuration of [/] that lets every failure end in a page of this site."""
    form, multipart = _or_400(process_urlencoded), _or_400(process_multipart_form_data)
    processors = {"application/x-www-form-urlencoded": form, "multipart/form-data": multipart}
    return {
        "error_page.default": error_page,
        "request.body.processors": processors,
        "hooks.on_start_resource": _one_range_at_most,
    }


# status: (title, what to do next). A status that is missing here is told like 400, or like 500.
_WORDS = {
    400: ("We could not read that", "Go back, check what you sent, and try again."),
    401: ("Please sign in first", "Sign in, then ask for this page again."),
    403: ("That is not allowed", "Go back to the page the form is on, and send it from there."),
    404: ("There is nothing here", "Check the address for a slip of the pen, or start again from the tour."),
    405: ("Not like that", "The address is right, the method is not. Open the page it belongs to and use its form."),
    413: ("That is too big", "Send less. A form on this site is for a few words."),
    429: ("Slow down", "Wait as long as it says above, then try again."),
    500: ("We made a mistake", "It is in our log, and nothing of yours was changed. Try again in a moment."),
    503: ("Back in a moment", "Wait a few seconds, then load this page again."),
}


def error_page(status: str, message: str, traceback: str, version: str) -> bytes:
    """Return the body for an HTTP error; the arguments are those that CherryPy passes to `error_page.default`.

    A traceback or CherryPy's version is never shown. Never raises: CherryPy would show that exception to the visitor.
    """
    code = int(status[:3])
    title, advice = _WORDS.get(code) or _WORDS[500 if code >= 500 else 400]
    # The message comes escaped by html.escape, which JSON must not have and the template does by itself. A 500 may
    # carry the text of any exception; every other message was written to be read.
    message = html.unescape(message)
    detail = "" if code == 500 or message == cherrypy.lib.httputil.valid_status(code)[2] else message
    if code == 503:
        cherrypy.response.headers.setdefault("Retry-After", "5")
    try:
        error = {"status": code, "error": detail or f"{title}. {advice}"}
        return render("error.html", error, status=code, title=title, advice=advice, detail=detail)
    except Exception:
        cherrypy.log("The error page failed.", context="PAGES", severity=40, traceback=True)
        cherrypy.response.headers["Content-Type"] = "text/plain;charset=utf-8"
        return f"{status}\n{title}. {advice}\n".encode()


class Request(sessions.LenientRequest):
    """A request to this site.

    One that is refused while CherryPy still reads its headers has no configuration yet and asks its class for the error
    page. One without a length has no body (RFC 9112 section 6.3); CherryPy would answer a POST like that with 411.
    """

    error_page: ClassVar[dict[str, Any]] = {"default": error_page}
    show_tracebacks = False

    def process_headers(self) -> None:
        """Read the headers."""
        super().process_headers()
        if "Content-Length" not in self.headers and "Transfer-Encoding" not in self.headers:
            self.headers["Content-Length"] = "0"


def _one_range_at_most() -> None:
    """Ignore a Range header other than one plain range, as RFC 9110 section 14.2 allows.

    For static files CherryPy lets a malformed one become a 500, and answers thousands of overlapping ones with as many
    copies of the file.
    """
    if not _ONE_RANGE.fullmatch(cherrypy.request.headers.get("Range", "")):
        cherrypy.request.headers.pop("Range", None)


def _or_400(processor: Callable[[Any], None]) -> Callable[[Any], None]:
    """Make a body that cannot be parsed the sender's error; CherryPy's processors let it become a 500."""

    @functools.wraps(processor)
    def read(entity: Any) -> None:
        try:
            processor(entity)
        except (ValueError, LookupError, EOFError) as error:
            raise cherrypy.HTTPError(400, "The form could not be read: it is damaged or cut off.") from error

    return read
