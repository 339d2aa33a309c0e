"""A small site whose visitors sign in, called directly: each request does what the test hands it."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import cherrypy
import pytest

import sessions
from sessions import Session, Store
from sessions.registry import backend, registry
from tests.support.application import application
from tests.support.backends import BACKENDS, options_of
from tests.support.client import Response, WsgiClient

MODES = ("implicit", "early", "explicit")
Work = Callable[[Session], Any]


def able(*capabilities: str) -> list[str]:
    """Return the backends that declare all of these capabilities."""
    declared = {name: backend(name).store_class.capabilities for name in BACKENDS}
    return [name for name, found in declared.items() if all(getattr(found, one) for one in capabilities)]


def unable(capability: str) -> list[str]:
    """Return the backends that declare that they cannot do this."""
    return [name for name in BACKENDS if name not in able(capability)]


class Accounts:
    """The accounts of the site: since when the sessions of each are valid. `asked` notes each question."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.since: dict[str, float | None] = {}
        self.asked: list[str] = []
        self.failing = False

    def valid_since(self, user: str) -> float | None:
        self.asked.append(user)
        if self.failing:
            raise OSError("the disk is gone")
        return self.since.get(user, 0.0)

    def revoke(self, user: str) -> None:
        if self.failing:
            raise OSError("the disk is gone")
        self.since[user] = self._clock()


class Pages:
    """Each request carries the number of the work it is to do, and answers what that returned."""

    def __init__(self) -> None:
        self.works: dict[str, Work] = {}
        self._numbers = itertools.count()

    def add(self, work: Work) -> str:
        number = str(next(self._numbers))
        self.works[number] = work
        return f"/{number}"

    @cherrypy.expose
    def default(self, *path: str, **fields: str) -> str:
        return str(self.works.pop(path[-1])(cherrypy.session))


class Browser(WsgiClient):
    """Somebody with a cookie jar in front of the site."""

    def __init__(self, app: cherrypy.Application, pages: Pages) -> None:
        super().__init__(app)
        self.pages = pages

    def do(self, work: Work) -> Response:
        """Send one request, in which a page does `work`."""
        return self.get(self.pages.add(work))

    def run(self, work: Work) -> str:
        """Return what `work` returns, in a request that succeeds."""
        answer = self.do(work)
        assert answer.status == 200, answer.text
        return answer.text

    def meanwhile(self, work: Work) -> Response:
        """Do the same in a thread of its own, while another request of the test is under way."""
        answers: list[Response] = []
        thread = threading.Thread(target=lambda: answers.append(self.do(work)))
        thread.start()
        thread.join(30)
        assert answers, "the request does not end"
        return answers[0]

    def having(self, other: Browser) -> Self:
        """Take the cookies of another one: the same browser, in front of the site as it is later."""
        self.cookies = dict(other.cookies)
        return self

    def sign_in(self, user: str = "ada", remember: bool = False) -> Self:
        self.run(lambda session: session.sign_in(user, remember))
        return self

    def user(self) -> str | None:
        name = self.run(lambda session: session.user)
        return None if name == "None" else name


class SignInApp:
    """The site. `ahead` moves the clock of its store and of its accounts, in seconds."""

    def __init__(self, backend: str, place: Path, mount: str = "", **options: Any) -> None:
        self.ahead = 0.0
        self.pages = Pages()
        self.accounts = Accounts(self.now)
        options = {"timeout": 40, "lifetime": 60, "remember_timeout": 100, "remember_lifetime": 150, **options}
        options.setdefault("accounts", self.accounts)
        self.app = application(self.pages, mount, **{**options_of(backend, place), **options})
        (self.store,) = registry.stores(self.app)
        self.store.clock = self.now

    store: Store

    def now(self) -> float:
        return time.time() + self.ahead

    def browser(self) -> Browser:
        return Browser(self.app, self.pages)

    def signed_in(self, user: str = "ada", remember: bool = False) -> Browser:
        """Return somebody who has just signed in."""
        return self.browser().sign_in(user, remember)

    def reset(self) -> None:
        """Set it back to how it was: no test is to find what another has left."""
        self.ahead = 0.0
        self.accounts.since.clear()
        self.accounts.asked.clear()
        self.accounts.failing = False


@contextmanager
def sign_in_app(backend: str, place: Path, mount: str = "", **options: Any) -> Iterator[SignInApp]:
    """Open a site for the length of a block."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_PATH", str(place))
        site = SignInApp(backend, place, mount, **options)
        yield site
        sessions.close_stores(site.app)
