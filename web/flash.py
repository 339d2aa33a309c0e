"""Flash messages: what the site says once, on the page at the end of a redirect.

They wait in the session, under a random token that is in the redirect's address: `/account?flash=q3VyZ…`. So two tabs
each get their own, and a page whose address has no token does not ask for the session. Kept by the path that they are
for, they did neither: two tabs may be sent to one path, and each page had to lock the session to look. A text in the
address itself could be anybody's.
"""

from __future__ import annotations

import re
import secrets
from urllib.parse import urljoin, urlsplit

import cherrypy

from sessions.tool import current_session
from web import rendering

ROLES = {"success": "status", "info": "status", "warning": "alert", "error": "alert"}
"""How assistive technology announces each kind (WAI-ARIA 1.2): in its turn, or at once."""

MOST = 4
"""Messages that wait in one session. Of more the oldest go, whose pages nobody has opened."""

MOST_CHARACTERS = 200
"""Of one message."""

_FIELD = "flash"  # in the address and in the session
_TOKEN = re.compile(r"[\w-]{11}", re.ASCII)


def flash(text: str, kind: str = "info") -> None:
    """Say something on the page that the visitor sees next: the answer to this request, or where its redirects lead.

    Nothing is said to a program that asks for JSON, nor where the request fails with a 5xx or goes to another site.

    Args:
        text: is shown as text, not as HTML, and cut after MOST_CHARACTERS.
        kind: one of ROLES; ValueError for another.
    """
    if kind not in ROLES:
        raise ValueError(f"a message is of the kind {', '.join(ROLES)}, not {kind!r}")
    _of_request().said.append((kind, rendering.shortened(text, MOST_CHARACTERS)))


class Messages:
    """The messages of one request: those it was sent to with, and those that it says itself."""

    def __init__(self) -> None:
        self.token = ""
        self.said: list[tuple[str, str]] = []
        self._shown = False

    def show(self) -> list[tuple[str, str, str]]:
        """Return the kind, the role and the text of each for a page, which is only then forgotten when it is sent.

        Nobody sees the page of a HEAD, of a 5xx, which may be tried again, or what a browser fetches ahead of need.
        """
        request, status = cherrypy.serving.request, _status()
        if request.method == "HEAD" or status >= 500 or "prefetch" in request.headers.get("Sec-Purpose", ""):
            return []
        self._shown = True
        waiting = [(kind, text) for token, kind, text in self._waiting() if token == self.token]
        return [(kind, ROLES[kind], text) for kind, text in waiting + self.said]

    def finish(self) -> None:
        """Forget what was shown, or let a redirect within the site take the messages with it."""
        request, response, status = cherrypy.serving.request, cherrypy.serving.response, _status()
        if self._shown and (status < 300 or 400 <= status < 500) and (waiting := self._waiting()):
            self._keep([one for one in waiting if one[0] != self.token])
        if not 300 <= status < 400 or not (location := response.headers.get("Location")):
            return
        target = urlsplit(urljoin(f"{request.base}/", location))
        if f"{target.scheme}://{target.netloc}" != request.base:
            return
        if self.said and current_session() is not None and not rendering.wants_json():
            self.token = self.token or secrets.token_urlsafe(8)
            self._keep([*self._waiting(), *((self.token, *one) for one in self.said)])
        if self.token:
            fields = [one for one in target.query.split("&") if one and not one.startswith(f"{_FIELD}=")]
            query = "&".join([*fields, f"{_FIELD}={self.token}"])
            response.headers["Location"] = target._replace(query=query).geturl()

    def _waiting(self) -> list[tuple[str, str, str]]:
        session = current_session() if self.token else None
        return [] if session is None else session.get(_FIELD, [])

    @staticmethod
    def _keep(messages: list[tuple[str, str, str]]) -> None:
        if messages:
            cherrypy.session[_FIELD] = messages[-MOST:]
        else:
            cherrypy.session.pop(_FIELD, None)


class FlashTool(cherrypy.Tool):
    """`cherrypy.tools.flash`: takes the token out of the fields of the address, before a page gets them."""

    def __init__(self) -> None:
        super().__init__("before_handler", _read_token, name="flash", priority=10)

    def _setup(self) -> None:
        if f"{_FIELD}=" in cherrypy.serving.request.query_string:
            super()._setup()


def _read_token() -> None:
    token = cherrypy.serving.request.params.pop(_FIELD, "")
    if isinstance(token, str) and _TOKEN.fullmatch(token):
        _of_request().token = token


def _of_request() -> Messages:
    request = cherrypy.serving.request
    if not hasattr(request, "flash"):
        request.flash = Messages()
        request.hooks.attach("before_finalize", request.flash.finish, priority=85)  # the session is saved at 90
    messages: Messages = request.flash
    return messages


def _status() -> int:
    return int(str(cherrypy.serving.response.status or 200)[:3])


cherrypy.tools.flash = FlashTool()
TOOL = {"tools.flash.on": True}
"""The configuration of [/]: a page that is sent to with a token would refuse that field."""
