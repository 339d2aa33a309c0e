"""Sessions in files: they survive a restart, and all processes of one machine share them.

A session is one file, storage_path/AB/KEY, where AB are the first two digits of the key's hash. The file is a journal:
each line is a packed record with its checksum, and the last whole line is the state. So

  * a save is one append (7 us; a temporary file and os.replace cost 240 us),
  * a process killed at any byte leaves the line before, and the torn rest is cut off by the next save,
  * `tail -n 1 FILE` shows the session,
  * the file's own flock is the lock. A lock file beside it was the way before: two more system calls a request, and
    somebody has to remove it without breaking the lock of a third. Here the lock goes with the session, and the kernel
    drops it with the process that held it.

A journal that has grown is rewritten by a rename; that and a deletion leave waiters with a lock on a file that has no name
any more (st_nlink is 0), so they look again. The file's time of modification carries the idle deadline when that is
later than the one in the line: a renewal is one utime, and the cleaner finds what has expired by looking at folders.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import ParamSpec, TypeVar

from ..errors import ConfigError, Unavailable, Unreadable
from ..locks import poll
from ..store import Hold, Record, Store, log, reference

P = ParamSpec("P")
T = TypeVar("T")

_FOLDERS = tuple(f"{n:02x}" for n in range(256))
_KEY = re.compile(r"[\w-]*[0-9a-f]{64}", re.ASCII)
_GROWN = 8192  # bytes of a journal that are still cheaper to read than to rewrite
_UNREADABLE, _KEEP_UNREADABLE = ".unreadable", 7 * 86400  # seconds a record set aside is kept for whoever looks into it
_NEW, _KEEP_NEW = ".new", 3600  # what a process killed while rewriting leaves
_YOUNG = 60  # seconds in which a file that makes no sense may be one that is just being made
_REPLACE_TIMEOUT = 10.0  # seconds


def _answers(method: Callable[P, T]) -> Callable[P, T]:
    """A disk that is full, gone or forbidden is an unavailable store. A session that is not there gets no such error."""

    @functools.wraps(method)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return method(*args, **kwargs)
        except OSError as error:
            raise Unavailable(f"session files: {error}") from error

    return wrapper


class FileStore(Store):
    """Keeps each session in a file of its own.

    Args:
        storage_path: the folder; made with mode 0700 if it is missing. Applications and processes may share one.
        durable: sync each save to the disk before it counts as done. Without it a save survives the process at once,
            and a loss of power after some seconds.

    Raises:
        ConfigError: the folder cannot be made or written.
    """

    shared = True
    survives_restart = True

    def __init__(self, *, storage_path: str, durable: bool = False) -> None:
        super().__init__()
        self.root = os.path.abspath(storage_path)
        self.durable = durable
        self._next_folder = 0
        try:
            os.makedirs(self.root, mode=0o700, exist_ok=True)
            for folder in _FOLDERS:  # now, so that a folder missing later means "unmounted", not "no such session"
                os.makedirs(f"{self.root}/{folder}", mode=0o700, exist_ok=True)
            os.close(os.open(f"{self.root}/.writable", os.O_CREAT | os.O_WRONLY, 0o600))
            if stat.S_IMODE(os.stat(self.root).st_mode) & 0o077:
                log.warning("storage_path: other users can look into %s; chmod 700 it", self.root)
        except OSError as error:
            raise ConfigError(f"storage_path: cannot keep sessions in {self.root}: {error.strerror}") from error

    def path(self, key: str) -> str:
        """The file of a session."""
        return f"{self.root}/{key[-64:-62]}/{key}"

    def _open(self, key: str, flags: int) -> int | None:
        path = self.path(key)
        try:
            return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            os.stat(os.path.dirname(path))  # raises where the whole folder has gone
            return None
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.EISDIR):
                raise
            set_aside(path, error)
            return None

    @_answers
    def _hold(self, key: str, timeout: float) -> Hold:
        end = time.monotonic() + timeout
        while True:
            fd = self._open(key, os.O_RDWR | os.O_APPEND)
            if fd is None:
                return Hold(self, key, None)
            hold = FileHold(self, key, fd)
            try:
                poll(hold.try_lock, end - time.monotonic(), f"session {reference(key)}")
                if hold.read():
                    return hold
            except Unreadable as error:
                set_aside(self.path(key), error)
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)

    @_answers
    def load(self, key: str) -> Record | None:
        fd = self._open(key, os.O_RDONLY)
        if fd is None:
            return None
        try:
            return _read(fd, key)[0]
        except Unreadable as error:
            set_aside(self.path(key), error)
            return None
        finally:
            os.close(fd)

    @_answers
    def create(self, key: str, record: Record) -> None:
        path = self.path(key)
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        try:
            _write(fd, record.pack(key) + b"\n")
            self.settle(fd, record)
            self.sync_folder(path)
        except BaseException:
            os.unlink(path)
            raise
        finally:
            os.close(fd)

    def replace(self, key: str, record: Record) -> bool:
        return self.acquire(key, _REPLACE_TIMEOUT).commit(record)

    @_answers
    def delete(self, key: str) -> None:
        fd = self._open(key, os.O_WRONLY | os.O_APPEND)
        if fd is None:
            return
        try:  # the mark tells a request that holds the session, and may be rewriting the file, not to bring it back
            os.write(fd, b"deleted\n")
        finally:
            os.close(fd)
            self.unlink(key)

    def unlink(self, key: str) -> None:
        """Remove the session's file."""
        path = self.path(key)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
            self.sync_folder(path)

    def settle(self, fd: int, record: Record) -> None:
        """Note the deadline beside what was written, and sync both if `durable`."""
        if record.data:  # a session that has moved is not live: its deadline stands in its line only
            moment = min(int(record.deadline * 1e9), 1 << 62)
            os.utime(fd, ns=(moment, moment))
        if self.durable:
            os.fsync(fd)

    def sync_folder(self, path: str) -> None:
        """Make it durable, if asked for, that the file `path` is there, or is not."""
        if self.durable:
            fd = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)

    @_answers
    def purge(self, limit: int) -> int:
        removed = 0
        for _ in _FOLDERS:
            for entry in self._entries(_FOLDERS[self._next_folder]):
                if removed == limit:
                    return removed  # the next call looks at this folder again
                try:
                    removed += self._remove_if_due(entry)
                except OSError as error:  # one bad file; the others can still be cleaned
                    log.warning("the cleaner could not look at %s: %s", entry.path, error)
            self._next_folder = (self._next_folder + 1) % len(_FOLDERS)
        return removed

    def _entries(self, folder: str) -> Iterator[os.DirEntry[str]]:
        with os.scandir(f"{self.root}/{folder}") as entries:
            yield from entries

    def _remove_if_due(self, entry: os.DirEntry[str]) -> int:
        try:
            found = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            return 0
        for suffix, keep in ((_UNREADABLE, _KEEP_UNREADABLE), (_NEW, _KEEP_NEW)):
            if entry.name.endswith(suffix) and found.st_ctime + keep < time.time():
                os.unlink(entry.path)
        if found.st_mtime > self.clock() or not _KEY.fullmatch(entry.name):
            return 0
        fd = self._open(entry.name, os.O_RDONLY)
        if fd is None:
            return 0
        hold = FileHold(self, entry.name, fd)
        try:
            if hold.try_lock() and hold.read() and hold.record and hold.record.deadline <= self.clock():
                self.unlink(entry.name)
                return 1
        except Unreadable as error:
            if found.st_ctime + _YOUNG < time.time():
                set_aside(entry.path, error)
        finally:
            os.close(fd)
        return 0

    @_answers
    def count(self) -> int:
        now = self.clock()
        return sum(
            1
            for folder in _FOLDERS
            for entry in self._entries(folder)
            if entry.name.startswith(self.namespace) and _KEY.fullmatch(entry.name) and _mtime(entry) > now
        )

    @_answers
    def ping(self) -> None:
        os.utime(f"{self.root}/.writable")


