"""Keeps a busy session from taking every worker thread of CherryPy's server (rule 6).

A request that waits for its session waits in a thread of the pool. Ten requests on one session whose page is slow, and
a pool of ten has nobody left for other visitors, without any of them doing anything wrong. So for threads that wait,
others are added; they go when it is calm again. `locks.MAX_WAITING` bounds how many.
"""

from __future__ import annotations

import threading
from typing import Any

import cherrypy

from . import locks
from .store import log

_CALM = 10.0  # seconds without a waiting thread before the added ones go


class SpareWorkers:
    """Lets the thread pool of `cherrypy.server` grow while its threads wait for sessions."""

    def __init__(self) -> None:
        self._wake = threading.Event()
        self._stopped = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to watch; does nothing under a server of another make."""
        pool = getattr(cherrypy.server.httpserver, "requests", None)
        if hasattr(pool, "grow") and hasattr(pool, "shrink"):
            self._stopped = False
            self._thread = threading.Thread(target=self._run, args=(pool,), name="spare workers", daemon=True)
            self._thread.start()
            locks.waiting.changed = self._changed

    def stop(self) -> None:
        """Stop watching; the server ends its threads itself."""
        locks.waiting.changed = None
        self._stopped = True
        self._wake.set()

    def _changed(self, waiting: int) -> None:
        self._wake.set()

    def _run(self, pool: Any) -> None:
        added = 0
        while not self._stopped:
            woken = self._wake.wait(_CALM if added else None)
            self._wake.clear()
            try:
                added = self._adjust(pool, added, woken)
            except RuntimeError:  # the system gives no more threads; those that are there go on, and so does this one
                log.exception("the pool of worker threads could not grow")

    def _adjust(self, pool: Any, added: int, woken: bool) -> int:
        """Bring the pool to what is needed now; how many threads it then has on top of its own."""
        waiting = locks.waiting.count
        size = int(pool.min)
        wanted = -(-waiting // size) * size  # by whole pools: growing sleeps 0.1 s each time
        if wanted > added:
            pool.grow(wanted - added)
            added = wanted
        elif added and not woken and not waiting:
            pool.shrink(0)  # forgets those that ended after the last time, whom cheroot would count against these
            pool.shrink(added)
            added = 0
        return added
