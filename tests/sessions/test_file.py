"""Sessions in files: whatever happens to process, disk or file, nothing acknowledged is lost (rules 13 to 15)."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import multiprocessing
import os
import random
import resource
import select
import shutil
import signal
import socket
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import sessions
from sessions import Record, Unavailable, codec
from sessions.backends import file
from sessions.backends.file import COMPACT_AT, LOCK, UNREADABLE, FileStore
from sessions.errors import CorruptRecord, LockTimeout
from sessions.events import Event
from sessions.registry import registry
from sessions.testing import (
    CLIENTS,
    FAIR_SHARES,
    LONG,
    NOW,
    PAGE,
    SHORT,
    VISITS,
    Clock,
    a_record,
    commit,
    count_of,
    hearing,
    in_threads,
    opened,
    stored,
)
from tests.support.application import Counter, application, logged
from tests.support.client import WsgiClient


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> FileStore:
    return open_store(tmp_path / "sessions", clock)


def place_of(store: FileStore, key: str, suffix: str = "") -> Path:
    """Return the file of a session, for a test that puts something there before a session does."""
    path = Path(store.path(key) + suffix)
    path.parent.mkdir(0o700, exist_ok=True)
    return path


def open_store(path: Path, clock: Callable[[], float], **options: Any) -> FileStore:
    store = opened(lambda: FileStore(storage_path=str(path), **options), clock)
    assert isinstance(store, FileStore)
    return store


def session_files(root: str | Path) -> list[str]:
    """The names of all files but the marker and the locks of folders, which stay."""
    return sorted(path.name for path in Path(root).rglob("*") if not path.is_dir() and not path.name.startswith("."))


def lock_of(store: FileStore, key: str) -> Path:
    return Path(store.path(key) + LOCK)


def state(store: FileStore, key: str) -> int:
    """What a request without a lock finds; -1 for nothing, or nothing that can be read."""
    try:
        return count_of(store.load(key))
    except CorruptRecord:
        return -1


def save(store: FileStore, key: str, n: int, fill: int = 0, deadline: float = NOW + 600) -> bool:
    return store.acquire(key, LONG).commit(a_record({"n": n, "fill": "x" * fill}, deadline=deadline))


def grow(store: FileStore, key: str, n: int = 0) -> None:
    """Make the journal so large that the next save rewrites it."""
    for _ in range(2):
        save(store, key, n, fill=COMPACT_AT // 2)
    assert os.path.getsize(store.path(key)) > COMPACT_AT


@pytest.fixture
def site(tmp_path: Path) -> WsgiClient:
    """A visitor of a site with the file profile who has been there five times."""
    app = application(Counter(), storage_type="file", storage_path=str(tmp_path / "site"), lock_timeout=1)
    client = WsgiClient(app)
    assert [client.get().text for _ in range(5)] == list("12345")
    return client


def file_of(client: WsgiClient) -> Path:
    (store,) = registry.stores(client.app)
    (path,) = (path for path in Path(store.root).rglob(f"{store.namespace}*") if not path.name.endswith(LOCK))
    return path


# -------------------------------------------------------------------- damaged files


def test_every_prefix_of_a_journal_is_an_earlier_state_or_none(store: FileStore) -> None:
    key = store.new_key()
    store.create(key, a_record({"n": 0}))
    for n in range(1, 6):
        save(store, key, n)
    path = Path(store.path(key))
    whole = path.read_bytes()
    for length in range(len(whole)):
        lines = whole[:length].count(b"\n")
        path.write_bytes(whole[:length])
        assert state(store, key) == lines - 1
        hold = store.acquire(key, LONG)
        assert count_of(hold.record) == lines - 1
        assert hold.commit(a_record({"n": 100})) is (lines > 0)
        assert state(store, key) == (100 if lines else -1), "the torn rest was not cut off"


def test_a_flipped_bit_is_an_earlier_state_or_none_and_is_quarantined_once(store: FileStore) -> None:
    key, chance = store.new_key(), random.Random(14)  # noqa: S311 -- a seed, so that a failure comes back
    store.create(key, a_record({"n": 0}))
    for n in range(1, 6):
        save(store, key, n)
    path = Path(store.path(key))
    whole = path.read_bytes()
    events = list[Event]()
    with hearing(events.append, "quarantined"):
        for _ in range(5000):
            damaged = bytearray(whole)
            damaged[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
            path.write_bytes(damaged)
            events.clear()
            found = state(store, key)
            for _ in range(2):
                hold = store.acquire(key, LONG)
                hold.release()
                assert count_of(hold.record) == found
            assert found in (-1, 4, 5)
            assert len(events) == (found == -1)


def test_no_prefix_of_a_session_file_is_an_error_to_the_visitor(site: WsgiClient) -> None:
    path = file_of(site)
    whole, jar = path.read_bytes(), dict(site.cookies)
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        site.cookies = dict(jar)
        answer = site.get()
        assert (answer.status, answer.text) == (200, str(whole[:length].count(b"\n") + 1))


def test_no_flipped_bit_in_a_session_file_is_an_error_to_the_visitor(site: WsgiClient) -> None:
    path, chance = file_of(site), random.Random(15)  # noqa: S311 -- a seed, so that a failure comes back
    whole, jar = path.read_bytes(), dict(site.cookies)
    for _ in range(1500):
        damaged = bytearray(whole)
        damaged[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        site.cookies = dict(jar)
        answer = site.get()
        assert answer.status == 200
        assert answer.text in ("1", "5", "6")


@pytest.mark.parametrize("explicit", [False, True])
@pytest.mark.parametrize("data", ["no JSON", "[]", '{"n":{"$uuid":5}}', '{"n":{"$none":5}}'])
def test_a_whole_line_with_senseless_data_is_quarantined_and_logged_once(
    tmp_path: Path, data: str, explicit: bool
) -> None:
    locking = "explicit" if explicit else "implicit"
    client = WsgiClient(application(Counter(), storage_type="file", storage_path=str(tmp_path), locking=locking))
    client.get()
    path, old = file_of(client), dict(client.cookies)
    path.write_bytes(Record(data, time.time(), time.time() + 99).pack(path.name) + b"\n")
    with logged() as lines:
        assert [WsgiClient(client.app, old).get().text for _ in range(2)] == ["1", "1"]
    assert len([line for line in lines if "unreadable" in line]) == 1
    assert path.with_name(path.name + ".unreadable").exists()


@pytest.mark.parametrize(
    "kind", ["directory", "full directory", "symlink", "dangling", "fifo", "socket", "foreign", "empty"]
)
@pytest.mark.parametrize("read", ["load", "acquire", "delete"])
def test_what_is_no_session_file_is_no_session_and_no_error(
    store: FileStore, tmp_path: Path, kind: str, read: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, treasure = store.new_key(), tmp_path / "treasure"
    treasure.write_text("not yours")
    path = place_of(store, key)
    if kind.endswith("directory"):
        path.mkdir()
        if kind.startswith("full"):
            (path / "x").touch()
    elif kind == "symlink":
        path.symlink_to(treasure)
    elif kind == "dangling":
        path.symlink_to(tmp_path / "nowhere")
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        monkeypatch.chdir(path.parent)  # a socket's path must be short
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(path.name)
    else:
        path.write_bytes(b"\x80\x04 a pickle of another program\n" if kind == "foreign" else b"")
    if read == "delete":
        store.delete(key)
    elif read == "load":
        with pytest.raises(CorruptRecord):
            store.load(key)
        store.acquire(key, SHORT).release()  # as the session does then
    else:
        hold = store.acquire(key, SHORT)
        assert hold.record is None
        hold.release()
    assert store.load(key) is None
    assert treasure.read_text() == "not yours"
    assert not lock_of(store, key).exists()
    assert len(store.locks) == 0


def full(*_: Any, **__: Any) -> Any:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("call", ["open", "replace", "unlink"])
def test_a_session_that_cannot_be_read_or_removed_is_released_and_keeps_its_lock_file(
    store: FileStore, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Without its lock file, which another process may be waiting for, two could have the session at once."""
    key = stored(store)
    store.acquire(key, LONG).release()
    if call == "replace":
        place_of(store, key).write_bytes(b"foreign\n")
    open_files, inode = len(os.listdir("/proc/self/fd")), lock_of(store, key).stat().st_ino
    real = getattr(os, call)
    with monkeypatch.context() as patch:
        patch.setattr(os, call, lambda path, *args: (full if path == store.path(key) else real)(path, *args))
        with pytest.raises(Unavailable, match="No space left"):
            store.delete(key, SHORT)
    assert lock_of(store, key).stat().st_ino == inode
    assert len(os.listdir("/proc/self/fd")) == open_files
    store.acquire(key, SHORT).release()
    assert len(store.locks) == 0


