"""Lesson, part of that on cookies: what each attribute of a cookie does, seen in what the browser sends back."""

from __future__ import annotations

from dataclasses import dataclass
from http.cookies import Morsel, SimpleCookie
from typing import Any

import cherrypy

from lessons.cookies.page import Cookies
from sessions.cookies import request_cookies
from web import rendering

HOME = "/cookie/attributes"


@dataclass(frozen=True)
class Demo:
    """A cookie for demonstration.

    Attributes:
        name: fixed. A visitor cannot have another one set.
        attributes: as http.cookies names them. Nothing more: the session's cookie is a better example to follow.
        about: what the attribute does.
        expected: what a browser makes of it.
    """

    name: str
    attributes: dict[str, Any]
    about: str
    expected: str

    def line(self) -> str:
        """The value of Set-Cookie, as it stands in the header."""
        return self.morsel("1").OutputString()

    def morsel(self, value: str) -> Morsel[str]:
        """The cookie with this value."""
        jar: SimpleCookie = SimpleCookie({self.name: value})
        jar[self.name].update({key: str(set_to) if set_to is not True else True
                               for key, set_to in self.attributes.items()})  # type: ignore[misc]  # fmt: skip
        if len(jar[self.name]["path"]) > 1:
            jar[self.name]["path"] = rendering.url(jar[self.name]["path"])
        return jar[self.name]


DEMOS = {
    demo.name: demo
    for demo in (
        Demo("demo_plain", {},
             "No attribute. It lives until the browser closes, for this host and the folder of the page that set it.",
             "Comes to both pages, and to no page outside /cookie. A script sees it."),
        Demo("demo_root", {"path": "/"},
             "Path=/ sends it to every page of this host.",
             "Comes to both, and to every other page: look at /cookie/read."),
        Demo("demo_path", {"path": f"{HOME}/below"},
             "Path says below which address it is sent. It is no wall: a script elsewhere on this host can get at it.",
             "Comes to the page below only."),
        Demo("demo_domain", {"path": "/", "domain": "example.com"},
             "Domain widens: the host that is named, and all hosts below it. Without it, this host alone.",
             "Refused: a site sets cookies for itself, not for example.com."),
        Demo("demo_age", {"path": "/", "max-age": 10},
             "Max-Age is how many seconds the browser keeps it. The server cannot rely on that: a copy has no clock.",
             "Comes for ten seconds, and then no more."),
        Demo("demo_version", {"path": "/", "version": 1},
             "Version is of RFC 2109, from 1997. Browsers skip the attributes that they do not know.",
             "Comes to both, as if it were not there."),
        Demo("demo_httponly", {"path": "/", "httponly": True},
             "HttpOnly hides it from scripts. Whoever gets a script into a page cannot carry it off.",
             "Comes to both; no script sees it."),
        Demo("demo_secure", {"path": "/", "secure": True},
             "Secure sends it by https only. Most browsers make an exception for this machine itself, 127.0.0.1.",
             "Comes by https, and to this machine itself; by plain http from elsewhere it is refused."),
        Demo("demo_lax", {"path": "/", "samesite": "Lax"},
             "SameSite=Lax keeps it off POSTs, pictures and frames of other sites. A link from there brings it along.",
             "Comes to both, also when you follow a link of another site."),
        Demo("demo_strict", {"path": "/", "samesite": "Strict"},
             "SameSite=Strict keeps it off links of other sites as well: you arrive as a stranger.",
             "Comes to both, but not with a link of another site."),
        Demo("demo_none", {"path": "/", "samesite": "None"},
             "SameSite=None sends it with whatever other sites ask of this one. It needs Secure, and has it not here.",
             "Refused by Chromium and what is built on it, for it is not Secure."),
        Demo("__Host-demo", {"path": "/", "secure": True},
             "A name with __Host- promises: Secure, Path=/, no Domain. So no other host of the domain can have set it.",
             "Comes by https; by plain http a browser may refuse it, also from this machine."),
        Demo("__Host-refused", {"path": "/"},
             "The same prefix, and a broken promise: it is not Secure.",
             "Refused: the browser holds the site to the name."),
    )
}  # fmt: skip

# Holds the names of those that were set, for half an hour: the server itself remembers none.
_NOTE = Demo("demo_set", {"path": "/cookie", "max-age": 1800, "samesite": "Lax"}, "", "")


class Attributes:
    """GET /cookie/attributes shows what was set and what came back; POST set=NAME, all or none changes it."""

    _cp_config = rendering.NO_SLASH

    @cherrypy.expose
    @cherrypy.tools.allow(methods=["GET", "POST"])
    def index(self, set: object = "") -> bytes:
        """Show the table, or set a cookie of it, or all, or expire them. HTTPError 400 for any other name."""
        if cherrypy.request.method != "POST":
            return _show()
        wanted = rendering.text_field("set", set)
        if wanted == "none":
            _clear()
        elif wanted == "all":
            _set(list(DEMOS))
        elif wanted in DEMOS:
            _set([wanted])
        else:
            raise cherrypy.HTTPError(400, "Send set= with the name of a cookie of the table, or set=all, or set=none.")
        rendering.redirect(HOME)

    @cherrypy.expose
    @cherrypy.tools.allow(methods=["GET"])
    def below(self) -> bytes:
        """Show the same table, of a request for an address below."""
        return _show()


def _set(names: list[str]) -> None:
    for name in names:
        cherrypy.response.cookie[name] = DEMOS[name].morsel("1")
    noted = {*names, *_noted()}
    cherrypy.response.cookie[_NOTE.name] = _NOTE.morsel(".".join(name for name in DEMOS if name in noted))


def _clear() -> None:
    """Expire all of them, each with the attributes that it was set with, and from the same address: where a cookie has
    no path, the address makes it, and with another path it would be another cookie."""
    for demo in (*DEMOS.values(), _NOTE):
        expired = demo.morsel("")
        expired.update({"max-age": "0", "expires": "Thu, 01 Jan 1970 00:00:00 GMT"})
        cherrypy.response.cookie[demo.name] = expired


def _noted() -> list[str]:
    """The names that the note holds, of those that exist: it comes from the browser, and may hold anything."""
    noted = dict(request_cookies()).get(_NOTE.name, "").split(".")
    return [name for name in DEMOS if name in noted]


def _show() -> bytes:
    rendering.no_store()
    cherrypy.lib.set_vary_header(cherrypy.response, "Cookie")
    came = {name: value for name, value in request_cookies() if name in DEMOS}
    data = {"set": _noted(), "came": came}
    lines = {name: demo.line() for name, demo in DEMOS.items()}
    return rendering.render("attributes/page.html", data, lesson=Cookies.lesson, demos=DEMOS, lines=lines, home=HOME)
