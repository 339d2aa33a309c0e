"""The index by user of the file backend: no session is missing in it, and nothing stays in it (rules 14, 15 and 18)."""

from __future__ import annotations

import errno
import os
import random
import signal
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sessions import LockTimeout, Record, Unavailable
from sessions.backends import file_users
from sessions.backends.file import FileStore
from sessions.backends.journal import KEY, Journal, LockedFile
from sessions.testing import LONG, NOW, SHORT, Clock, a_record

from .test_file import child, files_no_larger_than, open_store, session_files
from .wsgi import logged


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> FileStore:
    return open_store(tmp_path / "sessions", clock)


@pytest.fixture
def other(store: FileStore, clock: Clock) -> FileStore:
    """The same folder, opened by another process as it were."""
    return open_store(Path(store.root), clock)


def sign_in(store: FileStore, user: str = "ada", deadline: float = NOW + 600) -> str:
    key = store.new_key()
    store.create(key, a_record(user=user, deadline=deadline))
    return key


def live(store: FileStore, user: str | None = "ada") -> set[str]:
    return {key for key, _ in store.live(user)}


def entries(store: FileStore) -> list[str]:
    """The sessions in the index, of all users."""
    return sorted(path.name for path in Path(store.root).glob("??/*.user/*"))


def folders(store: FileStore) -> list[Path]:
    return list(Path(store.root).glob("??/*.user"))


def files(store: FileStore) -> list[str]:
    """The sessions that have a file."""
    return sorted(path.name for path in Path(store.root).glob("??/*") if KEY.fullmatch(path.name))


def leave_entries(store: FileStore, number: int, user: str = "ada") -> None:
    """Sessions of a user that were deleted by somebody who did not know whose they were."""
    for _ in range(number):
        store.delete(sign_in(store, user))