# -------------------------------------------------------------------- lock files


def test_a_lock_file_comes_with_the_first_lock_and_goes_with_its_session(store: FileStore, clock: Clock) -> None:
    key = stored(store)
    assert store.load(key)
    assert not lock_of(store, key).exists()
    assert save(store, key, 1)
    assert lock_of(store, key).exists()
    store.delete(key)
    assert session_files(store.root) == []

    unreadable = stored(store)
    Path(store.path(unreadable)).write_bytes(b"foreign\n")
    store.acquire(unreadable, LONG).release()
    assert session_files(store.root) == [f"{unreadable}.unreadable"]
    Path(store.path(unreadable) + ".unreadable").unlink()

    for record in (a_record({"n": 1}, deadline=NOW + 10), Record.tombstone(key, NOW)):
        commit(store, stored(store), record)
    clock.now = NOW + 100
    assert store.purge(100) == 2
    assert session_files(store.root) == []


def test_an_unknown_id_makes_no_lock_file(store: FileStore) -> None:
    key = store.new_key()
    store.acquire(key, LONG).release()
    store.delete(key)
    assert session_files(store.root) == []


def test_the_cleaner_removes_the_lock_files_that_killed_processes_left_and_no_other(store: FileStore) -> None:
    key, kept = stored(store), stored(store, a_record(user="ada"))
    save(store, kept, 1)

    def work() -> None:
        store.acquire(key, LONG)
        os.unlink(store.path(key))
        os.kill(os.getpid(), signal.SIGKILL)

    with child(work) as pid:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert lock_of(store, key).exists()
    locks = sorted(Path(store.root).glob(f"??/{LOCK}"))
    assert len(locks) == 1, "that of the index of a user, which is used again"
    assert store.purge(100) == 0
    assert not lock_of(store, key).exists()
    assert lock_of(store, kept).exists()
    assert sorted(Path(store.root).glob(f"??/{LOCK}")) == locks


