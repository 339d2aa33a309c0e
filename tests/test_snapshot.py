"""RAM sessions with a snapshot: there again after a stop, and after a kill none that was ended since."""

from __future__ import annotations

import os
import signal
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import sessions
from sessions import ConfigError, Record, Unavailable
from sessions.backends.ram import RamSession, RamStore
from sessions.options import Settings
from sessions.registry import registry
from sessions.testing import LONG, NOW, Clock, a_record, commit, count_of, opened, stored

from .wsgi import Client, Counter, application, logged


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "kept" / "snapshot"


@pytest.fixture
def reopen(path: Path) -> Iterator[Callable[[], RamStore]]:
    """Opens the store; the one opened before must be closed, or its process dead. The last one is closed here."""
    stores: list[RamStore] = []

    def reopen() -> RamStore:
        store = opened(lambda: RamStore(snapshot_path=str(path)), Clock())
        assert isinstance(store, RamStore)
        stores.append(store)
        return store

    yield reopen
    if stores:
        stores[-1].close()


def killed(work: Callable[[RamStore], None], path: Path) -> None:
    """Let a process open the store, do its `work`, and be killed: it closes nothing."""
    pid = os.fork()
    if not pid:
        try:
            work(opened(lambda: RamStore(snapshot_path=str(path)), Clock()))  # type: ignore[arg-type]
            os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL, "the work failed"


def test_sessions_are_there_again_after_a_stop(reopen: Callable[[], RamStore]) -> None:
    store = reopen()
    keys = [store.new_key() for _ in range(50)]
    for n, key in enumerate(keys):
        store.create(key, a_record({"n": n, "text": "é\n"}))
    store.delete(keys[0])
    store.close()
    store = reopen()
    assert [count_of(store.load(key)) for key in keys] == [-1, *range(1, 50)]


def test_a_stop_and_a_checkpoint_write_the_same(reopen: Callable[[], RamStore], path: Path) -> None:
    store = reopen()
    stored(store)
    store.checkpoint()
    first = path.read_bytes()
    store.close()
    assert path.read_bytes() == first
    assert reopen().count() == 1


def test_nobody_else_can_read_a_snapshot(reopen: Callable[[], RamStore], path: Path) -> None:
    before = os.umask(0)
    try:
        store = reopen()
        stored(store)
        store.checkpoint()
        store.checkpoint()
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    for name in ("snapshot", "snapshot.previous", "snapshot.deleted", "snapshot.deleted.previous"):
        assert stat.S_IMODE((path.parent / name).stat().st_mode) == 0o600, name


