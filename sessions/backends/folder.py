"""The folder that a store keeps its files in, whichever account made it.

Who starts as root and serves as another account opens the stores as that account: its effective id is theirs, while the
real one is still root's. What the account cannot make, or what root made there before, is then given to it.
"""

from __future__ import annotations

import errno
import os
import re
from contextlib import suppress

_PRIVATE = 0o700
_OTHERS_WRITE = 0o022
USE_FILES, USE_FOLDERS = os.R_OK | os.W_OK, os.R_OK | os.W_OK | os.X_OK


def make(path: str, parents: bool = False, mode: int = _PRIVATE) -> None:
    """Make a folder, unless it is there, that only its owner can enter, whatever the umask; `parents`: and those above
    it, as the umask has them."""
    try:
        os.mkdir(path, mode)
    except FileNotFoundError:
        if not parents:
            raise
        make(os.path.dirname(path), True, 0o777)
        make(path, mode=mode)
    except OSError:
        if not os.path.isdir(path):
            raise
    else:
        if os.name == "posix":
            with suppress(FileNotFoundError):  # a cleaner of empty folders was there at once
                fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
                try:
                    if mode == _PRIVATE:
                        os.fchmod(fd, mode)
                    inherit(fd, path)
                finally:
                    os.close(fd)


def inherit(fd: int, path: str) -> None:
    """Let what root has made belong to whom the folder belongs that it is in: a server may serve as that account when
    it has forked."""
    if os.name == "posix" and os.geteuid() == 0:
        above = os.stat(os.path.dirname(path))
        os.fchown(fd, above.st_uid, above.st_gid)


def claim(path: str, names: re.Pattern[str], wanted: int = USE_FILES, *others: str) -> None:
    """Make sure that this account can use a folder, and what is there of these names; OSError if it cannot.

    Args:
        wanted: how it is used; see `os.access`.
        others: what may be there besides. A folder with anything else in it is not given away.
    """
    try:
        make(path, parents=True)
        check(path, names, wanted)
    except PermissionError:
        if os.name != "posix" or os.getuid() == os.geteuid():
            raise
        uid, gid = os.geteuid(), os.getegid()
        os.seteuid(os.getuid())
        try:
            make(path, parents=True)
            if all(name in others or names.fullmatch(name) for name in os.listdir(path)):
                _give(path, uid, gid)
        finally:
            os.seteuid(uid)
        check(path, names, wanted)


def check(path: str, names: re.Pattern[str], wanted: int = USE_FILES) -> None:
    """Raise PermissionError unless this account can use a folder, and what is there of these names."""
    used = [(path, USE_FOLDERS), *((f"{path}/{name}", wanted) for name in os.listdir(path) if names.fullmatch(name))]
    for one, how in used:
        if not os.access(one, how, effective_ids=os.access in os.supports_effective_ids) and os.path.lexists(one):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), one)


def _give(path: str, uid: int, gid: int) -> None:
    """Give a folder of root's, with all that is in it, to an account; but nothing that others may have put there, such
    as a hard link to a file that they want to have."""
    for _, _, files, fd in os.fwalk(path, topdown=False):
        found = os.fstat(fd)
        if found.st_uid == os.getuid() and not found.st_mode & _OTHERS_WRITE:
            for name in files:
                os.chown(name, uid, gid, dir_fd=fd, follow_symlinks=False)
            os.fchown(fd, uid, gid)