def test_a_process_that_is_stopped_while_it_waits_keeps_nobody_out(store: FileStore) -> None:
    """The others take their turns, stand back once to let it have its own, and go on: Ctrl-Z, or a debugger."""
    key = stored(store, a_record({"n": 0}))
    hold = store.acquire(key, LONG)

    def wait() -> None:
        store.locks.release(key)  # which the fork has with the hold
        store.acquire(key, LONG).release()

    with watching(lock_of(store, key)) as somebody_waits, child(wait) as pid:
        somebody_waits()
        os.kill(pid, signal.SIGSTOP)
        os.waitid(os.P_PID, pid, os.WSTOPPED)
        hold.release()
        for n in range(30):
            hold = store.acquire(key, LONG)
            assert hold.commit(a_record({"n": n}))
    assert count_of(store.load(key)) == 29


def test_a_session_that_ends_while_another_process_waits_for_it_is_gone_for_it(store: FileStore) -> None:
    """What it waits for is the lock of a file that has no name any more by the time it gets it."""
    key, (told, tell) = stored(store), os.pipe()
    hold = store.acquire(key, LONG)

    def wait() -> None:
        store.locks.release(key)
        late = store.acquire(key, LONG)
        os.write(tell, b"%d %d" % (late.record is None, late.commit(a_record())))

    with watching(lock_of(store, key)) as somebody_waits, child(wait):
        somebody_waits()
        hold.delete()
        assert os.read(told, 100) == b"1 0"
    os.close(told)
    os.close(tell)
    assert session_files(store.root) == []


