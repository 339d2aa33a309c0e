"""What the pages share: answers in HTML and JSON, form fields, redirects, what may be shown.

A page is a class with an exposed `index`. A page that is a lesson also has a `lesson`, and so stands in the navigation.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote

import cherrypy
import jinja2
from markupsafe import Markup, escape

import sessions
from sessions.cookies import request_cookies
from sessions.registry import cookie_names, registry
from sessions.tool import cookie_name, reference
from web.highlighting import highlighted

# Merged into a page's `_cp_config`: /counter answers as it stands instead of redirecting to /counter/.
NO_SLASH = {"tools.trailing_slash.on": False}

_HIDDEN_CHARACTERS = {code: 0x2400 + code for code in range(0x20)} | {0x7F: 0x2421}
_HIDDEN_CHARACTERS |= dict.fromkeys([*range(0x80, 0xA0), *range(0xD800, 0xE000)], 0xFFFD)

PLACEHOLDER = b"<!-- what is known when the session has been saved -->"

_HALF_CHARACTER = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Lesson:
    """A page's place in the navigation: its address within the site, its name, and one sentence on what it shows."""

    path: str
    title: str
    about: str
    place: int = 10  # those of one place stand in the order in which they are mounted; 0 is not in the navigation

    def page(self, template: str, **data: Any) -> bytes:
        """Return a page of this lesson, as render() does; what it shows of a session is kept by no cache."""
        no_store()
        return render(template, data, lesson=self)


def lessons() -> list[Lesson]:
    """Return the lessons that are mounted, in the order of the navigation."""
    pages = vars(cherrypy.request.app.root).values()
    found = [page.lesson for page in pages if hasattr(page, "lesson") and page.lesson.place]
    return sorted(found, key=lambda lesson: lesson.place)


def lesson_at(path: str) -> Lesson | None:
    """Return what the page or the experiment at this address calls itself; None when nothing is mounted there."""
    page = cherrypy.request.app.root
    for name in path.strip("/").split("/"):
        page = getattr(page, name.replace("-", "_"), None)  # as CherryPy finds it
    return getattr(page, "experiment", None) or getattr(page, "lesson", None)


def visible(text: object) -> str:
    """Return the text with each control character replaced by its visible Unicode picture (NUL becomes U+2400).

    What has no picture (C1 controls, lone surrogates) becomes U+FFFD.
    """
    return str(text).translate(_HIDDEN_CHARACTERS)


def url(path: str) -> str:
    """Return the address of a path of this site, wherever the site is mounted."""
    return quote(cherrypy.request.script_name, safe="/!$&'()*+,:=@") + path


def base() -> str:
    """Return the absolute address of the site without a final slash, for the curl lines.

    It begins with the Host header, which is a visitor's text like any other.
    """
    return visible(cherrypy.request.base) + url("")


def typed(command: str) -> Markup:
    """Return a command for a shell as HTML, SITE in it being the address of this site."""
    return highlighted(command, "bash").replace("SITE", escape(base()))


def setting(name: str) -> Any:
    """Return what site.conf sets in [/]; None where it does not."""
    return cherrypy.request.app.config["/"].get(name)


def backend() -> sessions.Capabilities | None:
    """Return what the backend that keeps the sessions here says of itself."""
    stores = registry.stores(cherrypy.request.app)
    return stores[0].capabilities if stores else None


_loader = jinja2.FileSystemLoader([Path(__file__).resolve().parent.parent / "templates"])
_templates = jinja2.Environment(
    loader=_loader,
    autoescape=jinja2.select_autoescape(disabled_extensions=["txt"], default=True),  # the mails
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def shortened(text: object, most: int = 200) -> str:
    """Return a text as a page shows it: without control characters, and not endless."""
    text = visible(text)
    return text if len(text) <= most else f"{text[:most]}… ({len(text)} characters)"


def templates_from(folder: Path, **functions: Callable[..., Any]) -> None:
    """Look for templates in another folder, too, after the site's own, and let them call these functions."""
    if str(folder) not in _loader.searchpath:
        _loader.searchpath.append(str(folder))
    _templates.globals.update(functions)


_templates.filters |= {"visible": visible, "shortened": shortened}


def cookie_came() -> bool:
    """Tell whether the browser has sent a cookie of the session, whatever it is worth."""
    return any(name == cookie_name() for name, _ in request_cookies())


def session_reference() -> str | None:
    """Return the short masked reference of the visitor's session, or None when it holds nothing."""
    return reference(cherrypy.session.id) if list(cherrypy.session.keys()) else None


def placeholder() -> Markup:
    """Return what the layout leaves for a tool that fills it in later, see lessons/xray; nothing without one."""
    left = getattr(cherrypy.request, "placeholder", False)
    return Markup(PLACEHOLDER.decode() if left else "")  # noqa: S704 - a constant


_templates.globals.update(
    url=url, base=base, navigation=lessons, lesson_at=lesson_at, backend=backend, placeholder=placeholder
)
_templates.globals.update(typed=typed, setting=setting, cookie_name=cookie_name, cookie_came=cookie_came)
_templates.globals.update(session_reference=session_reference)


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
    flashed = getattr(cherrypy.request, "flash", None)  # see web/flash.py
    messages = flashed.show() if flashed else []
    if messages:
        no_store()
    more |= {"lesson": lesson, "messages": messages, "path": cherrypy.request.path_info}
    body = _templates.get_template(template).render(**data, **more)
    cherrypy.response.status = status
    cherrypy.response.headers["Content-Type"] = "text/html;charset=utf-8"
    return body.encode("utf-8")


def form(
    template: str, data: Mapping[str, Any], errors: Mapping[str, str] | None = None, status: int = 400, **more: Any
) -> bytes:
    """Return a page with a form, and what is wrong beside each field, for which `status` is. No password is ever filled
    back in."""
    if errors and wants_json():
        raise cherrypy.HTTPError(status, " ".join(errors.values()))
    return render(template, data, status=status if errors else 200, errors=errors or {}, **more)


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
    names = cookie_names()
    if any(f"{own}=" in value for own in names):
        return "(hidden; a session cookie is in it)"  # some servers join several Cookie headers by a comma
    if name not in names:
        return value
    return f"(hidden; reference {reference(value.partition('.')[0])})"
