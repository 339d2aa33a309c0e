"""What a visitor is told when a request cannot be answered, whoever notices it: a page, CherryPy, or its parsers."""

from __future__ import annotations

import functools
import html
import logging
import re
from collections.abc import Callable
from typing import Any, ClassVar

import cherrypy
from cherrypy._cpreqbody import process_multipart_form_data, process_urlencoded

from sessions import tool
from web.rendering import render

_ONE_RANGE = re.compile(r"bytes=(?:[0-9]{1,18}-[0-9]{0,18}|-[0-9]{1,18})")


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


class Request(tool.Request):
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

    def handle_error(self) -> None:
        """Log what fails before there is a configuration, which would say so to the tool that logs the rest."""
        if not self.config:
            cherrypy.log(context="HTTP", severity=logging.ERROR, traceback=True)
        super().handle_error()


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
