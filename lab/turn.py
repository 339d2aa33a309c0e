"""Experiments that start processes or stop servers take turns: they would disturb each other, and the machine."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import cherrypy

_turn = threading.Lock()


@contextmanager
def own_turn() -> Iterator[None]:
    """Let nobody else begin such an experiment during the block.

    Raises:
        cherrypy.HTTPError: 503, one is under way.
    """
    if not _turn.acquire(blocking=False):
        raise cherrypy.HTTPError(503, "An experiment with processes is under way, and there is one at a time. "
                                      "It ends within seconds: try again then.")  # fmt: skip
    try:
        yield
    finally:
        _turn.release()
