"""All sessions of a `RamStore` in one file, written whole and swapped in by a rename; the one before is kept beside it.

A process that is killed leaves a snapshot minutes old. Sessions deleted since then must not come back with it, or a
kill would sign people in again: every deletion is noted at once in a file of its own (FILE.deleted), which starts anew
with each snapshot, as its predecessor does with each before that.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

import zc.lockfile

from ..errors import ConfigError, CorruptRecord, Unavailable
from ..events import log
from ..record import SESSION, Record

_END = b"end of snapshot"


class Snapshot:
    """A snapshot file, in use by this process alone.

    Attributes:
        records: what was in it at the start.

    Raises:
        ConfigError: another process uses the file, or it cannot be read or written.
    """

    def __init__(self, path: str) -> None:
        try:
            self._path = os.path.abspath(path)
            os.makedirs(os.path.dirname(self._path), mode=0o700, exist_ok=True)
            self._lock = zc.lockfile.SimpleLockFile(f"{self._path}.lock")
            self._mutex = threading.Lock()
            self._writing = threading.Lock()
            self._deleted = self._open_deleted()
            self.records = self._read()
        except zc.lockfile.LockError:
            raise ConfigError(
                f"snapshot_path: another process uses {self._path}. RAM sessions belong to one process; "
                "to share sessions choose another storage_type"
            ) from None
        except (OSError, TypeError) as error:
            if hasattr(self, "_lock"):
                self._lock.close()
            raise ConfigError(f"snapshot_path: cannot keep a snapshot at {path!r}: {error}") from error

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
        os.close(self._deleted)
        try:
            for name in (self._path, f"{self._path}.deleted"):
                os.replace(name, f"{name}.previous")
        finally:
            self._deleted = self._open_deleted()

    def _read(self) -> dict[str, Record]:
        """Return the sessions of the newest snapshot that is whole, without those deleted since."""
        for path in (self._path, f"{self._path}.previous"):
            try:
                records = dict(self._lines(path))
            except FileNotFoundError:
                continue
            except CorruptRecord as error:
                log.warning("snapshot %s quarantined as %s.unreadable: %s", path, path, error)
                os.replace(path, f"{path}.unreadable")
                continue
            for name in (f"{self._path}.deleted", f"{self._path}.deleted.previous"):
                with contextlib.suppress(FileNotFoundError), open(name, encoding="ascii", errors="replace") as file:
                    for line in file:
                        key = line.rstrip("\n")
                        if key in records and records[key].kind == SESSION:
                            del records[key]
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
        raise CorruptRecord("it has no end")

    def close(self) -> None:
        """Close the files, for another process to use."""
        os.close(self._deleted)
        self._lock.close()
