"""The index of a user on files: no session is missing in it, whatever happens to process or disk (rules 14, 15, 18)."""

from __future__ import annotations

import errno
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sessions import Record, Unavailable
from sessions import store as contract
from sessions.backends.file import KEY, LOCK, FileStore
from sessions.errors import LockTimeout
from sessions.testing import LONG, NOW, SHORT, Clock, a_record, commit, stored
from tests.support.application import logged

from .test_file import child, files_no_larger_than, open_store, session_files


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> FileStore:
    return open_store(tmp_path / "sessions", clock)


def sign_in(store: FileStore, user: str = "ada", deadline: float = NOW + 600) -> str:
    return stored(store, a_record(user=user, deadline=deadline))


def files(store: FileStore) -> set[str]:
    """The sessions that have a file."""
    return {name for name in session_files(store.root) if KEY.fullmatch(name) and not store.is_index(name)}


def failing(real: Callable[..., Any], path: str, failure: int) -> Callable[..., Any]:
    """A function of `os` that fails for this file."""

    def call(given: Any, *args: Any, **kwargs: Any) -> Any:
        if given == path:
            raise OSError(failure, os.strerror(failure))
        return real(given, *args, **kwargs)

    return call


def test_the_sessions_of_a_user_are_found_without_a_look_at_those_of_others(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(50):
        sign_in(store, user=f"user {n}" if n % 2 else "")
    mine, looked_at, real = {sign_in(store) for _ in range(3)}, set[str](), os.open

    def look(path: str, *args: Any) -> int:
        looked_at.add(os.path.basename(path))
        return real(path, *args)

    monkeypatch.setattr(os, "open", look)
    assert store.live("ada").keys() == mine
    assert looked_at == mine | {store.user_key("ada")}


def test_finished_sessions_leave_nothing_in_the_index(store: FileStore, clock: Clock) -> None:
    for user in ("ada", "bob"):
        keys = [sign_in(store, user) for _ in range(20)]
        for key in keys[:5]:
            store.delete(key)
        for key in keys[5:10]:
            commit(store, key, Record.tombstone(keys[10], NOW))
        for key in keys[10:15]:
            os.unlink(store.path(key))  # by a cleaner of old files
    clock.now = NOW + 1000
    assert store.purge(100) == 2 * (5 + 5 + 1), "sessions, tombstones and the index"
    assert session_files(store.root) == []


def test_the_cleaner_removes_what_sessions_of_another_application_left(store: FileStore, clock: Clock) -> None:
    other = open_store(Path(store.root), clock)
    other.namespace = "ffffffff-"
    sign_in(other, deadline=NOW + 10)
    clock.now = NOW + 50
    assert store.purge(10) == 2
    assert session_files(store.root) == []


# -------------------------------------------------------------------- processes


def test_two_processes_sign_in_out_and_list_and_clean_at_once(store: FileStore, clock: Clock) -> None:
    """Races are left to chance here: 2 x 100 sign-ins, two thirds of them ended again."""
    other = open_store(Path(store.root), clock)

    def work(store: FileStore, tell: Callable[[str], None]) -> None:
        for n in range(100):
            key = sign_in(store)
            assert key in store.live("ada")
            if n % 3 == 0:
                store.delete(key)
            elif n % 3 == 1:
                store.acquire(key, LONG).delete()
            else:
                tell(key)
            if n % 10 == 0:
                store.purge(10)

    keys: list[str] = []
    told, tell = os.pipe()
    with child(lambda: work(other, lambda key: _write(tell, key))), os.fdopen(told, "rb") as theirs:
        os.close(tell)
        work(store, keys.append)
        keys += theirs.read().decode().split()
    assert len(keys) == 66
    assert store.live("ada").keys() == files(store) == set(keys)


def _write(fd: int, key: str) -> None:
    os.write(fd, f"{key}\n".encode())


def test_no_session_is_missing_in_the_index_after_kills_at_any_moment(store: FileStore) -> None:
    """25 kills, each some milliseconds after the start of a process that signs in and out.

    A session that was stored and not entered yet is one whose id nobody has.
    """
    chance = random.Random(18)  # noqa: S311 -- only the moment of a kill
    acknowledged: set[str] = set()
    for _ in range(25):
        told, tell = os.pipe()

        def work(tell: int = tell) -> None:
            while True:
                store.acquire(sign_in(store), LONG).delete()
                _write(tell, sign_in(store))

        with child(work):
            os.close(tell)
            first = os.read(told, 100)
            time.sleep(chance.random() / 200)
        with os.fdopen(told, "rb") as rest:
            acknowledged |= set((first + rest.read()).decode().split())
        assert acknowledged <= store.live("ada").keys() <= files(store)
    assert len(acknowledged) >= 25


def test_a_sign_in_does_not_wait_for_ever_for_a_process_that_was_stopped(
    store: FileStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contract, "_TIMEOUT", SHORT)
    stopped = open_store(Path(store.root), clock).acquire(store.user_key("ada"), LONG)
    with pytest.raises(LockTimeout):
        sign_in(store)
    assert files(store) == set()
    stopped.release()
    assert {sign_in(store)} == store.live("ada").keys()


# -------------------------------------------------------------------- the disk


def test_no_name_of_a_user_is_the_name_of_a_file(store: FileStore) -> None:
    sign_in(store, "ada.lovelace")
    assert [path for path in Path(store.root).rglob("*") if "lovelace" in path.name] == []


@pytest.mark.parametrize("failure", [errno.ENOSPC, errno.EDQUOT, errno.EACCES])
@pytest.mark.parametrize("which", ["index", "lock"])
def test_a_session_that_cannot_be_entered_is_not_made(
    store: FileStore, monkeypatch: pytest.MonkeyPatch, which: str, failure: int
) -> None:
    index = store.path(store.user_key("ada"))
    lock = f"{os.path.dirname(index)}/{LOCK}"
    with monkeypatch.context() as patch:
        if which == "index":
            patch.setattr(os, "utime", failing(os.utime, index, failure))
        else:
            patch.setattr("builtins.open", failing(open, lock, failure))
        with pytest.raises(Unavailable, match=os.strerror(failure)):
            sign_in(store)
    assert files(store) == set()
    assert {sign_in(store)} == store.live("ada").keys()


def test_a_sign_in_that_does_not_fit_on_the_disk_leaves_nothing(store: FileStore) -> None:
    open_files = len(os.listdir("/proc/self/fd"))
    for size in (20, 100):  # the session does not fit; the index does not
        with files_no_larger_than(size), pytest.raises(Unavailable, match="File too large"):
            sign_in(store)
        assert session_files(store.root) == []
    assert len(os.listdir("/proc/self/fd")) == open_files
    assert {sign_in(store)} == store.live("ada").keys()


def test_a_session_that_was_ended_has_ended_though_its_entry_stays(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = (sign_in(store) for _ in range(3))
    with monkeypatch.context() as patch, logged() as lines:
        patch.setattr(os, "utime", failing(os.utime, store.path(store.user_key("ada")), errno.ENOSPC))
        store.delete(first)
        store.acquire(second, LONG).delete()
    assert len([line for line in lines if "stays in the index" in line]) == 2
    assert files(store) == store.live("ada").keys() == {third}


@pytest.mark.parametrize("name", ["open", "fstat"])
def test_a_forbidden_disk_is_unavailable_and_never_no_sessions(
    store: FileStore, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    key = sign_in(store)

    def forbidden(*_: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(os, name, forbidden)
        with pytest.raises(Unavailable, match="Permission denied"):
            store.live("ada")
    assert store.live("ada").keys() == {key}
