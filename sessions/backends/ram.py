"""Sessions in the memory of one process: the fastest, and gone with it, unless a snapshot is kept.

A record is the encoded text, not the live objects: CherryPy's own RamSession hands the same objects to every request,
so that a page which fails half-way has changed the session all the same.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace

from ..record import SESSION, TOMBSTONE, Record
from ..session import Session
from ..store import Capabilities, Store
from .snapshot import Snapshot


class RamStore(Store):
    """Keeps records in a dictionary. Each of its steps is one operation on it, which the interpreter does not divide.

    Args:
        snapshot_path: a file to which all live sessions are written every few minutes (`clean_freq`) and when the site
            stops, and from which they are read at start. Only one process may use it. None: nothing is written.

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
        self._records: dict[str, Record] = {}
        self._due: list[str] = []  # what the cleaner has found expired and not removed yet
        self._snapshot: Snapshot | None = None
        if snapshot_path:
            self._snapshot = Snapshot(snapshot_path)
            self._records = self._snapshot.records
            self.capabilities = replace(self.capabilities, survives_restart=True)

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
            key = self._due.pop()
            if self.locks.try_acquire(key):  # its holder may be renewing it
                try:
                    record = self._records.get(key)
                    if record and record.deadline <= now:
                        self.remove(key)
                        self.ended(key, record)
                        removed += 1
                finally:
                    self.locks.release(key)
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
            self._snapshot.write(self._records)

    def close(self) -> None:
        if self._snapshot:
            try:
                self.checkpoint()
            finally:
                self._snapshot.close()


class RamSession(Session):
    """A session in the memory of this process. Gone when it ends, unless `snapshot_path` is given."""

    __slots__ = ()
    store_class = RamStore