def test_pages_that_only_read_let_another_process_have_its_turn(store: FileStore) -> None:
    """A wait is counted in turns of others, as in the contract, where each turn is a save."""
    key, turns, (told, tell) = stored(store), multiprocessing.Value("i", 0, lock=False), os.pipe()

    def read() -> int:
        longest = 0
        for _ in range(VISITS):
            before = turns.value
            hold = store.acquire(key, LONG)
            longest = max(longest, turns.value - before)
            turns.value += 1
            time.sleep(PAGE)
            hold.release()
        return longest

    with child(lambda: os.write(tell, b"%d" % max(in_threads(CLIENTS, read)))):
        longest = max(in_threads(CLIENTS, read))
        assert max(longest, int(os.read(told, 100))) <= FAIR_SHARES * 2 * CLIENTS
    os.close(told)
    os.close(tell)
    assert turns.value == 2 * CLIENTS * VISITS


@contextmanager
def watching(path: Path) -> Iterator[Callable[[], None]]:
    """A function that waits until somebody opens a file."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.inotify_init1(os.O_CLOEXEC)
    libc.inotify_add_watch(fd, os.fsencode(path), 0x20)  # IN_OPEN

    def wait() -> None:
        assert select.select([fd], [], [], LONG)[0], "nobody waits"

    try:
        yield wait
    finally:
        os.close(fd)


def test_indexes_whose_locks_are_one_file_wait_for_each_other_and_for_nobody_else(store: FileStore) -> None:
    ada = store.user_key("ada")
    users = (f"user {n}" for n in range(100_000))
    same = next(user for user in users if store.user_key(user)[-64:-62] == ada[-64:-62])
    hold = store.acquire(ada, LONG)
    with pytest.raises(LockTimeout):
        store.acquire(store.user_key(same), SHORT)
    store.acquire(store.user_key("bob"), SHORT).release()
    store.acquire(stored(store), SHORT).release()
    hold.release()
    stored(store, a_record(user=same))
    assert (len(store.live(same)), len(store.live("ada"))) == (1, 0)


# -------------------------------------------------------------------- processes


@contextmanager
def child(work: Callable[[], None]) -> Iterator[int]:
    """Run `work` in a fork of this process, which is killed at the end of the block."""
    pid = os.fork()
    if not pid:
        try:
            work()
        finally:
            os._exit(0)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_nothing_acknowledged_is_lost_when_a_writer_is_killed(store: FileStore) -> None:
    """60 kills, each some milliseconds after the writer's start; its journal is rewritten every few saves."""
    key, chance, acknowledged = store.new_key(), random.Random(16), 0  # noqa: S311 -- only the moment of a kill
    store.create(key, a_record({"n": 0}))
    for _ in range(60):
        acks, told = os.pipe()

        def write(told: int = told) -> None:
            while True:
                hold = store.acquire(key, LONG)
                n = count_of(hold.record) + 1
                assert hold.commit(a_record({"n": n, "fill": "x" * (n * 37 % 3000)}))
                os.write(told, b"%d\n" % n)

        with child(write):
            os.close(told)
            first = os.read(acks, 100)
            time.sleep(chance.random() / 100)
        with os.fdopen(acks, "rb") as rest:
            numbers = (first + rest.read()).split()
        acknowledged = int(numbers[-1])
        hold = store.acquire(key, LONG)
        assert hold.record is not None, "the session is torn"
        assert count_of(hold.record) in (acknowledged, acknowledged + 1)
        data = codec.decode(hold.record.data)
        assert len(data["fill"]) == data["n"] * 37 % 3000
        hold.release()
    assert acknowledged > 60