CALLS = ("open", "stat", "lstat", "listdir", "scandir", "mkdir", "rmdir", "unlink", "replace", "fstat", "access")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What the disk is asked by name or descriptor from now on."""
    made: list[tuple[str, str]] = []

    def spy(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            made.append((name, str(args[0])))
            return real(*args, **kwargs)

        return call

    for name in CALLS:
        monkeypatch.setattr(os, name, spy(name, getattr(os, name)))
    return made


# -------------------------------------------------------------------- an index, not a scan


def test_the_sessions_of_a_user_are_found_without_a_look_at_those_of_others(
    store: FileStore, calls: list[tuple[str, str]]
) -> None:
    for n in range(300):
        sign_in(store, user=f"user {n}" if n % 2 else "")
    mine = [sign_in(store) for _ in range(3)]
    (folder,) = {path.parent for path in Path(store.root).glob(f"??/*.user/{mine[0]}")}
    calls.clear()
    assert live(store) == set(mine)
    asked = {path for _, path in calls}
    assert asked >= {store.path(key) for key in mine}
    assert all(path.startswith(str(folder)) or Path(path).name in mine for path in asked if not path.isdigit())
    assert len(calls) < 30


def test_a_session_without_a_user_costs_no_call_more(store: FileStore, calls: list[tuple[str, str]]) -> None:
    for make in (
        lambda key: Journal.create(store.path(key), False, a_record()),
        lambda key: store.create(key, a_record()),
    ):
        calls.clear()
        key = store.new_key()
        make(key)
        assert calls == [("open", store.path(key))]
    store.acquire(key, LONG).delete()
    assert [path for _, path in calls if ".user" in path] == []


def test_a_session_that_is_just_being_made_is_passed_over_and_not_set_aside(store: FileStore) -> None:
    key, made = sign_in(store), sign_in(store)
    Path(store.path(key)).write_bytes(b"")  # its record comes next
    for user in ("ada", None):
        assert live(store, user) == {made}
    assert Path(store.path(key)).exists()


def test_a_session_that_has_moved_or_is_another_users_is_not_given(store: FileStore) -> None:
    moved, changed, half = sign_in(store), sign_in(store), sign_in(store)
    assert store.replace(moved, Record(b"", NOW, NOW + 60))
    assert store.replace(changed, a_record(user=""))
    assert entries(store) == [half], "the index keeps what is not the user's any more"
    Path(f"{folders(store)[0]}/{changed}").touch()  # what a kill between the two steps leaves
    assert live(store) == {half}
    assert live(store, None) == {half, changed}


# -------------------------------------------------------------------- nothing stays


def test_a_session_that_ends_takes_its_entry_along(store: FileStore, clock: Clock) -> None:
    store.acquire(sign_in(store), LONG).delete()
    assert store.acquire(sign_in(store), LONG).commit(Record(b"", NOW, NOW + 60))  # signed out
    sign_in(store, deadline=NOW + 10)
    assert len(files(store)) == 2
    os.unlink(store.path(next(key for key in files(store) if key not in entries(store))))  # the one that moved
    assert len(entries(store)) == 1
    clock.now = NOW + 50
    assert store.purge(1) == 1  # comes no further, so it does not tidy up what it left itself
    assert entries(store) == []


def test_finished_sessions_leave_nothing_in_the_index(store: FileStore, clock: Clock) -> None:
    for user in ("ada", "bob"):
        keys = [sign_in(store, user) for _ in range(20)]
        for key in keys[:5]:
            store.delete(key)
        for key in keys[5:10]:
            assert store.replace(key, Record(b"", NOW, NOW + 60))
        for key in keys[10:15]:
            os.replace(store.path(key), store.path(key) + ".new")  # as if set aside, and then too old
            os.unlink(store.path(key) + ".new")
    clock.now = NOW + 1000
    assert store.purge(100) == 20
    assert store.purge(100) == 0
    assert session_files(store.root) == []
    assert folders(store) == []


def test_what_the_index_keeps_of_deleted_sessions_goes_when_they_are_listed(store: FileStore) -> None:
    leave_entries(store, 5)
    key = sign_in(store)
    assert len(entries(store)) == 6
    assert live(store) == {key}
    assert entries(store) == [key]


def test_the_cleaner_tidies_in_bounded_batches_and_does_not_count_them(store: FileStore) -> None:
    leave_entries(store, 15)
    leave_entries(store, 10, "bob")
    key = sign_in(store)
    left = []
    for _ in range(4):
        assert store.purge(10) == 0
        left.append(len(entries(store)))
    assert left == [16, 6, 1, 1]
    assert live(store) == {key}


def test_many_leftovers_do_not_keep_the_cleaner_from_the_sessions(store: FileStore, clock: Clock) -> None:
    leave_entries(store, 20)
    for _ in range(10):
        sign_in(store, "bob", deadline=NOW + 10)
    clock.now = NOW + 50
    assert store.purge(10) == 10
    assert len(entries(store)) >= 10, "more than one batch"


def test_the_cleaner_removes_what_sessions_of_another_application_left(
    store: FileStore, other: FileStore, clock: Clock
) -> None:
    other.namespace = "ffffffff-"
    sign_in(other, deadline=NOW + 10)
    clock.now = NOW + 50
    assert store.purge(1) == 1
    assert entries(store) == []
    leave_entries(other, 1)
    store.purge(10)
    assert folders(store) == []


def test_the_cleaner_leaves_what_is_not_its_own_and_goes_on(store: FileStore, clock: Clock) -> None:
    leave_entries(store, 1)
    (folder,) = folders(store)
    (folder / "notes").touch()
    (folder.parent / "x.user").touch()
    sign_in(store, "bob", deadline=NOW + 10)
    clock.now = NOW + 50
    assert store.purge(10) == 1
    assert [path.name for path in folder.iterdir()] == ["notes"]
    assert live(store) == set()


# -------------------------------------------------------------------- races


def test_an_entry_whose_session_is_just_being_made_is_left_alone(
    store: FileStore, other: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, looks = Journal.create, 0

    def make(path: str, durable: bool, record: Record) -> None:
        nonlocal looks
        looks += 1
        assert live(other) == set()
        assert other.purge(10) == 0
        real(path, durable, record)

    monkeypatch.setattr(Journal, "create", make)
    assert {sign_in(store)} == live(store)
    assert looks == 1


@pytest.mark.parametrize("when", ["before it is locked", "before the first entry is in its folder"])
def test_an_entry_that_is_tidied_up_too_early_is_made_again(
    store: FileStore, other: FileStore, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    name = "open" if when == "before it is locked" else "mkdir"
    real, done, open_files = getattr(os, name), 0, len(os.listdir("/proc/self/fd"))

    def call(path: str, *args: Any) -> Any:
        nonlocal done
        result = real(path, *args)
        if ".user" in path and not done:
            done += 1
            other.purge(10)
            assert folders(store) == [], "this test has not met its race"
        return result

    with monkeypatch.context() as patch:
        patch.setattr(os, name, call)
        key = sign_in(store)
    assert done == 1
    assert len(os.listdir("/proc/self/fd")) == open_files
    assert live(store) == {key}
    assert entries(store) == [key]


def test_who_finds_an_entry_that_was_made_again_does_not_remove_the_new_one(
    store: FileStore, other: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tidier has opened the old entry, and gets the lock of that one only."""
    leave_entries(store, 1)
    (key,) = entries(store)
    real, held = LockedFile.try_lock, []

    def try_lock(self: LockedFile) -> bool:
        if not held:
            held.append(self)
            os.unlink(self.path)
            other.create(key, a_record(user="ada"))
            os.rename(store.path(key), store.path(key) + ".away")
        return real(self)

    with monkeypatch.context() as patch:
        patch.setattr(LockedFile, "try_lock", try_lock)
        live(store)
    assert entries(store) == [key]


