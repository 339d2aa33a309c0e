"""Sessions in files: they survive a restart, and all processes of one machine share them.

A session is one file, storage_path/AB/KEY, where AB are the first two digits of the key's hash. `journal.py` says what
is in it, and how it is locked.
"""

from __future__ import annotations

import functools
import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

from ..errors import ConfigError, Unavailable, Unreadable
from ..facts import Facts
from ..locks import poll
from ..record import Record, reference
from ..store import Hold, Store, log
from .journal import NEW, UNREADABLE, Journal

P = ParamSpec("P")
T = TypeVar("T")

_FOLDERS = tuple(f"{n:02x}" for n in range(256))
_KEY = re.compile(r"[\w-]*[0-9a-f]{64}", re.ASCII)
_KEEP = {UNREADABLE: 7 * 86400, NEW: 3600}  # seconds until the cleaner removes what was set aside, or left by a kill
_YOUNG = 60  # seconds in which a file that makes no sense may be one that is just being made
_REPLACE_TIMEOUT = 10.0  # seconds


def _answers(method: Callable[P, T]) -> Callable[P, T]:
    """A disk that is full, gone or forbidden is an unavailable store. A session that is not there is no such error."""

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
            if stat.S_IMODE(os.stat(self.root).st_mode) & 0o077:
                log.warning("storage_path: other users can look into %s; chmod 700 it", self.root)
        except OSError as error:
            raise ConfigError(f"storage_path: cannot keep sessions in {self.root}: {error.strerror}") from error

    def path(self, key: str) -> str:
        """The file of a session."""
        return f"{self.root}/{key[-64:-62]}/{key}"

    @_answers
    def _hold(self, key: str, timeout: float) -> Hold:
        end = time.monotonic() + timeout
        while (journal := Journal.open(self.path(key), self.durable)) is not None:
            try:
                poll(journal.try_lock, end - time.monotonic(), f"session {reference(key)}")
                if (hold := self._held(key, journal)) is not None:
                    return hold
            except BaseException:
                journal.close()
                raise
            journal.close()  # it was deleted, rewritten or set aside: look again
        return Hold(self, key, None)

    def _held(self, key: str, journal: Journal) -> FileHold | None:
        try:
            return FileHold(self, key, journal) if journal.has_name else None
        except Unreadable as error:
            journal.set_aside(error)
            return None

    @_answers
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

    @_answers
    def create(self, key: str, record: Record) -> None:
        Journal.create(self.path(key), self.durable, record)

    def replace(self, key: str, record: Record) -> bool:
        return self.acquire(key, _REPLACE_TIMEOUT).commit(record)

    @_answers
    def delete(self, key: str) -> None:
        journal = Journal.open(self.path(key), self.durable)
        if journal is not None:
            try:
                journal.delete()
            finally:
                journal.close()

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
        age = time.time() - found.st_ctime
        for suffix, seconds in _KEEP.items():
            if entry.name.endswith(suffix) and age > seconds:
                os.unlink(entry.path)
        if found.st_mtime > self.clock() or not _KEY.fullmatch(entry.name):
            return 0
        journal = Journal.open(entry.path, self.durable)
        if journal is None:
            return 0
        try:
            if journal.try_lock() and journal.has_name and journal.read().deadline <= self.clock():
                journal.unlink()
                return 1
        except Unreadable as error:
            if age > _YOUNG:
                journal.set_aside(error)
        finally:
            journal.close()
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
    """Holds a session by the flock of its file, which the kernel drops with the process.

    Raises:
        Unreadable: the file is no session record.
    """

    __slots__ = ("_journal",)

    def __init__(self, store: FileStore, key: str, journal: Journal) -> None:
        super().__init__(store, key, journal.read())
        self._journal = journal

    @_answers
    def _commit(self, record: Record) -> bool:
        return self.record is not None and self._journal.save(self.record, record)

    @_answers
    def _delete(self) -> None:
        self._journal.unlink()

    @_answers
    def _set_aside(self) -> None:
        os.replace(self._journal.path, self._journal.path + UNREADABLE)

    def _unlock(self) -> None:
        self._journal.close()


def _mtime(entry: os.DirEntry[str]) -> float:
    try:
        return entry.stat(follow_symlinks=False).st_mtime
    except FileNotFoundError:
        return 0.0