def test_a_lock_ends_with_its_request_though_a_process_was_forked_meanwhile(store: FileStore) -> None:
    """The fork has the file open, too; closing it here would not end a lock on it."""
    key = store.new_key()
    store.create(key, a_record())
    hold = store.acquire(key, LONG)
    with child(signal.pause):
        with pytest.raises(LockTimeout):
            store.acquire(key, SHORT)
        hold.release()
        store.acquire(key, SHORT).release()


# -------------------------------------------------------------------- the disk


@pytest.mark.parametrize("mask", [0, 0o022, 0o027, 0o077])
def test_nobody_else_can_read_the_folder_or_the_files(tmp_path: Path, clock: Clock, mask: int) -> None:
    before = os.umask(mask)
    try:
        store = open_store(tmp_path / "sessions", clock)
        key = store.new_key()
        store.create(key, a_record())
        grow(store, key)
        save(store, key, 1)
        store.create(store.new_key(), a_record())
    finally:
        os.umask(before)
    for path in (Path(store.root), *Path(store.root).rglob("*")):
        if path.suffix != LOCK:  # has nothing in it, and lies in a folder that nobody else can open
            assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_a_durable_save_has_reached_the_disk_when_it_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[tuple[str, bytes]] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        """What the kernel is told to put on the disk, as it is at that moment."""
        path = Path(f"/proc/self/fd/{fd}").resolve()
        real(fd)
        synced.append((path.name.removesuffix(".new"), b"" if path.is_dir() else path.read_bytes()))

    monkeypatch.setattr(os, "fsync", fsync)
    for durable in (False, True):
        store = open_store(tmp_path / str(durable), Clock(), durable=durable)
        key = store.new_key()
        folder = key[-64:-62]
        store.create(key, a_record({"n": 0}))
        for n, rewritten in ((1, False), (2, True), (3, False)):
            if rewritten:
                grow(store, key, n - 1)
            save(store, key, n)
            if durable:
                name, content = next(item for item in reversed(synced) if item[0] != folder)
                assert name == key
                assert count_of(Record.unpack(key, content.splitlines()[-1])) == n
        assert [name for name, _ in synced].count(folder) == (2 if durable else 0)
        store.delete(key)
        assert [name for name, _ in synced].count(folder) == (3 if durable else 0)
    assert synced


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """A disk that is full, as far as this process can tell: a write takes what fits, then fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("rewritten", [False, True])
def test_a_full_disk_keeps_the_old_session_and_its_renewed_deadline(store: FileStore, rewritten: bool) -> None:
    key = store.new_key()
    store.create(key, a_record({"n": 1}))
    if rewritten:
        grow(store, key, 1)
    before = store.load(key)
    assert before
    renewed = before._replace(deadline=NOW + 900)
    commit(store, key, renewed)  # no line, one utime
    with files_no_larger_than(50 if rewritten else os.path.getsize(store.path(key)) + 30):
        with pytest.raises(Unavailable, match="File too large"):
            save(store, key, 2)
        with pytest.raises(Unavailable):
            store.create(store.new_key(), a_record({"fill": "x" * 1000}))
        assert store.load(key) == renewed
    assert save(store, key, 3)
    assert count_of(store.load(key)) == 3
    assert [name for name in session_files(store.root) if not name.endswith(".new")] == [key, key + LOCK]


@contextmanager
def small_disk(path: Path) -> Iterator[bool]:
    """A disk of a megabyte at `path`; False where this machine or user may not mount one."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(path)]
    mounted = os.geteuid() == 0 and subprocess.run(mount, capture_output=True).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", str(path)], check=True)  # noqa: S607 -- found where root finds it