def test_a_sign_in_does_not_wait_for_ever_for_a_process_that_was_stopped(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_users, "_TIMEOUT", SHORT)
    open_files = len(os.listdir("/proc/self/fd"))
    stopped = []
    real = file_users._create

    def create(path: str) -> int:
        entry = LockedFile(path, real(path))
        assert entry.try_lock()
        stopped.append(entry)
        return real(path)

    with monkeypatch.context() as patch:
        patch.setattr(file_users, "_create", create)
        with pytest.raises(LockTimeout, match="the entry of session"):
            sign_in(store)
    stopped.pop().close()
    assert files(store) == []
    assert len(os.listdir("/proc/self/fd")) == open_files
    assert {sign_in(store)} == live(store)


def test_two_processes_sign_in_out_and_list_and_clean_at_once(store: FileStore, other: FileStore) -> None:
    """Races are left to chance here: 2 x 150 sign-ins, two thirds of them ended again, so the folder comes and goes."""

    def work(store: FileStore, tell: Callable[[str], None]) -> None:
        for n in range(150):
            key = sign_in(store)
            assert key in live(store)
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
    assert len(keys) == 100
    assert live(store) == set(keys)
    store.purge(1000)
    assert entries(store) == files(store) == sorted(keys)


def _write(fd: int, key: str) -> None:
    os.write(fd, f"{key}\n".encode())


# -------------------------------------------------------------------- kills


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_kill_at_the_session_leaves_no_session_out_of_the_index(store: FileStore, when: str) -> None:
    def work() -> None:
        real = Journal.create

        def make(path: str, durable: bool, record: Record) -> None:
            if when == "after":
                real(path, durable, record)
            os.kill(os.getpid(), signal.SIGKILL)

        Journal.create = make  # type: ignore[method-assign] -- in the child only
        sign_in(store)

    with child(work) as pid:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert len(entries(store)) == 1
    assert live(store) == set(files(store))
    assert len(files(store)) == (1 if when == "after" else 0)
    assert entries(store) == files(store), "the entry without a session stays"


def test_no_session_is_missing_in_the_index_after_kills_at_any_moment(store: FileStore) -> None:
    """25 kills, each some milliseconds after the start of a process that signs in and out."""
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
        assert set(files(store)) <= set(entries(store))
        assert live(store) == live(store, None) >= acknowledged
        assert entries(store) == files(store)
    assert len(acknowledged) >= 25


# -------------------------------------------------------------------- the disk


