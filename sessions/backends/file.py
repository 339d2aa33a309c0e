"""Sessions in files: they survive a restart, and all processes of one machine share them.

A session is one file, storage_path/AB/KEY, where AB are the first two digits of the key's hash. It is a journal: each
line is a packed record with its checksum, and the last whole line is the state. So

  * a save is one append (6 us; a temporary file and os.replace cost 170 to 240 us),
  * a process killed at any byte leaves the line before, and the next save cuts the torn rest off,
  * `tail -n 1 FILE` shows the session.

A journal that has grown is rewritten by a rename. The file's time of modification carries the deadline when that is
later than the one in the line: a renewal is one utime, and the cleaner finds what has expired by looking at folders.

The lock is a file beside it, KEY.lock, by zc.lockfile, which the kernel releases with the process that held it. It is
made when the session is first locked, and removed with it; the cleaner removes what a killed process has left. Keys are
never used again, so a lock whose session has gone protects nothing, and to remove it needs no look at who waits for it.
The index of a user is used again: it is locked by one file for each folder, AB/.lock, which stays. The session file's
own flock was the way before. It took 10 us less, but not on Windows, where a file that is open can be neither renamed
nor removed; and a lock on a file that was rewritten or deleted meanwhile had to be found out.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import re
import stat
import sys
import time
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

import zc.lockfile

from ..errors import ConfigError, CorruptRecord, NoRoom, StoreError, Unavailable
from ..events import log, publish
from ..locks import FairLocks, poll
from ..record import SESSION, TOMBSTONE, Record, reference
from ..session import Session
from ..store import Capabilities, Hold, Store
from . import folder

P = ParamSpec("P")
T = TypeVar("T")

COMPACT_AT = 32768  # bytes of a journal that are cheaper to keep than to rewrite: that costs as much as ten saves
KEY = re.compile(r"[\w-]*[0-9a-f]{64}", re.ASCII)  # pattern of a session file's name
UNREADABLE, NEW, LOCK = ".unreadable", ".new", ".lock"  # what other names end with
_TAIL = 4096  # bytes at the end of a journal that are read first; they hold the last line of nearly every session
_FOLDERS = tuple(f"{n:02x}" for n in range(256))
_FOLDER = re.compile("[0-9a-f]{2}")
_MARKER = ".writable"  # what shows that the folder is the one of the start, and not where its disk was mounted
_NOTE = b"This folder keeps sessions. Without this file it counts as a disk that is not mounted.\n"
_KEEP = {UNREADABLE: 7 * 86400, NEW: 3600}  # seconds until the cleaner removes what was quarantined, or left by a kill
_YOUNG = 60  # seconds in which a file that makes no sense may be one that is just being made
_TYPE = 0o170000  # of a file, among the bits of its mode
_LATEST = 1 << 62  # nanoseconds that a file's time can hold
# Nobody may make a request follow a link, or wait for a pipe, in the place of a session.
_FLAGS = sum(getattr(os, name, 0) for name in ("O_CLOEXEC", "O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"))
_NO_FILE = {errno.ELOOP, errno.EISDIR, errno.ENXIO}  # what opening a link, a folder or a socket says
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # no blocks, or no inodes


def translate_os_errors(method: Callable[P, T]) -> Callable[P, T]:
    """Make a disk that is full, gone or forbidden an unavailable store. A missing session is no such error."""

    @functools.wraps(method)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return method(*args, **kwargs)
        except OSError as error:
            raise _unavailable(error) from error

    return wrapper


def _unavailable(error: OSError) -> Unavailable:
    return (NoRoom if error.errno in _FULL else Unavailable)(f"session files: {error}")


def read_journal(path: str, key: str) -> tuple[Record, int, int]:
    """Return the state of a journal, the size of the file, and where its last whole line ends, in bytes.

    Raises:
        CorruptRecord: there is no whole line, or the last one is no record.
    """
    fd = os.open(path, os.O_RDONLY | _FLAGS)
    try:
        found = os.fstat(fd)
        if found.st_mode & _TYPE != stat.S_IFREG:
            raise CorruptRecord("it is no file")
        size = found.st_size
        if size > _TAIL:
            os.lseek(fd, -_TAIL, os.SEEK_END)
        lines = os.read(fd, size).rsplit(b"\n", 2)
        if size > _TAIL and not lines[2:]:  # the last line is longer than that
            os.lseek(fd, 0, os.SEEK_SET)
            lines = os.read(fd, size).rsplit(b"\n", 2)
    finally:
        os.close(fd)
    if not lines[1:]:
        raise CorruptRecord("it has no whole line")
    record = Record.unpack(key, lines[-2])
    if found.st_mtime > record.deadline and record.kind != TOMBSTONE:
        record = record._replace(deadline=found.st_mtime)
    return record, size, size - len(lines[-1])


def write_line(path: str, line: bytes, record: Record, durable: bool, flags: int, end: int | None = None) -> None:
    """Append a line to a journal, and note the deadline beside it; sync both if `durable`.

    Args:
        end: cut off what stands behind this byte before: the torn line of a process that was killed.
    """
    fd = os.open(path, flags | os.O_APPEND | _FLAGS, 0o600)
    try:
        if end is not None:
            os.ftruncate(fd, end)
        while line:  # a disk that fills up takes a part first
            line = line[os.write(fd, line) :]
        write_deadline(path, record)
        if durable:
            os.fsync(fd)
    finally:
        os.close(fd)


def write_deadline(path: str, record: Record) -> None:
    """Note the deadline of a record as the file's time of modification, for the cleaner and for renewals."""
    if record.kind != TOMBSTONE:  # a session that has moved is not live: its deadline stands in its line only
        moment = int(record.deadline * 1e9)
        if moment > _LATEST:
            moment = _LATEST
        os.utime(path, ns=(moment, moment))


