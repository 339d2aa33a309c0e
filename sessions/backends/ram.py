"""Sessions in the memory of one process: the fastest, and gone with it, unless a snapshot is kept.

A record is the encoded text, not the live objects: CherryPy's own RamSession hands the same objects to every request,
so that a page which fails half-way has changed the session all the same.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from dataclasses import replace

import zc.lockfile

from ..errors import ConfigError, Unavailable, Unreadable
from ..facts import Facts
from ..record import Record
from ..store import Store, log

_END = b"end of snapshot"


class RamStore(Store):
    """Keeps records in a dictionary.

    Args:
        snapshot_path: a file to which all live sessions are written every few minutes (`clean_freq`) and when the site
            stops, and from which they are read at start. Only one process may use it. None: nothing is written.
    """

    facts = Facts(
        survives_restart=False,
        shared=False,
        locks_processes=False,
        keeps="In the memory of one process: the fastest.",
        sharing="Nobody: each process has sessions of its own.",
        locking="A fair queue per session among the threads of the process.",
        outage="It is never down while the site is up.",
        cannot="RamSession cannot outlive its process, unless snapshot_path keeps a copy on disk.",
    )

    def __init__(self, *, snapshot_path: str | None = None) -> None:
        super().__init__()
        self._records: dict[str, Record] = {}
        self._of_user: dict[str, set[str]] = {}  # user: keys; both change under the mutex
        self._due: list[str] = []  # what the cleaner has found expired and not removed yet
        self._mutex = threading.Lock()  # makes "replace if it is there" one step
        self._snapshot: Snapshot | None = None
        if snapshot_path:
            self._snapshot, self._records = _open_snapshot(snapshot_path)
            self.facts = replace(self.facts, survives_restart=True)
        for key, record in self._records.items():
            self._note_user(key, record)

    def load(self, key: str) -> Record | None:
        return self._records.get(key)

    def create(self, key: str, record: Record) -> None:
        with self._mutex:
            self._records[key] = record
            self._note_user(key, record)

    def _note_user(self, key: str, record: Record) -> None:
        if record.user:
            self._of_user.setdefault(record.user, set()).add(key)

    def _forget_user(self, key: str, record: Record) -> None:
        keys = self._of_user.get(record.user, set())
        keys.discard(key)
        if not keys:
            self._of_user.pop(record.user, None)

    def replace(self, key: str, record: Record) -> bool:
        with self._mutex:
            before = self._records.get(key)
            if before is None or not before.data:
                return False
            if not record.data and self._snapshot:  # the session has moved: its old key is as dead as a deleted one
                self._snapshot.forget(key)
            self._records[key] = record
            if before.user != record.user:
                self._forget_user(key, before)
                self._note_user(key, record)
        return True

    def delete(self, key: str) -> None:
        with self._mutex:
            known = self._records.pop(key, None)
            if known:
                self._forget_user(key, known)
        if known and self._snapshot:
            self._snapshot.forget(key)

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
                        self.delete(key)
                        removed += 1
                finally:
                    self.locks.release(key)
        return removed

    def live(self, user: str | None) -> Iterator[tuple[str, Record]]:
        with self._mutex:
            keys = list(self._records if user is None else self._of_user.get(user, ()))
            records = [(key, self._records[key]) for key in keys]
        yield from records

    def place(self, key: str) -> str:
        return f"the dictionary of process {os.getpid()}, under {key}"

    def as_stored(self, key: str, record: Record) -> str:
        return repr(record)

    def count(self) -> int:
        now = self.clock()
        return sum(1 for record in list(self._records.values()) if record.data and record.deadline > now)

    def checkpoint(self) -> None:
        if self._snapshot:
            self._snapshot.write(self._records)

    def close(self) -> None:
        if self._snapshot:
            try:
                self.checkpoint()
            finally:
                self._snapshot.close()


def _open_snapshot(path: str) -> tuple[Snapshot, dict[str, Record]]:
    try:
        snapshot = Snapshot(path)
        try:
            return snapshot, snapshot.read()
        except OSError:
            snapshot.close()
            raise
    except (OSError, TypeError) as error:
        raise ConfigError(f"snapshot_path: cannot keep a snapshot at {path!r}: {error}") from error


class Snapshot:
    """All sessions in one file, written whole and swapped in by a rename; the one before it is kept beside it.

    A process that is killed leaves a snapshot minutes old. Sessions deleted since then must not come back with it, or
    a kill would sign people in again: every deletion is noted at once in a file of its own (FILE.deleted), which starts
    anew with each snapshot, as its predecessor does with each before that.

    Raises:
        ConfigError: another process uses the file.
        OSError: it cannot be read or written.
    """

    def __init__(self, path: str) -> None:
        self._path = os.path.abspath(path)
        os.makedirs(os.path.dirname(self._path), mode=0o700, exist_ok=True)
        try:
            self._lock = zc.lockfile.SimpleLockFile(f"{self._path}.lock")
        except zc.lockfile.LockError:
            raise ConfigError(
                f"snapshot_path: another process uses {self._path}. RAM sessions belong to one process; "
                "to share sessions choose another storage_type"
            ) from None
        self._mutex = threading.Lock()
        self._writing = threading.Lock()
        self._deleted = self._open_deleted()

    def _open_deleted(self) -> int:
        return os.open(f"{self._path}.deleted", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)

    def forget(self, key: str) -> None:
        """Note that the session of `key` was deleted, so that an older snapshot does not bring it back."""
        try:
            with self._mutex:
                os.write(self._deleted, b"%b\n" % key.encode())
        except OSError as error:
            raise Unavailable(f"snapshot: the end of a session could not be noted: {error}") from error

    def write(self, records: dict[str, Record]) -> None:
        """Write a new snapshot. A process killed meanwhile leaves the one before."""
        with self._writing:
            with self._mutex:  # a deletion comes before this, and is not in the copy, or is noted in the new file
                self._turn_over()
                records = dict(records)
            temporary = f"{self._path}.new"
            with open(os.open(temporary, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "wb") as file:
                for key, record in records.items():
                    file.write(b"%b %b\n" % (key.encode(), record.pack(key)))
                file.write(b"%b %d\n" % (_END, len(records)))
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self._path)

    def _turn_over(self) -> None:
        """Make the snapshot the previous one, and the deletions noted since then those that belong to it."""
        if not os.path.exists(self._path):
            return  # killed while writing: the previous snapshot keeps the deletions noted for it
        for name in (self._path, f"{self._path}.deleted"):
            os.replace(name, f"{name}.previous")
        os.close(self._deleted)
        self._deleted = self._open_deleted()

    def read(self) -> dict[str, Record]:
        """The sessions of the newest snapshot that is whole, without those deleted since."""
        for path in (self._path, f"{self._path}.previous"):
            try:
                records = dict(self._lines(path))
            except FileNotFoundError:
                continue
            except Unreadable as error:
                log.warning("snapshot %s set aside as %s.unreadable: %s", path, path, error)
                os.replace(path, f"{path}.unreadable")
                continue
            for name in (f"{self._path}.deleted", f"{self._path}.deleted.previous"):
                with contextlib.suppress(FileNotFoundError), open(name, encoding="ascii", errors="replace") as file:
                    for line in file:
                        records.pop(line.rstrip("\n"), None)
            return records
        return {}

    @staticmethod
    def _lines(path: str) -> Iterator[tuple[str, Record]]:
        count = 0
        with open(path, "rb") as file:
            for line in file:
                key, _, packed = line.rstrip(b"\n").partition(b" ")
                if line == b"%b %d\n" % (_END, count):
                    return
                name = key.decode("ascii", "replace")
                yield name, Record.unpack(name, packed)
                count += 1
        raise Unreadable("it has no end")

    def close(self) -> None:
        os.close(self._deleted)
        self._lock.close()