@pytest.mark.parametrize("mask", [0, 0o022, 0o077])
def test_nobody_else_can_look_into_the_index_and_no_name_is_in_it(store: FileStore, mask: int) -> None:
    before = os.umask(mask)
    try:
        sign_in(store, "ada.lovelace")
    finally:
        os.umask(before)
    for path in Path(store.root).rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
        assert "lovelace" not in path.name
    assert len(entries(store)) == 1


def test_a_durable_entry_has_reached_the_disk_before_its_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        real(fd)
        synced.append(Path(f"/proc/self/fd/{fd}").resolve().name)

    monkeypatch.setattr(os, "fsync", fsync)
    store = open_store(tmp_path, Clock(), durable=True)
    key = sign_in(store)
    (folder,) = folders(store)
    assert synced == [folder.name, folder.parent.name, key, key[-64:-62]]


def test_a_sign_in_that_does_not_fit_on_the_disk_leaves_nothing(store: FileStore) -> None:
    open_files = len(os.listdir("/proc/self/fd"))
    with files_no_larger_than(20), pytest.raises(Unavailable, match="File too large"):
        sign_in(store)
    assert entries(store) == files(store) == []
    assert len(os.listdir("/proc/self/fd")) == open_files
    assert {sign_in(store)} == live(store)


@pytest.mark.parametrize(("call", "failure"), [("open", errno.ENOSPC), ("mkdir", errno.EDQUOT), ("open", errno.EACCES)])
def test_a_session_that_cannot_be_entered_is_not_made(
    store: FileStore, monkeypatch: pytest.MonkeyPatch, call: str, failure: int
) -> None:
    real = getattr(os, call)

    def fail(path: str, *args: Any) -> Any:
        if ".user" in path and (call == "mkdir" or os.path.isdir(os.path.dirname(path))):
            raise OSError(failure, os.strerror(failure))
        return real(path, *args)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(Unavailable, match=os.strerror(failure)):
            sign_in(store)
    assert files(store) == []
    assert {sign_in(store)} == live(store)


def test_a_session_that_was_ended_has_ended_though_its_entry_stays(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = sign_in(store), sign_in(store)
    real = os.unlink

    def fail(path: str) -> None:
        if ".user" in path:
            raise OSError(errno.EIO, "Input/output error")
        real(path)

    with monkeypatch.context() as patch, logged() as lines:
        patch.setattr(os, "unlink", fail)
        assert store.acquire(first, LONG).commit(Record(b"", NOW, NOW + 60))
        store.acquire(second, LONG).delete()
    assert len([line for line in lines if "stays in the index" in line]) == 2
    assert live(store) == set()
    store.purge(10)
    assert entries(store) == [first], "not before its file has gone"


@pytest.mark.parametrize("name", ["listdir", "lstat", "open"])
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
    assert live(store) == {key}
    assert entries(store) == [key]


def test_a_folder_that_has_gone_is_unavailable_and_never_no_sessions(store: FileStore) -> None:
    key = sign_in(store)
    away = store.root + ".away"
    os.rename(store.root, away)
    calls = (lambda: store.live("ada"), lambda: store.live("nobody"), lambda: store.live(None), lambda: sign_in(store))
    for call in calls:
        with pytest.raises(Unavailable):
            call()
    os.mkdir(store.root)  # the mount point without what was mounted
    for call in calls:
        with pytest.raises(Unavailable):
            call()
    os.rmdir(store.root)
    os.rename(away, store.root)
    assert live(store) == {key}


def test_sessions_whose_folder_has_gone_stay_in_the_index(store: FileStore) -> None:
    """One of the 256 folders was moved: that is not "all of these sessions have ended"."""
    keys = {sign_in(store)[-64:-62]: 0 for _ in range(20)}
    (home,) = {path.parent.name for path in folders(store)}
    gone = next(folder for folder in keys if folder != home)
    before = entries(store)
    os.rename(f"{store.root}/{gone}", f"{store.root}/away")
    with pytest.raises(Unavailable):
        store.live("ada")
    os.rename(f"{store.root}/away", f"{store.root}/{gone}")
    assert entries(store) == before
    assert len(live(store)) == 20
