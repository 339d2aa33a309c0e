"""What the step-by-step experiments share: the games that are kept, and what is shown of a request and its answer."""

from __future__ import annotations

import http.client
import json
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import cherrypy

from lab.visitor import Answer, Kept

MOST = 20  # games of one experiment that are kept; one learner plays one at a time
PATIENCE = 2.0  # seconds; whoever waits for a turn has a thread that the game at play needs for its requests

G = TypeVar("G")


def here() -> str:
    """The address of this very site, without a slash at the end."""
    return str(cherrypy.server.httpserver.url)


class Games(Generic[G]):
    """The games of one experiment, by an id that opens nothing else. The oldest is forgotten for a new one.

    Args:
        forget: called with a game that is no longer kept.
    """

    def __init__(self, forget: Callable[[G], None] = lambda game: None) -> None:
        self._games: OrderedDict[str, G] = OrderedDict()
        self._forget = forget
        self._turn = threading.Lock()

    def __len__(self) -> int:
        return len(self._games)

    def add(self, game: G) -> str:
        """Keep a new game, and return its id."""
        id = secrets.token_urlsafe(9)
        self._games[id] = game
        while len(self._games) > MOST:
            _, oldest = self._games.popitem(last=False)
            self._forget(oldest)
        return id

    def find(self, id: str) -> G:
        """Return the game. HTTPError 404 when it is no longer kept."""
        game = self._games.get(id)
        if game is None:
            raise cherrypy.HTTPError(404, f"This game is not kept any more: the last {MOST} are. Start over.")
        return game

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Let one game at a time make its moves. HTTPError 503 when another one takes too long, and when the site does
        not answer its own visitor."""
        if not self._turn.acquire(timeout=PATIENCE):
            raise cherrypy.HTTPError(503, "Another step is being played. Wait until it is over, then try again.")
        try:
            yield
        except (OSError, http.client.HTTPException) as error:
            raise cherrypy.HTTPError(
                503, f"The site did not answer its own visitor: {type(error).__name__}. Nothing was played."
            ) from error
        finally:
            self._turn.release()


def answered(answer: Answer) -> Answer:
    """Return the answer. HTTPError 503 when the site could not give one, as when its session store is down."""
    if answer.status >= 500:
        raise cherrypy.HTTPError(
            503, f"{answer.request} was answered with {answer.status}. Does the store of the sessions run?"
        )
    return answer


def jar(cookies: dict[str, Kept]) -> list[dict[str, str]]:
    """What may be shown of a cookie jar: names and masked references."""
    return [{"name": name, "reference": kept.reference} for name, kept in cookies.items()]


def exchange(who: str, answer: Answer, form: Mapping[str, str] | None = None, secret: str = "") -> dict[str, Any]:
    """What may be shown of a request and its answer: each session cookie as its masked reference.

    Args:
        form: the fields that were sent.
        secret: a cookie's value that went another way, too: in the address, or in a field.
    """

    def masked(text: str) -> str:
        return text.replace(secret, f"[{Kept(secret, None).reference}]") if secret else text

    return {
        "who": who,
        "request": masked(answer.request),
        "sent": jar(dict(answer.sent)),
        "form": masked("&".join(f"{name}={value}" for name, value in (form or {}).items())),
        "status": answer.status,
        "set_cookie": [_set_cookie(line) for line in answer.set_cookie],
        "body": masked(json.dumps(answer.told, ensure_ascii=False)),
    }


def _set_cookie(line: str) -> dict[str, str]:
    first, _, rest = line.partition(";")
    name, _, value = first.partition("=")
    value = value.strip('"')
    return {"name": name, "reference": Kept(value, None).reference if value else "", "rest": rest.strip()}


class Labels:
    """A short name for each reference, so that one is known again on sight: A, B, C, in the order of appearance."""

    def __init__(self) -> None:
        self._seen: list[str] = []

    def __call__(self, reference: str) -> dict[str, Any]:
        """Return the label of a reference, and the number of its colour."""
        if reference not in self._seen:
            self._seen.append(reference)
        number = self._seen.index(reference)
        return {"letter": chr(65 + number) if number < 26 else str(number + 1), "colour": number % 6 + 1}
