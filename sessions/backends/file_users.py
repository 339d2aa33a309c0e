"""Which sessions a user has, in files.

The index of a user is one folder, storage_path/AB/USER.user, where USER is the hash of the name and AB are its first
two digits. It holds an empty file for each session, an entry, named by the session's key. So the sessions of a user are
found by looking into one folder, however many others there are, and a session without a user costs nothing.

The entry comes before its session, and goes after it: whatever is killed when, no session is missing in the index, and
an entry without a session does no harm. Whoever ends a session whose record it holds removes the entry. What is left
behind (a process was killed, or a session deleted unread) is removed by the next who lists the user's sessions, and by
the cleaner, which removes empty folders too.

An entry whose session is not there yet must not be taken for one whose session has gone. So it is locked by whoever
makes the session, and removed only under the same lock. To leave young entries alone was the simpler way; but a process
that was stopped for longer would then make a session that nobody can list or end.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..locks import poll
from ..record import reference
from .journal import KEY, LockedFile, sync_folder

SUFFIX = ".user"  # what the name of a user's folder ends with
_FLAGS = os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW
_TIMEOUT = 10.0  # seconds that nobody needs to remove an entry
_TRIES = 10  # the cleaner may remove an empty folder before its first entry is there, but not each time


@contextmanager
def entered(path: str, durable: bool) -> Iterator[None]:
    """Make the entry `path` for a session that is made in the block; it goes again if that fails.

    Raises:
        OSError: the disk does not do what is asked.
        LockTimeout: a process that was removing the entry of a session that had not begun has been stopped meanwhile.
    """
    entry = _make(path)
    try:
        if durable:
            sync_folder(path)
            sync_folder(os.path.dirname(path))
        yield
    except BaseException:
        forget(path)
        raise
    finally:
        entry.close()


def _make(path: str) -> LockedFile:
    """A new entry, locked."""
    while True:
        entry = LockedFile(path, _create(path))
        try:
            poll(entry.try_lock, _TIMEOUT, f"the entry of session {reference(os.path.basename(path))}")
            if entry.has_name:
                return entry
        except BaseException:
            entry.close()
            raise
        entry.close()  # it was tidied up before we had the lock: once more


def _create(path: str) -> int:
    for _ in range(_TRIES):
        with contextlib.suppress(FileNotFoundError):
            return os.open(path, _FLAGS | os.O_CREAT, 0o600)
        with contextlib.suppress(FileExistsError):  # somebody else has made the folder
            os.mkdir(os.path.dirname(path), 0o700)
    return os.open(path, _FLAGS | os.O_CREAT, 0o600)


def forget(path: str) -> None:
    """Remove the entry `path` of a session that has ended, or is not this user's any more."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def keys(folder: str) -> list[str]:
    """The sessions in a user's folder. One that is not there is empty, unless the whole disk has gone."""
    try:
        return [name for name in os.listdir(folder) if KEY.fullmatch(name)]
    except FileNotFoundError:
        os.stat(os.path.dirname(folder))
        return []


def tidy(folder: str, session: Callable[[str], str], limit: int) -> int:
    """Remove what ended sessions left in a user's folder, `limit` entries at most, and the folder if it is empty.

    Args:
        session: gives the path of a session of this key.

    Returns:
        How many entries were removed.
    """
    found = keys(folder)
    removed = 0
    for key in found:
        if removed < limit and _is_gone(session(key)):
            removed += _remove_dead(f"{folder}/{key}", session(key))
    if removed == len(found):
        _remove_empty(folder)
    return removed


def _remove_empty(folder: str) -> None:
    try:
        os.rmdir(folder)
    except FileNotFoundError:
        pass
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # the user has just signed in
            raise


def _remove_dead(path: str, session: str) -> bool:
    """Remove an entry, unless its session is just being made."""
    try:
        entry = LockedFile(path, os.open(path, _FLAGS))
    except FileNotFoundError:
        return True
    try:
        dead = entry.try_lock() and entry.has_name and _is_gone(session)
        if dead:
            forget(path)
        return dead
    finally:
        entry.close()


def _is_gone(path: str) -> bool:
    try:
        os.lstat(path)
    except FileNotFoundError:
        os.stat(os.path.dirname(path))  # raises where the whole folder has gone: that is not "no such session"
        return True
    return False
