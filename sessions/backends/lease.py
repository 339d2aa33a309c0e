"""Leases: locks that a server drops by itself after some seconds, kept alive while their holder works.

A killed process blocks nobody for longer than its lease, which is well below `lock_timeout`. A page that works longer
has its lease renewed by a heartbeat. What makes a save safe is not the lease, which may be lost unaware (a process
that was stopped, a server that forgot), but the store: it saves a record only in place of the very one that was read.

Rejected: a lease of half a minute that nobody renews. The visitors of a killed process waited for it, and got a 503.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from ..events import log
from ..record import reference

SECONDS = 5  # that a lease lives; more than a server that does not answer can take from it
RENEWED_EVERY = 1.0  # seconds
RENEWED_FOR = 300.0  # seconds for which a page may hold a session that others want


@dataclass(eq=False, slots=True)
class Lease:
    """The lock of one session, taken by this process. Times are of time.monotonic()."""

    key: str
    proof: int  # what the server knows this lock by, and no other
    began: float  # when the server was asked for it
    renewed: float  # when the server was last asked that it live on

    @property
    def still_valid(self) -> bool:
        """Whether the server cannot have dropped it yet; it counts whole seconds."""
        return time.monotonic() < self.renewed + SECONDS - 1


class Heartbeat:
    """Renews the leases of a store, in this process.

    One thread does it for all of them. It is there only while there are any, and leaves those alone that are new: an
    ordinary page has ended before the first beat, and pays for a thread once a second at most. It does not go on for
    ever: a page that is stuck blocks its session for some minutes, and can still save if nobody else has taken it then.

    Args:
        renew: asks the server that these leases live on, sets `renewed` of each that does, and forgets the others.
    """

    def __init__(self, renew: Callable[[list[Lease]], None]) -> None:
        self._renew = renew
        self._begin()

    def _begin(self) -> None:
        self._mutex = threading.Lock()
        self.leases: set[Lease] = set()
        self._beats = False
        self._pid = os.getpid()

    def watch(self, lease: Lease) -> None:
        """Renew a lease until it is forgotten."""
        if self._pid != os.getpid():  # forked off: threads stay behind, and so do the leases of the other process
            self._begin()
        with self._mutex:
            self.leases.add(lease)
            if not self._beats:
                try:
                    threading.Thread(target=self._run, name="session leases", daemon=True).start()
                    self._beats = True
                except RuntimeError as error:  # the lease holds for its time, and the next one tries again
                    log.warning("leases are not renewed: %s", error)

    def forget(self, lease: Lease) -> None:
        """Stop renewing a lease: it is released or lost, or must end by itself."""
        self.leases.discard(lease)
        lease.renewed = -SECONDS

    def close(self) -> None:
        """Stop renewing; the thread ends within a beat."""
        self.leases.clear()

    def _run(self) -> None:
        while True:
            time.sleep(RENEWED_EVERY)
            with self._mutex:
                leases = list(self.leases)
                if not leases:
                    self._beats = False
                    return
            now, due = time.monotonic(), []
            for lease in leases:
                if now - lease.began > RENEWED_FOR:
                    self.forget(lease)
                    log.warning("session %s: held for %d s; its lease ends now", reference(lease.key), RENEWED_FOR)
                elif now - lease.renewed > RENEWED_EVERY / 2:
                    due.append(lease)
            if due:
                self._renew(due)
