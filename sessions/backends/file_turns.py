"""Whose turn it is among the processes that wait for one session file.

Who waits in another process cannot be seen by the lock of the file. So whoever wants that lock first takes a place, of
which there is one for each session: a byte of one file, locked as POSIX has it, by a process and no thread. The place
is kept while waiting, and whoever finds it taken lets the other one go first.

A POSIX lock on the session's own file was shorter. But some systems (BSD, NFS) take it for the same as its flock, so
that a process would have kept itself out; and it is lost when any thread of the process closes that file.
"""

from __future__ import annotations

import fcntl
import os


class Turns:
    """The places of all sessions of a folder.

    Args:
        path: of the file; made if it is missing. It stays empty: a lock needs no byte to be there.
    """

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)

    def take(self, key: str) -> bool:
        """Take the place of a session, or keep it; False if another process has it."""
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _byte(key))
        except BlockingIOError:
            return False
        return True

    def leave(self, key: str) -> None:
        """Leave the place, if this process has it."""
        fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, _byte(key))

    def close(self) -> None:
        """Leave all places, and close the file."""
        os.close(self._fd)


def _byte(key: str) -> int:
    """Which byte it is: one of 2**60, so two sessions have the same one as good as never, and then only wait."""
    return int(key[-64:-49], 16)