@pytest.mark.parametrize("damage", ["torn", "torn between lines", "flipped", "empty", "foreign", "short count"])
def test_a_damaged_snapshot_is_quarantined_and_the_previous_one_used(
    reopen: Callable[[], RamStore], path: Path, damage: str
) -> None:
    store = reopen()
    old, new = store.new_key(), store.new_key()
    store.create(old, a_record({"n": 1}))
    store.checkpoint()
    store.create(new, a_record({"n": 2}))
    store.close()
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    flipped = bytearray(whole)
    flipped[len(whole) // 3] ^= 1
    path.write_bytes({
        "torn": whole[: len(whole) // 2], "torn between lines": b"".join(lines[:-1]), "flipped": bytes(flipped),
        "empty": b"", "foreign": b"\x80\x04 a pickle\n", "short count": b"".join([lines[0], lines[-1]]),
    }[damage])  # fmt: skip
    with logged() as said:
        store = reopen()
    assert len(said) == 1
    assert "quarantined" in said[0]
    assert (count_of(store.load(old)), count_of(store.load(new))) == (1, -1)
    assert path.with_name("snapshot.unreadable").exists()


def test_no_prefix_of_a_snapshot_stops_the_start(reopen: Callable[[], RamStore], path: Path) -> None:
    store = reopen()
    for n in range(3):
        store.create(store.new_key(), a_record({"n": n}))
    store.close()
    whole = path.read_bytes()
    for length in range(0, len(whole), 5):
        for other in path.parent.iterdir():
            other.unlink()
        path.write_bytes(whole[:length])
        store = reopen()
        assert store.count() == 0
        store.close()
    reopen()


@pytest.mark.parametrize("how", ["deleted", "moved", "deleted by a hold"])
@pytest.mark.parametrize("snapshots_since", [0, 1])
def test_a_session_that_ended_after_the_last_snapshot_stays_ended_after_a_kill(
    reopen: Callable[[], RamStore], path: Path, how: str, snapshots_since: int
) -> None:
    ended, live = f"0123abcd-{'a' * 64}", f"0123abcd-{'b' * 64}"

    def work(store: RamStore) -> None:
        store.create(ended, a_record({"n": 1}))
        store.create(live, a_record({"n": 2}))
        store.checkpoint()
        if how == "deleted":
            store.delete(ended)
        elif how == "moved":
            commit(store, ended, Record.tombstone(live, NOW))
        else:
            store.acquire(ended, LONG).delete()
        for _ in range(snapshots_since):
            store.checkpoint()

    killed(work, path)
    store = reopen()
    record = store.load(ended)
    assert record is None or record == Record.tombstone(live, NOW)
    assert count_of(store.load(live)) == 2


def test_a_session_that_ended_stays_ended_though_the_newest_snapshot_is_torn(
    reopen: Callable[[], RamStore], path: Path
) -> None:
    ended = f"0123abcd-{'a' * 64}"

    def work(store: RamStore) -> None:
        store.create(ended, a_record())
        store.checkpoint()
        store.delete(ended)
        store.checkpoint()

    killed(work, path)
    path.write_bytes(path.read_bytes()[:-3])
    assert reopen().load(ended) is None


def test_a_kill_between_the_two_renames_of_a_snapshot_loses_nothing(
    reopen: Callable[[], RamStore], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after the old snapshot was put by and before the new one is in place; twice."""
    kept, ended = f"0123abcd-{'a' * 64}", f"0123abcd-{'b' * 64}"

    def work(store: RamStore) -> None:
        if store.load(kept) is None:
            store.create(kept, a_record({"n": 1}))
            store.create(ended, a_record({"n": 2}))
            store.checkpoint()
            store.delete(ended)
        monkeypatch.setattr(os, "fsync", lambda fd: os.kill(os.getpid(), signal.SIGKILL))
        store.checkpoint()

    for _ in range(2):
        killed(work, path)
        assert not path.exists()
    store = reopen()
    assert count_of(store.load(kept)) == 1
    assert store.load(ended) is None


def test_the_old_id_of_a_login_is_dead_after_a_kill(reopen: Callable[[], RamStore], path: Path) -> None:
    settings, cookie = Settings(RamSession), f"session_id={'a' * 43}"

    def work(store: RamStore) -> None:
        first = RamSession(store, settings, cookie)
        store.create(first.claimed_key, a_record({"n": 1}))
        store.checkpoint()
        first.sign_in("ada")
        first.save()

    killed(work, path)
    assert RamSession(reopen(), settings, cookie).missing


@pytest.mark.parametrize("wrong", ["below a file", "a directory"])
def test_a_path_that_cannot_be_used_is_one_clear_line(tmp_path: Path, wrong: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "directory").mkdir()
    path = tmp_path / ("file/snapshot" if wrong == "below a file" else "directory")
    for _ in range(2):  # the second time it must not say that another process uses it
        with pytest.raises(ConfigError) as caught:
            RamStore(snapshot_path=str(path))
        assert str(caught.value).startswith("snapshot_path: cannot keep a snapshot at ")
        assert "\n" not in str(caught.value)


def test_the_end_of_a_session_that_cannot_be_noted_is_a_503(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(application(Counter(), snapshot_path=str(path)))
    assert client.get().text == "1"
    (store,) = registry.stores(client.app)
    assert isinstance(store, RamStore)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(Unavailable, match="No space left"):
            store.delete(next(iter(store._records)))
    assert client.get().text == "2", "what could not be noted was not done"
    sessions.close_stores(client.app)


def test_a_snapshot_that_cannot_be_written_is_tried_again_and_the_last_one_kept(
    reopen: Callable[[], RamStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = reopen()
    key = store.new_key()
    store.create(key, a_record({"n": 1}))
    store.checkpoint()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda fd: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        for _ in range(3):
            with pytest.raises(OSError, match="No space"):
                store.checkpoint()
        with pytest.raises(OSError, match="No space"):
            store.close()  # lets go of the file all the same
    assert count_of(reopen().load(key)) == 1


def test_the_site_counts_on_after_a_stop(path: Path) -> None:
    client = Client(application(Counter(), snapshot_path=str(path)))
    for n in ("1", "2", "3"):
        assert client.get().text == n
        sessions.close_stores(client.app)
