"""What the tests of stores with a server ask for, whatever the server is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from services.postgresql import Postgresql
from services.server import Server
from sessions import Record, Unavailable
from sessions.testing import a_record
from tests.support.client import Client
from tests.support.process import wait_until

HOUR = 3600


def fresh(n: int = 1, user: str = "", seconds: float = HOUR) -> Record:
    """Return a record that does not expire while a test runs."""
    return a_record({"n": n}, deadline=time.time() + seconds, user=user)


def refused(action: Callable[[], object]) -> str:
    """Return why an action was not done."""
    with pytest.raises(Unavailable) as caught:
        action()
    return str(caught.value)


def page(visitor: Client, path: str, status: int) -> str:
    """Return the text of a page that must have this status, and leave the cookie alone if that is an error."""
    answer = visitor.get(path)
    assert answer.status == status, answer.text
    if status == 503:
        assert int(answer.headers["retry-after"]) > 0
        assert answer.set_cookie == []
        assert "127.0.0.1" not in answer.text
    return answer.text


@contextmanager
def paused(*servers: Server | Postgresql) -> Iterator[None]:
    """Stop servers with SIGSTOP for the length of a block."""
    for server in servers:
        server.pause()
    try:
        yield
    finally:
        for server in servers:
            server.resume()
        wait_until(lambda: all(server.answers() for server in servers))
