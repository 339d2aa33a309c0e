"""The file of one session: a journal whose last whole line is the state.

Each line is a packed record with its checksum. So

  * a save is one append (7 us; a temporary file and os.replace cost 240 us),
  * a process killed at any byte leaves the line before, and the next save cuts the torn rest off,
  * `tail -n 1 FILE` shows the session,
  * the file's own flock is the lock. A lock file beside it was the way before: two more system calls a request, and
    somebody has to remove it without breaking the lock of a third. Here the lock goes with the session, and the kernel
    drops it with the process that held it.

A journal that has grown is rewritten by a rename; that, and a deletion, leave waiters with a lock on a file that has no
name any more (st_nlink is 0), so they look again. The file's time of modification carries the deadline when that is
later than the one in the line: a renewal is one utime, and the cleaner finds what has expired by looking at folders.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat

from ..errors import Unreadable
from ..record import Record, reference
from ..store import log

GROWN = 32768  # bytes of a journal that are cheaper to keep than to rewrite: that costs as much as ten saves
_TAIL = 4096  # bytes at its end that are read first; they hold the last line of nearly every session
UNREADABLE = ".unreadable"  # what the name of a file that was set aside ends with
NEW = ".new"  # and of one that is being rewritten
KEY = re.compile(r"[\w-]*[0-9a-f]{64}", re.ASCII)  # what the name of one that is neither looks like
_DELETED = b"deleted\n"


class LockedFile:
    """An open file whose own flock is a lock that ends with the process.

    Attributes:
        path: its name; the last part of it is the session's key.
    """

    __slots__ = ("_fd", "path")

    def __init__(self, path: str, fd: int) -> None:
        self.path = path
        self._fd = fd

    def close(self) -> None:
        """Close the file and end the lock on it, also for a process forked off meanwhile, which has the file too."""
        fcntl.flock(self._fd, fcntl.LOCK_UN)
        os.close(self._fd)

    def try_lock(self) -> bool:
        """Take the lock if nobody has it, in this process or another."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    @property
    def key(self) -> str:
        """The session's key."""
        return self.path.rpartition("/")[2]

    @property
    def has_name(self) -> bool:
        """Whether this is still the file of that name, and not one that was deleted or rewritten meanwhile."""
        return os.fstat(self._fd).st_nlink > 0