def test_a_disk_that_really_is_full_keeps_every_session_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    """Where no disk can be mounted, the limit on file sizes above is all there is."""
    with small_disk(tmp_path) as mounted:
        if not mounted:
            return
        with closing(open_store(tmp_path, Clock())) as store:  # else the disk is in use when it is taken away
            keys = [store.new_key() for _ in range(5)]
            for key in keys:
                store.create(key, a_record({"n": 1, "fill": "x" * 3000}))
            with open(tmp_path / "filler", "wb", buffering=0) as filler, pytest.raises(OSError, match="No space"):
                while True:
                    filler.write(b"x" * 4096)
            with pytest.raises(Unavailable, match="No space"):
                store.create(store.new_key(), a_record({"fill": "x" * 5000}))
            with pytest.raises(Unavailable, match="No space"):
                for n in range(100):
                    save(store, keys[0], n, fill=3000)
            assert all(count_of(store.load(key)) == 1 for key in keys[1:])
            assert store.load(keys[0]) is not None
            store.delete(keys[4])  # needs no room, and makes some
            assert store.load(keys[4]) is None
            (tmp_path / "filler").unlink()
            assert save(store, keys[0], 7)
            assert count_of(store.load(keys[0])) == 7
            assert [name for name in session_files(store.root) if file.KEY.fullmatch(name)] == sorted(keys[:4])