class FileHold(Hold):
    """Holds a session by its lock file. Its own file is open only while it is read or written: on Windows one that is
    open can be neither replaced nor removed."""

    __slots__ = ("_end", "_gone", "_lock", "_path", "_size")
    _store: FileStore

    def __init__(self, store: FileStore, key: str, path: str) -> None:
        self._store, self.key, self._path = store, key, path
        self._released, self.record = False, None
        self._lock: zc.lockfile.SimpleLockFile | None = None
        self._size = self._end = 0  # of the file, and where its last whole line ends
        self._gone = False

    def try_lock(self) -> bool:
        """Take the lock if nobody has it. Return whether it is ours."""
        place = self._path[: -len(self.key)] if self._store.is_index(self.key) else self._path
        try:
            self._lock = zc.lockfile.SimpleLockFile(place + LOCK)
            return True
        except zc.lockfile.LockError:
            return False
        except FileNotFoundError:
            self._store.make_folder(self._path)
            return self.try_lock()
        except OSError as error:
            if error.errno not in _FULL or self._store.is_index(self.key):
                raise _unavailable(error) from error
            return True  # without a lock file, which nobody else has either, it can be read and removed, not written

    def _read(self) -> Record | None:
        try:
            record, self._size, self._end = read_journal(self._path, self.key)
            return record
        except OSError as error:
            self._store.check_missing(error)
            self._gone = True
            return None

    def _commit(self, record: Record) -> bool:
        before, durable = self.record, self._store.durable
        try:
            if before and record.deadline > before.deadline and record == before._replace(deadline=record.deadline):
                if not durable:
                    write_deadline(self._path, record)
                    return True
            if not self._lock:
                raise NoRoom("session files: there is no room for a lock file")
            line = record.pack(self.key) + b"\n"
            if self._end > COMPACT_AT and self._end > 3 * len(line) and self._rewrite(line, record):
                return True
            try:
                write_line(self._path, line, record, durable, os.O_RDWR, self._end if self._size > self._end else None)
            except FileNotFoundError:  # somebody has removed it by hand
                return False
            except OSError:
                os.truncate(self._path, self._end)
                if before:  # the time of modification is now that of the failure
                    write_deadline(self._path, before)
                raise
        except OSError as error:
            raise _unavailable(error) from error
        return True

    def _rewrite(self, line: bytes, record: Record) -> bool:
        """Replace the journal by one of a single line. Return False if that cannot be now, on Windows while somebody
        reads it without a lock: it grows on."""
        new = self._path + NEW
        write_line(new, line, record, self._store.durable, os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
        try:
            os.replace(new, self._path)
        except PermissionError:
            os.unlink(new)
            return False
        if self._store.durable:
            sync_folder(self._path)
        return True

    @translate_os_errors
    def _remove(self) -> None:
        self._store.remove(self.key)
        if self.record and not self._lock:  # there is room now: has somebody locked it meanwhile, and rewritten it?
            poll(self.try_lock, 1, f"session {reference(self.key)}")
            self._store.remove(self.key)
        self._gone = True

    @translate_os_errors
    def _quarantine(self) -> None:
        with contextlib.suppress(FileNotFoundError):  # a cleaner of empty files came before
            insist(os.replace, self._path, self._path + UNREADABLE)
        self._gone = True

    def _unlock(self) -> None:
        if self._lock:
            self._lock.close()
            if self._gone and not self._store.is_index(self.key):
                remove_lock(self._path + LOCK)


class FileStore(Store):
    """Keeps each session in a file of its own.

    Args:
        storage_path: the folder; made with mode 0700 if it is missing. Applications and processes may share one.
        durable: sync each save to the disk before it counts as done. Without it a save survives the process at once,
            and a loss of power after some seconds.

    Raises:
        ConfigError: the folder cannot be made or written.
    """

    capabilities = Capabilities(
        survives_restart=True,
        shared=True,
        locks_processes=True,
        keeps="One file for each session.",
        sharing="All processes of one machine that name the same folder.",
        locking="A fair queue among the threads of a process; between processes a lock file, which the kernel releases "
        "with the process that held it.",
        outage="A folder that is full, gone or forbidden: 503 until it is back, and no session is lost.",
        needs="A folder that the site may write.",
        limitations="FileSession cannot be shared by several machines: do not trust file locks over a network.",
    )

    def __init__(self, *, storage_path: str, durable: bool = False) -> None:
        super().__init__()
        self.locks = FairLocks(stand_back=True)
        if not isinstance(storage_path, (str, os.PathLike)):
            raise ConfigError(f"storage_path is {storage_path!r}: it must be the path of a folder")
        if not isinstance(durable, bool):
            raise ConfigError(f"durable is {durable!r}: it must be True or False")
        self.root = os.path.abspath(storage_path)
        self.durable = durable
        self._next_folder = 0
        self._marker = f"{self.root}/{_MARKER}"
        try:
            folder.claim(self.root, _FOLDER, folder.USE_FOLDERS, _MARKER)
            self._mark()
            if os.name == "posix" and stat.S_IMODE(os.stat(self.root).st_mode) & 0o077:
                log.warning("storage_path: other users can look into %s; chmod 700 it", self.root)
        except OSError as error:
            place = error.filename or self.root
            raise ConfigError(f"storage_path: cannot keep sessions in {place}: {error.strerror}") from error

    def _mark(self) -> None:
        """Put the marker there, with something in it, for there are cleaners of all that is empty."""
        with contextlib.suppress(FileNotFoundError, PermissionError):
            if os.path.getsize(self._marker):
                return
            os.unlink(self._marker)
        with contextlib.suppress(FileExistsError):  # of another process that starts as well
            fd = os.open(self._marker, os.O_CREAT | os.O_EXCL | os.O_WRONLY | _FLAGS, 0o600)
            try:
                folder.inherit(fd, self._marker)
                with contextlib.suppress(OSError):  # on a full disk it stays empty
                    os.write(fd, _NOTE)
            finally:
                os.close(fd)

    def path(self, key: str) -> str:
        """Return the file of a session."""
        return f"{self.root}/{key[-64:-62]}/{key}"

    def _hold(self, key: str, timeout: float) -> Hold:
        path = f"{self.root}/{key[-64:-62]}/{key}"
        hold = FileHold(self, key, path)
        if os.access(path, os.F_OK) or self.is_index(key):  # nobody can make a session meanwhile: its id is not known
            if not hold.try_lock():
                poll(hold.try_lock, timeout, f"session {reference(key)}", self.locks.max_waiting)
        return hold

    @translate_os_errors
    def make_folder(self, path: str) -> None:
        """Make the folder of a session, anew, unless the whole disk has gone: a cleaner of empty folders removed it."""
        os.stat(self._marker)
        folder.make(os.path.dirname(path))
        if self.durable:
            sync_folder(os.path.dirname(path))

    @translate_os_errors
    def check_missing(self, error: OSError) -> None:
        """Do nothing if a session file cannot be opened because there is none.

        Raises:
            CorruptRecord: something else is in its place.
            Unavailable: the disk does not do what is asked.
        """
        if error.errno in _NO_FILE:
            raise CorruptRecord(f"it is no file: {error.strerror}") from error
        if error.errno != errno.ENOENT:
            raise error
        os.stat(self._marker)  # raises where the whole disk has gone: that is not "no such session"

    def load(self, key: str) -> Record | None:
        path = self.path(key)
        try:
            return read_journal(path, key)[0]
        except OSError as error:
            self.check_missing(error)
            return None

    @translate_os_errors
    def save(self, key: str, record: Record) -> None:
        path = self.path(key)
        try:
            write_line(path, record.pack(key) + b"\n", record, self.durable, os.O_CREAT | os.O_WRONLY)
            if self.durable:
                sync_folder(path)
        except FileNotFoundError:
            self.make_folder(path)
            self.save(key, record)
        except BaseException:
            self.remove(key)
            raise

    @translate_os_errors
    def remove(self, key: str) -> None:
        path = self.path(key)
        with contextlib.suppress(FileNotFoundError):
            insist(os.unlink, path)
            if self.durable:
                sync_folder(path)

    @translate_os_errors
    def scan(self) -> Iterator[tuple[str, Record]]:
        found = self.load_all(entry.name for entry in self._sessions())
        return iter([(key, record) for key, record in found.items() if record.kind == SESSION])

    def _sessions(self) -> Iterator[os.DirEntry[str]]:
        for place in _FOLDERS:
            for entry in self._entries(place):
                name = entry.name
                if name.startswith(self.namespace) and KEY.fullmatch(name) and not self.is_index(name):
                    yield entry

    def _entries(self, folder: str) -> Iterator[os.DirEntry[str]]:
        try:
            with os.scandir(f"{self.root}/{folder}") as entries:
                yield from entries
        except FileNotFoundError:
            os.stat(self._marker)

    @translate_os_errors
    def purge(self, limit: int) -> int:
        removed = 0
        for _ in _FOLDERS:
            for entry in self._entries(_FOLDERS[self._next_folder]):
                if removed == limit:
                    return removed  # the next call looks at this folder again
                try:
                    removed += self._clean(entry)
                except (OSError, StoreError) as error:  # one bad file; the others can still be cleaned
                    log.warning("the cleaner could not look at %s: %s", entry.path, error)
            self._next_folder = (self._next_folder + 1) % len(_FOLDERS)
        return removed

    def _clean(self, entry: os.DirEntry[str]) -> int:
        """Remove a file that nobody needs any more. Return how many sessions have ended with it."""
        try:
            found = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            return 0
        age, name = time.time() - found.st_ctime, entry.name
        for suffix, seconds in _KEEP.items():
            if name.endswith(suffix) and age > seconds:
                os.unlink(entry.path)
        if name.endswith(LOCK) and name != LOCK and not os.access(entry.path.removesuffix(LOCK), os.F_OK):
            remove_lock(entry.path)  # of a process that was killed
        if found.st_mtime > self.clock() or not KEY.fullmatch(name):
            return 0
        return self._remove_if_due(name, age)

    def _remove_if_due(self, key: str, age: float) -> int:
        hold = FileHold(self, key, self.path(key))
        if not hold.try_lock():
            return 0  # its holder may be renewing it
        try:
            record = hold._read()
            if record and record.deadline <= self.clock():
                hold._remove()
                self.ended(key, record)
                return 1
        except CorruptRecord as error:
            if age > _YOUNG:
                publish("quarantined", key, why=str(error))
                hold._quarantine()
        finally:
            hold._unlock()
        return 0

    @translate_os_errors
    def count(self) -> int:
        now = self.clock()
        return sum(_modified(entry) > now for entry in self._sessions())

    @translate_os_errors
    def ping(self) -> None:
        """Do what a session does: a new one, which has moved already and so counts nowhere, is stored and removed."""
        folder.check(self.root, _FOLDER, folder.USE_FOLDERS)
        key = self.new_key()
        self.save(key, Record.tombstone(key, self.clock()))
        self.acquire(key, 1).delete()
        with contextlib.suppress(PermissionError):  # it is root's
            os.utime(self._marker)  # a cleaner takes what is old

    def describe_location(self, key: str) -> str:
        return f"the last line of {self.path(key)}"


class FileSession(Session):
    """A session in a file under `storage_path`. Survives a restart; shared by all processes of the machine."""

    __slots__ = ()
    store_class = FileStore


def _modified(entry: os.DirEntry[str]) -> float:
    try:
        return entry.stat(follow_symlinks=False).st_mtime
    except FileNotFoundError:
        return 0.0


def insist(operation: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Remove or rename what somebody reads without a lock, or read what is replaced: on Windows that can fail."""
    for _ in range(100 if sys.platform == "win32" else 0):
        with contextlib.suppress(PermissionError):
            return operation(*args, **kwargs)
        time.sleep(0.005)
    return operation(*args, **kwargs)


if sys.platform == "win32":
    read_journal = functools.partial(insist, read_journal)


def remove_lock(path: str) -> None:
    """Remove the lock file of a session that has gone. On Windows, whoever has it open removes it in turn."""
    with contextlib.suppress(OSError):
        os.unlink(path)


def sync_folder(path: str) -> None:
    """Make it durable that the file `path` is there, or is not; Windows does that by itself."""
    if hasattr(os, "O_DIRECTORY"):
        fd = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