class FileHold(Hold):
    """Holds a session by the flock of its file. The kernel lets go when the process dies."""

    __slots__ = ("_end", "_fd", "_files", "_size")

    def __init__(self, store: FileStore, key: str, fd: int) -> None:
        super().__init__(store, key, None)
        self._files = store
        self._fd = fd
        self._end = self._size = 0

    def try_lock(self) -> bool:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def read(self) -> bool:
        """Load the record. False if the file was deleted or rewritten while we waited for its lock.

        Raises:
            Unreadable: the last line of the file is no record.
        """
        if os.fstat(self._fd).st_nlink == 0:
            return False
        self.record, self._end, self._size = _read(self._fd, self._key)
        return True

    @_answers
    def _commit(self, record: Record) -> bool:
        if self._deleted():
            return False
        before = self.record
        if before and record.data == before.data and record.deadline > before.deadline:
            self._files.settle(self._fd, record)
            return True
        line = record.pack(self._key) + b"\n"
        if self._end + len(line) > max(_GROWN, 4 * len(line)):
            return self._rewrite(line, record)
        if self._size > self._end:
            os.ftruncate(self._fd, self._end)  # the torn line of a process that was killed
        try:
            _write(self._fd, line)
        except OSError:
            os.ftruncate(self._fd, self._end)
            raise
        self._files.settle(self._fd, record)
        return True

    def _deleted(self) -> bool:
        """Only the holder appends records, so a file that has grown meanwhile bears the mark of a deletion."""
        found = os.fstat(self._fd)
        return found.st_nlink == 0 or found.st_size != self._size

    def _rewrite(self, line: bytes, record: Record) -> bool:
        path = self._files.path(self._key)
        fd = os.open(path + _NEW, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)  # free: nobody knows the file. Those who find it wait until we are done
            _write(fd, line)
            self._files.settle(fd, record)
            os.replace(path + _NEW, path)
            self._files.sync_folder(path)
            if os.fstat(self._fd).st_size != self._size:  # deleted between the look above and the rename
                self._files.unlink(self._key)
                return False
            return True
        finally:
            os.close(fd)

    @_answers
    def _delete(self) -> None:
        if self.record:
            self._files.unlink(self._key)

    @_answers
    def _set_aside(self) -> None:
        os.replace(self._files.path(self._key), self._files.path(self._key) + _UNREADABLE)

    def _unlock(self) -> None:
        os.close(self._fd)