class Journal(LockedFile):
    """A session's file, open. Its methods raise OSError where the disk does not do what is asked.

    Attributes:
        had_name: `has_name`, as it was when the file was read.
    """

    __slots__ = ("_durable", "_end", "_size", "had_name")

    def __init__(self, path: str, fd: int, durable: bool) -> None:
        super().__init__(path, fd)
        self._durable = durable
        self.had_name = True
        self._end = self._size = 0  # of the last whole line, and of the file, when it was read

    @classmethod
    def open(cls, path: str, durable: bool) -> Journal | None:
        """The journal at `path`, or None where there is none. Something else in its place is set aside."""
        try:
            return cls(path, os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW), durable)
        except FileNotFoundError:
            os.stat(os.path.dirname(path))  # raises where the whole folder has gone: that is not "no such session"
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
                raise
            set_aside(path, error)
        return None

    @classmethod
    def create(cls, path: str, durable: bool, record: Record) -> None:
        """Make a journal of one record. Whoever knows its key is told after this, so it needs no lock."""
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
        journal = cls(path, os.open(path, flags, 0o600), durable)
        try:
            journal._write(journal._line(record))
            journal._settle(record)
            if durable:
                sync_folder(path)
        except BaseException:
            os.unlink(path)
            raise
        finally:
            journal.close()

    def read(self) -> Record:
        """The state.

        Raises:
            Unreadable: there is no whole line, or the last one is no record.
        """
        found = os.fstat(self._fd)
        if not stat.S_ISREG(found.st_mode):
            raise Unreadable("it is no file")
        self.had_name = found.st_nlink > 0
        line = self._last_line(found.st_size, max(0, found.st_size - _TAIL))
        record = Record.unpack(self.key, line)
        return record._replace(deadline=found.st_mtime) if found.st_mtime > record.deadline else record

    def _last_line(self, size: int, start: int) -> bytes:
        """The last whole line of the file, looked for from `start` on, and if it begins before that, from 0 on."""
        content = os.pread(self._fd, size - start, start)
        end = content.rfind(b"\n") + 1
        begin = content.rfind(b"\n", 0, end - 1) + 1 if end else 0
        if start and not begin:
            return self._last_line(size, 0)
        if not end:
            raise Unreadable("it has no whole line")
        self._size, self._end = start + len(content), start + end
        return content[begin : end - 1]

    def save(self, before: Record, record: Record) -> bool:
        """Make `record` the state after `before`, which was read under the lock. False if the session was deleted."""
        found = os.fstat(self._fd)
        if found.st_nlink == 0 or found.st_size != self._size:
            return False  # see delete
        if record.deadline > before.deadline and record == before._replace(deadline=record.deadline):
            self._settle(record)
            return True
        line = self._line(record)
        if self._end + len(line) > max(GROWN, 4 * len(line)):
            return self._rewrite(line, record)
        if self._size > self._end:
            os.ftruncate(self._fd, self._end)  # the torn line of a process that was killed
        try:
            self._write(line)
            self._settle(record)
        except OSError:
            os.ftruncate(self._fd, self._end)
            self._note_deadline(before)  # the time of modification is now that of the failure
            raise
        return True

    def delete(self) -> None:
        """End the session, whoever holds it. The mark tells a holder, who may just be rewriting the file, not to bring
        it back: only holders append records, so a file that has grown under one bears this mark."""
        try:
            os.write(self._fd, _DELETED)
        finally:
            self.unlink()

    def set_aside(self, reason: Exception) -> None:
        """Take a file that cannot be read out of the way; one with the mark of a deletion is removed for good."""
        if self.has_name:
            size = os.fstat(self._fd).st_size
            if size and os.pread(self._fd, len(_DELETED), max(0, size - len(_DELETED))) == _DELETED:
                self.unlink()
            else:
                set_aside(self.path, reason)

    def unlink(self) -> None:
        """Remove the file."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
            if self._durable:
                sync_folder(self.path)

    def _rewrite(self, line: bytes, record: Record) -> bool:
        flags = os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC
        new = Journal(self.path + NEW, os.open(self.path + NEW, flags, 0o600), self._durable)
        try:
            new.try_lock()  # nobody else knows the file yet; those who find it under its name wait until we are done
            new._write(line)
            new._settle(record)
            os.replace(new.path, self.path)
            if self._durable:
                sync_folder(self.path)
            if os.fstat(self._fd).st_size != self._size:  # deleted between our look and the rename
                self.unlink()
                return False
            return True
        finally:
            new.close()

    def _line(self, record: Record) -> bytes:
        return record.pack(self.key) + b"\n"

    def _write(self, line: bytes) -> None:
        while line:  # a disk that fills up takes a part first
            line = line[os.write(self._fd, line) :]

    def _settle(self, record: Record) -> None:
        """Note the deadline beside the line, for the cleaner and for renewals; sync both if `durable`."""
        self._note_deadline(record)
        if self._durable:
            os.fsync(self._fd)

    def _note_deadline(self, record: Record) -> None:
        if record.data:  # a session that has moved is not live: its deadline stands in its line only
            moment = min(int(record.deadline * 1e9), 1 << 62)
            os.utime(self._fd, ns=(moment, moment))


def sync_folder(path: str) -> None:
    """Make it durable that the file `path` is there, or is not."""
    fd = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def set_aside(path: str, reason: Exception) -> None:
    """Rename a file that is no session record, and say so in the log; whoever comes second says nothing."""
    with contextlib.suppress(FileNotFoundError):
        os.replace(path, path + UNREADABLE)
        log.warning("unreadable record of session %s set aside as %s%s: %s", reference(path), path, UNREADABLE, reason)
