"""Sessions in files: they survive a restart, and all processes of one machine share them.

A session is one file, storage_path/AB/KEY, where AB are the first two digits of the key's hash. `journal.py` says what
is in it, and how it is locked; `file_users.py` how the sessions of a user are found without looking at all.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator

from ..errors import ConfigError, Unreadable
from ..facts import Facts
from ..locks import poll
from ..record import Record, reference
from ..store import Hold, Store, log
from . import file_users
from .file_hold import FileHold, answers
from .file_turns import Turns
from .journal import KEY, NEW, UNREADABLE, Journal

_FOLDERS = tuple(f"{n:02x}" for n in range(256))
_KEEP = {UNREADABLE: 7 * 86400, NEW: 3600}  # seconds until the cleaner removes what was set aside, or left by a kill
_YOUNG = 60  # seconds in which a file that makes no sense may be one that is just being made
_REPLACE_TIMEOUT = 10.0  # seconds
_NEXT = 1.0  # seconds after which somebody who is next, and does not take the lock though it is free, is passed over
_TIDIED = 500  # leftovers in the index that whoever lists a user's sessions removes at most


class FileStore(Store):
    """Keeps each session in a file of its own.

    Args:
        storage_path: the folder; made with mode 0700 if it is missing. Applications and processes may share one.
        durable: sync each save to the disk before it counts as done. Without it a save survives the process at once,
            and a loss of power after some seconds.

    Raises:
        ConfigError: the folder cannot be made or written.
    """

    facts = Facts(
        survives_restart=True,
        shared=True,
        locks_processes=True,
        keeps="One file for each session.",
        sharing="All processes of one machine that name the same folder.",
        locking="A fair queue among the threads of a process; between processes the lock of the file, which the kernel "
        "drops with the process that held it.",
        outage="A folder that is full, gone or forbidden: 503 until it is back, and no session is lost.",
        needs="A folder that the site may write.",
        cannot="FileSession cannot be shared by several machines: do not trust file locks over a network.",
    )

    def __init__(self, *, storage_path: str, durable: bool = False) -> None:
        super().__init__()
        if not isinstance(storage_path, (str, os.PathLike)):
            raise ConfigError(f"storage_path is {storage_path!r}: it must be the path of a folder")
        if not isinstance(durable, bool):
            raise ConfigError(f"durable is {durable!r}: it must be True or False")
        self.root = os.path.abspath(storage_path)
        self.durable = durable
        self._next_folder = 0
        try:
            os.makedirs(self.root, mode=0o700, exist_ok=True)
            for folder in _FOLDERS:  # now, so that a folder missing later means "unmounted", not "no such session"
                os.makedirs(f"{self.root}/{folder}", mode=0o700, exist_ok=True)
            os.close(os.open(f"{self.root}/.writable", os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
            self._turns = Turns(f"{self.root}/.turns")
            if stat.S_IMODE(os.stat(self.root).st_mode) & 0o077:
                log.warning("storage_path: other users can look into %s; chmod 700 it", self.root)
        except OSError as error:
            raise ConfigError(f"storage_path: cannot keep sessions in {self.root}: {error.strerror}") from error

    def path(self, key: str) -> str:
        """The file of a session."""
        return f"{self.root}/{key[-64:-62]}/{key}"

    def place(self, key: str) -> str:
        return f"the last line of {self.path(key)}"

    def _folder(self, user_key: str) -> str:
        return self.path(user_key) + file_users.SUFFIX

    def _entry(self, key: str, user: str) -> str:
        whose = key[:-64] + self.user_key(user)[-64:]  # the cleaner also meets sessions of other applications
        return f"{self._folder(whose)}/{key}"

    @answers
    def _hold(self, key: str, timeout: float) -> Hold:
        end = time.monotonic() + timeout
        passed: Journal | None = self.locks.passed(key)
        while (journal := passed or Journal.open(self.path(key), self.durable)) is not None:
            try:
                if not passed:
                    self._lock(key, journal, end - time.monotonic())
                if (hold := self._held(key, journal)) is not None:
                    if not passed:
                        self.locks.begin_round(key)
                    return hold
            except BaseException:
                journal.close()
                raise
            journal.close()  # it was deleted, rewritten or set aside: look again
            passed = None
        return Hold(self, key, None)

    def _lock(self, key: str, journal: Journal, timeout: float) -> None:
        """Lock the file after the processes that wait for it already.

        A process that was stopped while it waited is the next still, and does not come: nobody gives way for long.
        """
        patience = time.monotonic() + _NEXT

        def attempt() -> bool:
            return (self._turns.take(key) or time.monotonic() > patience) and journal.try_lock()

        try:
            poll(attempt, timeout, f"session {reference(key)}")
        finally:
            self._turns.leave(key)

    def _held(self, key: str, journal: Journal) -> FileHold | None:
        try:
            hold = FileHold(self, key, journal)
            return hold if journal.had_name else None
        except Unreadable as error:
            journal.set_aside(error)
            return None

    @answers
    def load(self, key: str) -> Record | None:
        journal = Journal.open(self.path(key), self.durable)
        if journal is None:
            return None
        try:
            return journal.read()
        except Unreadable as error:
            journal.set_aside(error)
            return None
        finally:
            journal.close()

    @answers
    def create(self, key: str, record: Record) -> None:
        if not record.user:
            Journal.create(self.path(key), self.durable, record)
            return
        with file_users.entered(self._entry(key, record.user), self.durable):
            Journal.create(self.path(key), self.durable, record)

    def replace(self, key: str, record: Record) -> bool:
        return self.acquire(key, _REPLACE_TIMEOUT).commit(record)

    @answers
    def delete(self, key: str) -> None:
        journal = Journal.open(self.path(key), self.durable)
        if journal is not None:
            try:
                journal.delete()
            finally:
                journal.close()

    def forget(self, key: str, user: str) -> None:
        """Take a session that has ended or changed hands out of the index by user. What has been done cannot fail any
        more because of that; an entry too many does no harm."""
        if user:
            try:
                file_users.forget(self._entry(key, user))
            except OSError as error:
                log.warning("session %s stays in the index until the cleaner comes: %s", reference(key), error)

    @answers
    def live(self, user: str | None) -> Iterator[tuple[str, Record]]:
        found = []
        for key in (entry.name for entry in self._sessions()) if user is None else self._keys_of(user):
            record = self._peek(key)
            if record and record.data and user in (None, record.user):
                found.append((key, record))
        return iter(found)

    def _sessions(self) -> Iterator[os.DirEntry[str]]:
        for folder in _FOLDERS:
            for entry in self._entries(folder):
                if entry.name.startswith(self.namespace) and KEY.fullmatch(entry.name):
                    yield entry

    def _keys_of(self, user: str) -> list[str]:
        folder = self._folder(self.user_key(user))
        file_users.tidy(folder, self.path, _TIDIED)
        return file_users.keys(folder)

    def _peek(self, key: str) -> Record | None:
        """The record of a session that may just be being made, so one that makes no sense is not set aside."""
        journal = Journal.open(self.path(key), self.durable)
        if journal is None:
            return None
        try:
            return journal.read()
        except Unreadable:
            return None
        finally:
            journal.close()

    @answers
    def purge(self, limit: int) -> int:
        removed = tidied = 0
        for _ in _FOLDERS:
            for entry in self._entries(_FOLDERS[self._next_folder]):
                if removed == limit:
                    return removed  # the next call looks at this folder again
                try:
                    if entry.name.endswith(file_users.SUFFIX):
                        tidied += file_users.tidy(entry.path, self.path, limit - tidied)
                    else:
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
        age = time.time() - found.st_ctime
        for suffix, seconds in _KEEP.items():
            if entry.name.endswith(suffix) and age > seconds:
                os.unlink(entry.path)
        if found.st_mtime > self.clock() or not KEY.fullmatch(entry.name):
            return 0
        journal = Journal.open(entry.path, self.durable)
        if journal is None:
            return 0
        try:
            if journal.try_lock() and journal.has_name and (record := journal.read()).deadline <= self.clock():
                journal.unlink()
                self.forget(entry.name, record.user)
                return 1
        except Unreadable as error:
            if age > _YOUNG:
                journal.set_aside(error)
        finally:
            journal.close()
        return 0

    @answers
    def count(self) -> int:
        now = self.clock()
        return sum(_mtime(entry) > now for entry in self._sessions())

    @answers
    def ping(self) -> None:
        os.utime(f"{self.root}/.writable")

    def close(self) -> None:
        self._turns.close()


def _mtime(entry: os.DirEntry[str]) -> float:
    try:
        return entry.stat(follow_symlinks=False).st_mtime
    except FileNotFoundError:
        return 0.0