def _read(fd: int, key: str) -> tuple[Record, int, int]:
    """The state of a journal, the byte where its last whole line ends, and its size.

    Raises:
        Unreadable: it has no whole line, or the last one is no record.
    """
    found = os.fstat(fd)
    journal = os.pread(fd, found.st_size, 0)
    end = journal.rfind(b"\n") + 1
    if not end:
        raise Unreadable("it has no whole line")
    record = Record.unpack(key, journal[journal.rfind(b"\n", 0, end - 1) + 1 : end - 1])
    if found.st_mtime > record.deadline:
        record = replace(record, deadline=found.st_mtime)
    return record, end, len(journal)


def _write(fd: int, line: bytes) -> None:
    """All of it, or an OSError; a disk that fills up takes a part first."""
    while line:
        line = line[os.write(fd, line) :]


def _mtime(entry: os.DirEntry[str]) -> float:
    try:
        return entry.stat(follow_symlinks=False).st_mtime
    except FileNotFoundError:
        return 0.0


def set_aside(path: str, reason: Exception) -> None:
    """Rename a file that is no session record, and say so in the log; whoever comes second says nothing."""
    with contextlib.suppress(FileNotFoundError):
        os.replace(path, path + _UNREADABLE)
        log.warning("unreadable record of session %s set aside as %s%s: %s", reference(path), path, _UNREADABLE, reason)
