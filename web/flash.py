"""Flash messages: what the site says once, on the page at the end of a redirect.

They wait in the session, by the path that they are for, and a short-lived cookie of that path says that there are some.
So a page that has none does not ask for the session, and two tabs that are sent to two pages each get their own. Of two
that are sent to one page, the first to come gets what was said first. The cookie opens nothing and says nothing.

Rejected: a token in the redirect's address, which is then in bookmarks, and no address that is promised any more; the
text itself there, which could be anybody's.
"""

from __future__ import annotations

import secrets
from urllib.parse import quote, unquote, urljoin, urlsplit

import cherrypy

from sessions.cookies import is_cookie_path, request_cookies, set_cookie
from sessions.tool import current_session
from web import rendering

ROLES = {"success": "status", "info": "status", "warning": "alert", "error": "alert"}
"""How assistive technology announces each kind (WAI-ARIA 1.2): in its turn, or at once."""

MOST = 5
"""Messages that wait in one session. Of more the oldest go, whose pages nobody has opened."""

MOST_CHARACTERS = 200
"""Of one message."""

COOKIE = "flash"
_SECONDS = 300  # that the cookie lives: a page that nobody has opened by then is not waited for
_Message = tuple[str, str, str, str]  # a random name of the redirect that it came with, the path, the kind, the text


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
    """The messages of one request: those that wait for its page, and those that it says itself."""

    def __init__(self) -> None:
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
        waiting = [(kind, text) for _, _, kind, text in _for_here()] if _is_waited_for() else []
        return [(kind, ROLES[kind], text) for kind, text in waiting + self.said]

    def finish(self) -> None:
        """Forget what was shown, or let a redirect within the site take the messages with it."""
        request, response, status = cherrypy.serving.request, cherrypy.serving.response, _status()
        if 300 <= status < 400 and (location := response.headers.get("Location")):
            target = urlsplit(urljoin(f"{request.base}/", location))
            if current_session() is not None and f"{target.scheme}://{target.netloc}" == request.base:
                self._send_on(target.path)
        elif self._shown and not 300 <= status < 400 and status < 500 and _is_waited_for():
            shown = _for_here()
            _keep([one for one in _stored() if one not in shown])
            if not _for_here():
                set_cookie(COOKIE, "", path=_cookie_path(_here()), max_age=0)

    def _send_on(self, path: str) -> None:
        path, waiting = unquote(path), _for_here() if _is_waited_for() else []
        texts = [(kind, text) for _, _, kind, text in waiting] + ([] if rendering.wants_json() else self.said)
        if texts:
            name = waiting[0][0] if waiting else secrets.token_hex(4)
            new = [(name, path, *one) for one in texts]
            sent_again = {one[1:] for one in new}  # of a form that was sent twice, the first answer is never seen
            _keep([*(one for one in _stored() if one not in waiting and one[1:] not in sent_again), *new])
            set_cookie(COOKIE, "1", path=_cookie_path(path), max_age=_SECONDS)


def _is_waited_for() -> bool:
    """Tell whether the browser says that there are messages for this page; without it the session is not asked."""
    return current_session() is not None and any(name == COOKIE for name, _ in request_cookies())


def _stored() -> list[_Message]:
    found: list[_Message] = cherrypy.session.get(COOKIE, [])
    return found


def _for_here() -> list[_Message]:
    """Return those for this page, of the redirect that came first."""
    mine = [one for one in _stored() if one[1] == _here()]
    return [one for one in mine if one[0] == mine[0][0]]


def _keep(messages: list[_Message]) -> None:
    if messages:
        cherrypy.session[COOKIE] = messages[-MOST:]
    else:
        cherrypy.session.pop(COOKIE, None)


def _here() -> str:
    request = cherrypy.serving.request  # not cherrypy.url(), which adds a slash
    return f"{request.script_name}{request.path_info}"


def _cookie_path(path: str) -> str:
    return quote(path, safe="/!$&'()*+,:=@") if is_cookie_path(path) else "/"  # as browsers write it


class FlashTool(cherrypy.Tool):
    """`cherrypy.tools.flash`: looks for messages where the browser says that there are some."""

    def __init__(self) -> None:
        super().__init__("before_handler", lambda: None, name="flash")

    def _setup(self) -> None:
        if f"{COOKIE}=" in cherrypy.serving.request.headers.get("Cookie", ""):
            _of_request()


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
"""The configuration of [/]."""
