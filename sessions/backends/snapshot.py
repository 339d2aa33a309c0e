"""All sessions of a `RamStore` in one file, written whole and swapped in by a rename; the one before is kept beside it.

A process that is killed leaves a snapshot minutes old. Sessions deleted since then must not come back with it, or a
kill would sign people in again: every deletion is noted at once in a file of its own (FILE.deleted), which starts anew
with each snapshot, as its predecessor does with each before that.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import threading
from collections.abc import Iterator

import zc.lockfile

from ..errors import ConfigError, CorruptRecord, Unavailable
from ..events import log
from ..record import SESSION, Record
from . import folder

_END = b"end of snapshot"
_BLOT = b"-"


class Snapshot:
    """A snapshot file, in use by one process at a time: by this one from `take` to `close`.

    Attributes:
        path: the file.
        records: what was in it when it was taken, and what is written to it.
        closed: whether nobody may use it any more.
        in_use: what to say to whoever cannot take it.

    Raises:
        ConfigError: the file cannot be read or written.
    """

    def __init__(self, path: str) -> None:
        self.records: dict[str, Record] = {}
        self._lock: zc.lockfile.SimpleLockFile | None = None
        self.closed = False
        self._mutex = threading.Lock()
        self._writing = threading.Lock()
        try:
            self.path = os.path.abspath(path)
            parent, name = os.path.split(self.path)
            folder.claim(parent, re.compile(rf"{re.escape(name)}(\.[a-z.]+)?"))
            with contextlib.suppress(FileNotFoundError), open(self.path, "rb"):
                pass
        except (OSError, TypeError) as error:
            raise ConfigError(f"snapshot_path: cannot keep a snapshot at {path!r}: {error}") from error
        self.in_use = (
            f"snapshot_path: another process uses {self.path}, or another store of this one. RAM sessions belong to "
            "one process; to share sessions choose another storage_type"
        )

    def take(self) -> bool:
        """Lock the file and read it, unless that is done. Return False while another process has it."""
        with self._mutex:
            if self.closed:
                raise Unavailable("snapshot: it is closed, for this site stops")
            if self._lock is None:
                try:
                    lock = zc.lockfile.SimpleLockFile(f"{self.path}.lock")
                    try:
                        self.records = self._read()
                        os.close(self._open_deleted())  # makes it
                    except BaseException:
                        lock.close()
                        raise
                except zc.lockfile.LockError:
                    return False
                except OSError as error:
                    raise Unavailable(f"snapshot: it cannot be read: {error}") from error
                self._lock = lock
            return True

    def forked(self) -> None:
        """Forget what the process has that this one was forked from. A lock that is open here would outlive it, and one
        that is released here would be its own."""
        self._mutex, self._writing = threading.Lock(), threading.Lock()  # threads that stayed behind may hold them
        if self._lock:
            self._lock._fp.close()
            self._lock = None

    def _open_deleted(self, suffix: str = "") -> int:
        return os.open(f"{self.path}.deleted{suffix}", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)

    def forget(self, key: str) -> None:
        """Note that the session of `key` was deleted, so that an older snapshot does not bring it back."""
        try:
            with self._mutex:
                if self._lock is None:
                    raise OSError("it is closed")
                note = b"\n%b\n" % key.encode()  # whatever a full disk has left of the one before
                fd = self._open_deleted()  # each time, for Windows renames no file that is open
                try:
                    if os.write(fd, note) < len(note):
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                finally:
                    os.close(fd)
        except OSError as error:
            if self._lock is None or error.errno != errno.ENOSPC or not self._blot_out(key):
                raise Unavailable(f"snapshot: the end of a session could not be noted: {error}") from error

    def _blot_out(self, key: str) -> bool:
        """Overwrite a session where it stands, for which a full disk has room. Return whether there is a snapshot: one
        that is missing may be on a disk that is not mounted."""
        seen = False
        with self._writing, self._mutex:
            for path in (self.path, f"{self.path}.previous"):
                with contextlib.suppress(FileNotFoundError), open(path, "r+b") as file:
                    seen = True
                    if found := re.search(rb"^%b(?= )" % key.encode(), file.read(), re.MULTILINE):
                        file.seek(found.start())
                        file.write(_BLOT * len(key))
            if seen:
                self.records.pop(key, None)  # the next snapshot must not have it either
        return seen

    def write(self) -> None:
        """Write a new snapshot, if this process has it. One that is killed meanwhile leaves the one before."""
        with self._writing:
            with self._mutex:  # a deletion comes before this, and is not in the copy, or is noted in the new file
                if self._lock is None:
                    return
                self._turn_over()
                records = dict(self.records)
            temporary = f"{self.path}.new"
            with open(os.open(temporary, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "wb") as file:
                for key, record in records.items():
                    file.write(b"%b %b\n" % (key.encode(), record.pack(key)))
                file.write(b"%b %d\n" % (_END, len(records)))
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self.path)

    def _turn_over(self) -> None:
        """Make the snapshot the previous one, and the deletions noted since then those that belong to it."""
        if not os.path.exists(self.path):
            return  # killed while writing: the previous snapshot keeps the deletions noted for it
        os.close(self._open_deleted(".new"))  # first, for a full disk has no room for it
        for name in (self.path, f"{self.path}.deleted"):
            os.replace(name, f"{name}.previous")
        os.replace(f"{self.path}.deleted.new", f"{self.path}.deleted")

    def _read(self) -> dict[str, Record]:
        """Return the sessions of the newest snapshot that is whole, without those deleted since."""
        for path in (self.path, f"{self.path}.previous"):
            try:
                records = dict(self._lines(path))
            except FileNotFoundError:
                continue
            except CorruptRecord as error:
                log.warning("snapshot %s quarantined as %s.unreadable: %s", path, path, error)
                os.replace(path, f"{path}.unreadable")
                continue
            for name in (f"{self.path}.deleted", f"{self.path}.deleted.previous"):
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
                if key.strip(_BLOT):
                    yield name, Record.unpack(name, packed)
                count += 1
        raise CorruptRecord("it has no end")

    def close(self) -> None:
        """Write a last snapshot, and leave it to another process."""
        try:
            self.write()
        finally:
            with self._mutex:
                if self._lock:
                    self._lock.close()
                    self._lock = None
