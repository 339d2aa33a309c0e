"""Sessions in the memory of one process: the fastest, and gone with it, unless a snapshot is kept.

A record is the encoded text, not the live objects: CherryPy's own RamSession hands the same objects to every request,
so that a page which fails half-way has changed the session all the same.
"""

from __future__ import annotations

import atexit
import os
import time
import weakref
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property

from ..errors import ConfigError, Unavailable
from ..record import SESSION, TOMBSTONE, Record
from ..session import Session
from ..store import Capabilities, Store
from .snapshot import Snapshot

HANDOVER = 10.0  # seconds that requests wait, after the first of them, for another process to let go of the snapshot


class RamStore(Store):
    """Keeps records in a dictionary. Each of its steps is one operation on it, which the interpreter does not divide.

    Args:
        snapshot_path: a file to which all live sessions are written every few minutes (`clean_freq`) and when the site
            stops, and from which they are read at start. Only one process may use it: the one that serves, which may
            be a fork of the one that made the store, and takes over from its predecessor. None: nothing is written.

    Raises:
        ConfigError: the snapshot cannot be kept there.
    """

    capabilities = Capabilities(
        survives_restart=False,
        shared=False,
        locks_processes=False,
        keeps="In the memory of one process: the fastest.",
        sharing="Nobody: each process has sessions of its own.",
        locking="A fair queue per session among the threads of the process.",
        outage="It is never down while the site is up.",
        limitations="RamSession cannot outlive its process, unless snapshot_path keeps a copy on disk.",
    )

    def __init__(self, *, snapshot_path: str | None = None) -> None:
        super().__init__()
        self._due: list[str] = []  # what the cleaner has found expired and not removed yet
        self._snapshot: Snapshot | None = None
        self._give_up = 0.0  # when the wait for another process ends, once there is one
        if snapshot_path:
            self._snapshot = Snapshot(snapshot_path)
            if any(store._snapshot and store._snapshot.path == self._snapshot.path for store in _stores):
                raise ConfigError(self._snapshot.in_use)  # to wait for it would be to wait for oneself
            self.capabilities = replace(self.capabilities, survives_restart=True)
            _stores.add(self)

    @cached_property
    def _records(self) -> dict[str, Record]:
        """The records by key; those of the snapshot are read when they are first asked for, in the process that serves.
        A server may have forked it long after the store was made, in place of one that has changed them since."""
        if not self._snapshot:
            return {}
        self._give_up = self._give_up or time.monotonic() + HANDOVER
        while not self._snapshot.take() and time.monotonic() < self._give_up:
            time.sleep(0.02)
        self.start()
        atexit.register(self.close)  # not every server says when it stops, or waits for its last requests before
        return self._snapshot.records

    def start(self) -> None:
        if self._snapshot and not self._snapshot.take():
            raise Unavailable(self._snapshot.in_use)

    def load(self, key: str) -> Record | None:
        try:
            return self._records[key]
        except KeyError:
            return None

    def save(self, key: str, record: Record) -> None:
        if self._snapshot and record.kind == TOMBSTONE:  # a session that has moved is as dead as a deleted one
            self._snapshot.forget(key)
        self._records[key] = record

    def remove(self, key: str) -> None:
        if self._snapshot and key in self._records:
            self._snapshot.forget(key)
        self._records.pop(key, None)

    def purge(self, limit: int) -> int:
        now = self.clock()
        if not self._due:  # once for all batches: looking at everything for each of them stops the site for seconds
            self._due = [key for key, record in list(self._records.items()) if record.deadline <= now]
        removed = 0
        while self._due and removed < limit:
            removed += self.purge_one(self._due.pop())
        return removed

    def scan(self) -> Iterator[tuple[str, Record]]:
        return (item for item in list(self._records.items()) if item[1].kind == SESSION)

    def count(self) -> int:
        now = self.clock()
        return sum(record.deadline > now for _, record in self.scan())

    def describe_location(self, key: str) -> str:
        return f"the dictionary of process {os.getpid()}, under {key}"

    def describe_record(self, key: str, record: Record) -> str:
        return repr(record)

    def checkpoint(self) -> None:
        if self._snapshot:
            self._snapshot.write()

    def close(self) -> None:
        if self._snapshot:
            atexit.unregister(self.close)
            _stores.discard(self)
            self._snapshot.closed = True  # what a request that is still under way saves after this is refused, not lost
            vars(self).pop("_records", None)
            self._snapshot.close()

    def forked(self) -> None:
        """Leave the snapshot to the process that this one was forked from."""
        if self._snapshot:
            vars(self).pop("_records", None)
            self._snapshot.forked()


_stores: weakref.WeakSet[RamStore] = weakref.WeakSet()  # that have a snapshot, and are not closed
if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=lambda: list(map(RamStore.forked, _stores)))


class RamSession(Session):
    """A session in the memory of this process. Gone when it ends, unless `snapshot_path` is given."""

    __slots__ = ()
    store_class = RamStore
