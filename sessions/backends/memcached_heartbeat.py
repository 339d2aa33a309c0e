"""Renews the leases of pages that take their time, so that leases can be short (see `memcached_lease.py`).

One thread does it for all leases of a store. It is there only while there are any, and leaves those alone that are new:
an ordinary page has ended before the first beat, and pays for a thread once a second at most.

The heartbeat tells that the process lives. That a page will ever come to its end it cannot tell, so it does not go on
for ever: a page that is stuck blocks its session for some minutes, and then the next request has it.

Rejected: to renew by compare-and-swap, which gives the lock another number just when its holder lets go by the old one.
A touch that comes too late makes the lease of somebody else a little longer, and that is all.
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING

from ..errors import Unavailable
from ..record import reference
from ..store import log
from .memcached_server import Server

if TYPE_CHECKING:
    from .memcached_lease import Lease


class Heartbeat:
    """Renews the leases of a store, in this process.

    Args:
        every: seconds from one beat to the next.
        at_most: seconds for which a lease is renewed.
    """

    def __init__(self, every: float, at_most: float) -> None:
        self._every = every
        self._at_most = at_most
        self._begin()

    def _begin(self) -> None:
        self._mutex = threading.Lock()
        self._leases: set[Lease] = set()
        self._thread: threading.Thread | None = None
        self._pid = os.getpid()

    def __len__(self) -> int:
        """How many leases of this process it renews."""
        return len(self._leases) if self._pid == os.getpid() else 0

    def watch(self, lease: Lease) -> None:
        """Renew a lease until it is let go."""
        if self._pid != os.getpid():  # forked off: threads stay behind, and so do the leases of the other process
            self._begin()
        with self._mutex:
            self._leases.add(lease)
            if self._thread is None:
                self._start()

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name="session leases", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # the lease holds for its time, and the next one tries again
            log.warning("leases are not renewed: %s", error)
        else:
            self._thread = thread

    def forget(self, lease: Lease) -> None:
        """It is let go."""
        with self._mutex:
            self._leases.discard(lease)

    def close(self) -> None:
        """The store is closed; the thread ends within a beat."""
        with self._mutex:
            self._leases.clear()

    def _run(self) -> None:
        while True:
            time.sleep(self._every)
            with self._mutex:
                if not self._leases:
                    self._thread = None
                    return
                leases = list(self._leases)
            self._beat(leases)

    def _beat(self, leases: list[Lease]) -> None:
        now = time.monotonic()
        due: dict[Server, list[Lease]] = {}
        for lease in leases:
            if now - lease.began > self._at_most:
                self.forget(lease)
                log.warning("session %s: held for %d s; its lease ends now", reference(lease.key), self._at_most)
            elif now - lease.asked > self._every / 2:
                due.setdefault(lease.server, []).append(lease)
        for server in sorted(due, key=lambda server: server.is_down):  # one that hangs must not end the others' leases
            self._renew(server, due[server])

    def _renew(self, server: Server, leases: list[Lease]) -> None:
        asked = time.monotonic()
        try:
            answers = server.send(*(lease.to_renew() for lease in leases))
        except Unavailable as error:  # the next beat comes before the leases are over
            log.warning("leases could not be renewed: %s", error)
            return
        for lease, answer in zip(leases, answers, strict=True):
            if not lease.renewed(answer, asked):
                self.forget(lease)
