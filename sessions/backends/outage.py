"""A server that does not answer, and connections that it has closed."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Callable
from typing import TypeVar

from ..errors import Unavailable

T = TypeVar("T")


class Outage:
    """Lets one thread at a time ask a server that is down. The others are refused at once: one that hangs would soon
    have every thread of the site, and stop the sessions of other servers, too.

    Args:
        server: its name and address, for the message.
        errors: what a call raises if the server does not answer.

    Attributes:
        is_down: it did not answer when it was last asked.
    """

    def __init__(self, server: str, *errors: type[Exception]) -> None:
        self._server, self._errors = server, errors
        self.is_down = False
        self._probe = threading.Lock()

    def ask(self, call: Callable[..., T], *args: object) -> T:
        """Return what `call` returns, or raise Unavailable while another thread finds out if the server is back."""
        probing = self.is_down
        if probing and not self._probe.acquire(blocking=False):
            raise Unavailable(f"{self._server} still does not answer; another request is looking")
        try:
            answer = call(*args)
            if probing:
                self.is_down = False
            return answer
        except self._errors:
            self.is_down = True
            raise
        finally:
            if probing:
                self._probe.release()


def is_closed(connection: socket.socket) -> bool:
    """Return whether an idle connection has been closed: nothing else can come in between two commands."""
    if not hasattr(select, "poll"):  # Windows
        return bool(select.select([connection], [], [], 0)[0])
    poll = select.poll()  # select.select() knows no descriptor above 1023
    poll.register(connection, select.POLLIN)
    return bool(poll.poll(0))
