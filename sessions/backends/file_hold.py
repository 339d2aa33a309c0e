"""How one request holds a session file, and what an error of the disk means to it."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from ..errors import Unavailable
from ..record import Record
from ..store import Hold
from .journal import UNREADABLE, Journal

if TYPE_CHECKING:
    from .file import FileStore

P = ParamSpec("P")
T = TypeVar("T")


def answers(method: Callable[P, T]) -> Callable[P, T]:
    """A disk that is full, gone or forbidden is an unavailable store. A session that is not there is no such error."""

    @functools.wraps(method)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return method(*args, **kwargs)
        except OSError as error:
            raise Unavailable(f"session files: {error}") from error

    return wrapper


class FileHold(Hold):
    """Holds a session by the flock of its file, which the kernel drops with the process.

    Raises:
        Unreadable: the file is no session record.
    """

    __slots__ = ("_before", "_ended", "_files", "_journal")

    def __init__(self, store: FileStore, key: str, journal: Journal) -> None:
        self._before = journal.read()
        super().__init__(store, key, self._before)
        self._files = store
        self._journal = journal
        self._ended = False  # the file is no session's any more, and nobody else's to go on with

    @answers
    def _commit(self, record: Record) -> bool:
        before = self._before
        saved = self._journal.save(before, record)
        if saved and record.user != before.user:
            self._files.forget(self._key, before.user)
        return saved

    @answers
    def _delete(self) -> None:
        self._ended = True
        self._journal.unlink()
        self._files.forget(self._key, self._before.user)

    @answers
    def _set_aside(self) -> None:
        self._ended = True
        os.replace(self._journal.path, self._journal.path + UNREADABLE)

    def _unlock(self) -> None:
        if self._ended or not self._files.locks.pass_on(self._key, self._journal):
            self._journal.close()