def test_a_sync_that_fails_keeps_the_old_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(tmp_path, Clock(), durable=True)
    key = store.new_key()
    store.create(key, a_record({"n": 1}))

    def fail(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(Unavailable):
            save(store, key, 2)
    assert store.load(key) == a_record({"n": 1})
    assert save(store, key, 3)


def test_a_full_disk_is_a_503_and_the_session_goes_on_afterwards(site: WsgiClient) -> None:
    before = file_of(site).read_bytes()
    with files_no_larger_than(len(before) + 10):
        answer = site.get()
        newcomer = WsgiClient(site.app).get(cookie="a=b")
    assert (answer.status, answer.headers["retry-after"], list(answer.cookies)) == (503, "5", [])
    assert newcomer.status == 200, "a new session still fits"
    assert site.get().text == "6"


def test_a_folder_that_has_gone_is_unavailable_and_never_missing(store: FileStore) -> None:
    key = store.new_key()
    store.create(key, a_record())
    away = store.root + ".away"
    os.rename(store.root, away)
    for call in (
        lambda: store.load(key), lambda: store.acquire(key, SHORT), lambda: store.delete(key), lambda: stored(store),
        lambda: stored(store, a_record(user="ada")), lambda: store.live("ada"), lambda: list(store.scan()),
        lambda: store.purge(10), store.count, store.ping,
    ):  # fmt: skip
        for mounted in (True, False):
            if not mounted:  # the mount point without what was mounted
                os.mkdir(store.root)
            with pytest.raises(Unavailable):
                call()
            if not mounted:
                os.rmdir(store.root)
    os.rename(away, store.root)
    assert store.load(key) == a_record()
    assert len(store.locks) == 0


def test_folders_that_a_cleaner_of_empty_folders_removed_are_made_again(store: FileStore) -> None:
    def clean() -> None:
        for folder in Path(store.root).iterdir():
            if folder.is_dir():
                shutil.rmtree(folder)

    for use in (
        lambda: store.load(store.new_key()), lambda: store.acquire(store.new_key(), SHORT).release(),
        lambda: store.delete(store.new_key()), lambda: store.live("ada"), lambda: store.purge(10), store.count,
        store.ping, lambda: list(store.scan()),
    ):  # fmt: skip
        clean()
        use()
    for user in ("", "ada"):
        clean()
        key = stored(store, a_record({"n": 1}, user=user))
        assert save(store, key, 2)
        assert count_of(store.load(key)) == 2
    assert os.stat(store.path(key)).st_size and stat.S_IMODE(os.stat(Path(store.path(key)).parent).st_mode) == 0o700


@pytest.mark.parametrize("durable", [False, True])
def test_no_moment_is_a_bad_one_for_a_cleaner_of_empty_folders(tmp_path: Path, clock: Clock, durable: bool) -> None:
    store, done = open_store(tmp_path, clock, durable=durable), threading.Event()
    folders = [f"{store.root}/{n:02x}" for n in range(256)]

    def clean() -> None:
        while not done.is_set():
            for folder in folders:
                with contextlib.suppress(OSError):
                    os.rmdir(folder)

    cleaner = threading.Thread(target=clean)
    cleaner.start()
    try:
        for n in range(24):
            key = stored(store, a_record({"n": n}, user="ada" if n % 2 else ""))
            hold = store.acquire(key, LONG)
            assert hold.commit(a_record({"n": n + 1}, user="ada" if n % 2 else ""))
            assert count_of(store.load(key)) == n + 1
            assert store.count() == len(list(store.scan())) == 1
            if n % 3:
                store.delete(key)
            else:
                place_of(store, key).write_bytes(b"foreign\n")
                store.acquire(key, LONG).release()
                Path(store.path(key) + UNREADABLE).unlink()
            store.ping()
            store.purge(10)
    finally:
        done.set()
        cleaner.join()
    assert store.live("ada") == {}


def test_a_cleaner_of_all_that_is_empty_does_no_harm(store: FileStore, clock: Clock) -> None:
    key = stored(store, a_record(user="ada"))
    for _ in range(2):
        subprocess.run(["find", store.root, "-empty", "-delete"], check=True)  # noqa: S607
        assert store.load(key) == a_record(user="ada")
        assert save(store, key, 1)
        commit(store, key, a_record(user="ada"))
        store.ping()
        assert list(store.live("ada")) == [key]
        store.delete(stored(store))
    store.delete(key)
    subprocess.run(["find", store.root, "-empty", "-delete"], check=True)  # noqa: S607
    stored(store)
    Path(store.root, file._MARKER).write_bytes(b"")  # as it was in an earlier version
    store = open_store(Path(store.root), clock)
    subprocess.run(["find", store.root, "-empty", "-delete"], check=True)  # noqa: S607
    assert store.count() == 1


def test_an_empty_file_that_a_cleaner_removes_while_it_is_quarantined_is_no_session(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = place_of(store, store.new_key())
    path.touch()
    real = os.replace
    monkeypatch.setattr(os, "replace", lambda *paths: (path.unlink(), real(*paths)))
    hold = store.acquire(path.name, SHORT)
    assert hold.record is None
    assert session_files(store.root) == []


def test_the_check_does_what_a_session_does(store: FileStore, clock: Clock) -> None:
    stored(store)
    before = session_files(store.root)
    store.ping()
    assert session_files(store.root) == before
    assert (store.count(), len(list(store.scan()))) == (1, 1)
    with files_no_larger_than(10), pytest.raises(Unavailable, match="File too large"):
        store.ping()
    assert session_files(store.root) == before
    in_the_way = Path(store.root, next(name for name in map("{:02x}".format, range(256)) if name != before[0][-64:-62]))
    in_the_way.write_bytes(b"")  # no folder: what any session may meet
    with pytest.raises(Unavailable, match=f"Permission denied: '{in_the_way}'"):
        store.ping()
    with pytest.raises(sessions.ConfigError, match=f"cannot keep sessions in {in_the_way}: "):
        open_store(Path(store.root), clock)
    in_the_way.unlink()
    store.ping()


def test_a_folder_that_has_gone_is_a_503_that_leaves_the_cookie_alone(site: WsgiClient) -> None:
    (store,) = registry.stores(site.app)
    os.rename(store.root, store.root + ".away")
    answer = site.get()
    assert (answer.status, list(answer.cookies)) == (503, [])
    assert answer.headers["retry-after"] == "5"
    assert store.root not in answer.text
    os.rename(store.root + ".away", store.root)
    assert site.get().text == "6"


def test_a_journal_stays_small_and_keeps_the_last_state(store: FileStore) -> None:
    for fill in (0, 5000, 30_000):
        key = store.new_key()
        store.create(key, a_record({"n": 0}))
        for n in range(1, 400):
            save(store, key, n, fill)
            assert os.path.getsize(store.path(key)) <= max(COMPACT_AT, 3 * (fill + 200)) + fill + 200
        assert count_of(store.load(key)) == 399
    assert len([name for name in session_files(store.root) if not name.endswith(LOCK)]) == 3


# -------------------------------------------------------------------- cleaning


def test_finished_sessions_leave_nothing_behind(store: FileStore, clock: Clock) -> None:
    keys = [stored(store) for _ in range(30)]
    for key in keys[:10]:
        store.delete(key)
    for key in keys[10:20]:
        grow(store, key)
        save(store, key, 1)
        store.acquire(key, LONG).delete()
    commit(store, keys[20], Record.tombstone(keys[21], NOW))
    clock.now = NOW + 1000
    assert store.purge(100) == 10
    assert session_files(store.root) == []
    assert len(store.locks) == 0


def test_old_leftovers_are_removed_and_young_ones_kept(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    key = store.new_key()
    for suffix in (".new", ".unreadable"):
        place_of(store, key, suffix).write_bytes(b"x")

    def after(seconds: float) -> list[str]:
        later = SimpleNamespace(time=lambda: time.time() + seconds, monotonic=time.monotonic)
        monkeypatch.setattr(file, "time", later)
        store.purge(10)
        return [name.removeprefix(key) for name in session_files(store.root)]

    assert after(3000) == [".new", ".unreadable"]
    assert after(4000) == [".unreadable"]
    assert after(6 * 86400) == [".unreadable"]
    assert after(8 * 86400) == []


def test_a_file_that_is_just_being_made_is_left_alone(store: FileStore) -> None:
    path = place_of(store, store.new_key())
    path.touch()
    assert store.purge(10) == 0
    assert path.exists()


def test_a_file_that_makes_no_sense_is_quarantined_by_the_cleaner_with_an_event(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, events = store.new_key(), list[Event]()
    place_of(store, key).write_bytes(b"foreign\n")
    monkeypatch.setattr(file, "time", SimpleNamespace(time=lambda: time.time() + 100, monotonic=time.monotonic))
    with hearing(events.append, "quarantined"):
        assert store.purge(10) == 0
    assert [event.key for event in events] == [key]
    assert session_files(store.root) == [f"{key}.unreadable"]


def test_the_cleaner_goes_on_past_a_file_that_it_may_not_read(
    store: FileStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = sorted((stored(store) for _ in range(5)), key=lambda key: key[-64:])
    clock.now = NOW + 1000
    real = os.open

    def refuse(path: str, *args: Any) -> int:
        if path == store.path(keys[0]):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return real(path, *args)

    monkeypatch.setattr(os, "open", refuse)
    with logged() as lines:
        assert store.purge(10) == 4
    assert [line for line in lines if "the cleaner could not look at" in line and keys[0] in line]


def test_a_record_copied_to_another_key_is_not_that_session(store: FileStore) -> None:
    mine, theirs = store.new_key(), store.new_key()
    store.create(mine, a_record())
    shutil.copy(store.path(mine), place_of(store, theirs))
    with pytest.raises(CorruptRecord, match="checksum"):
        store.load(theirs)


def test_neither_the_id_nor_its_name_is_in_the_store(site: WsgiClient) -> None:
    id = site.cookies["session_id"]
    (store,) = registry.stores(site.app)
    for path in Path(store.root).rglob("*"):
        assert id not in path.name
        assert path.is_dir() or id.encode() not in path.read_bytes()


def test_a_folder_that_cannot_be_used_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(sessions.ConfigError, match=r"^storage_path: cannot keep sessions in .*: Not a directory$"):
        FileStore(storage_path=str(tmp_path / "file" / "sessions"))


def test_an_open_folder_is_warned_of(tmp_path: Path) -> None:
    (tmp_path / "sessions").mkdir(mode=0o755)
    with logged() as lines:
        open_store(tmp_path / "sessions", Clock())
    assert [line for line in lines if "chmod 700" in line]


def test_a_session_that_stays_locked_is_a_503_that_comes_in_time(site: WsgiClient) -> None:
    (store,) = registry.stores(site.app)
    hold = FileStore(storage_path=store.root).acquire(file_of(site).name, SHORT)  # another process, as it were
    answer = site.get()
    assert (answer.status, answer.headers["retry-after"], list(answer.cookies)) == (503, "1", [])
    hold.release()
    assert site.get().text == "6"
