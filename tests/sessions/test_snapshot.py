"""RAM sessions with a snapshot: there again after a stop, and after a kill none that was ended since."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import cherrypy
import pytest

import sessions
from sessions import ConfigError, Record, Unavailable
from sessions.backends import ram
from sessions.backends.ram import RamSession, RamStore
from sessions.options import Settings
from sessions.registry import registry
from sessions.testing import LONG, NOW, Clock, a_record, commit, count_of, opened, stored
from tests.support.application import Counter, application, logged
from tests.support.client import WsgiClient
from tests.support.process import ROOT, folder
from tests.support.site import Site, run


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
        store.start()
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
    client = WsgiClient(application(Counter(), snapshot_path=str(path)))
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
    client = WsgiClient(application(Counter(), snapshot_path=str(path)))
    for n in ("1", "2", "3"):
        assert client.get().text == n
        sessions.close_stores(client.app)


# ---------------------------------------------------------------- one process at a time, and the next one after it

FORKS = [os.fork, ctypes.PyDLL(None).fork]  # uWSGI forks as the second does: Python is not told


class Worker:
    """A process of a server that has made the store before it forked. Its `work` goes on from yield to yield."""

    def __init__(self, work: Callable[[], Iterator[None]], fork: Callable[[], int] = os.fork) -> None:
        (orders, self._order), (self._reports, report) = os.pipe(), os.pipe()
        self.pid = fork()
        if not self.pid:
            try:
                for _ in work():
                    os.write(report, b".")
                    os.read(orders, 1)
                os._exit(0)
            finally:
                os._exit(1)
        os.close(orders)
        os.close(report)

    def reports(self) -> None:
        """Wait for the next yield."""
        assert os.read(self._reports, 1) == b"."

    def ends(self) -> None:
        """Let it go on behind its last yield, and wait for its end."""
        os.write(self._order, b".")
        assert os.waitpid(self.pid, 0)[1] == 0, "the work failed"
        os.close(self._order)
        os.close(self._reports)


@pytest.mark.parametrize("fork", FORKS, ids=["os.fork", "fork"])
def test_a_worker_takes_over_all_that_its_predecessor_has_saved(path: Path, fork: Callable[[], int]) -> None:
    store = opened(lambda: RamStore(snapshot_path=str(path)), Clock())
    keys = [store.new_key() for _ in range(3)]

    def work(n: int) -> Iterator[None]:
        for key in keys[:n]:
            assert count_of(store.load(key)) == 1
        store.create(keys[n], a_record({"n": 1}))
        yield
        store.close()

    workers = [Worker(lambda: work(0), fork)]
    workers[0].reports()
    workers.append(Worker(lambda: work(1), fork))  # while the first has it
    workers[0].ends()
    workers[1].reports()
    workers[1].ends()
    assert [count_of(store.load(key)) for key in keys] == [1, 1, -1]
    store.close()


def test_a_store_that_was_not_used_leaves_the_snapshot_as_it_is(reopen: Callable[[], RamStore], path: Path) -> None:
    store = reopen()
    stored(store)
    store.close()
    before = path.read_bytes()
    RamStore(snapshot_path=str(path)).close()  # that of a server which has forked its workers
    assert path.read_bytes() == before


def test_a_page_that_forks_keeps_the_snapshot_to_itself(
    reopen: Callable[[], RamStore], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ram, "HANDOVER", 0.0)
    store = reopen()
    key = stored(store)

    def child() -> Iterator[None]:
        for use in (store.start, lambda: store.load(key), lambda: store.delete(key)):
            with pytest.raises(Unavailable, match="another process uses"):
                use()
        store.checkpoint()
        store.close()
        yield

    worker = Worker(child)
    worker.reports()
    worker.ends()
    assert not path.exists() and store.load(key)
    store.close()
    assert reopen().load(key)


def test_a_process_that_was_killed_has_let_go_though_what_it_forked_lives_on(
    reopen: Callable[[], RamStore], path: Path
) -> None:
    lives, end = os.pipe()

    def work(store: RamStore) -> None:
        stored(store)
        store.checkpoint()
        began, begins = os.pipe()
        if not os.fork():
            os.close(end)
            os.write(begins, b".")
            os.read(lives, 1)  # until the test is over
            os._exit(0)
        os.read(began, 1)  # the fork has given up what it inherited

    killed(work, path)
    assert reopen().count() == 1
    os.close(lives)
    os.close(end)


def test_a_snapshot_that_another_process_keeps_is_waited_for_once_and_then_a_503(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ram, "HANDOVER", 0.05)

    def hold() -> Iterator[None]:
        other = opened(lambda: RamStore(snapshot_path=str(path)), Clock())
        stored(other)
        yield
        other.close()

    worker = Worker(hold)
    worker.reports()
    client = WsgiClient(application(Counter(), snapshot_path=str(path)))
    (store,) = registry.stores(client.app)
    tries: list[bool] = []
    assert isinstance(store, RamStore) and store._snapshot
    take = store._snapshot.take
    monkeypatch.setattr(store._snapshot, "take", lambda: [tries.append(take()), tries[-1]][1])
    assert client.get().status == 503 and len(tries) > 2
    tries.clear()
    assert client.get().status == 503 and len(tries) == 2
    worker.ends()
    assert client.get().text == "1" and store.count() == 2
    sessions.close_stores(client.app)


def test_what_a_late_request_writes_after_the_stop_is_refused_and_not_lost(path: Path) -> None:
    class Late(Counter):
        @cherrypy.expose
        def late(self) -> str:
            sessions.close_stores(app)
            return self.index()

    app = application(Late(), snapshot_path=str(path))
    client = WsgiClient(app)
    assert client.get().text == "1"
    assert client.get("/late").status == 503
    assert client.get().text == "2"
    sessions.close_stores(app)


def test_a_program_that_ends_without_closing_its_stores_has_written_the_snapshot(
    reopen: Callable[[], RamStore], path: Path
) -> None:
    """Not every WSGI server has a hook for the end of a worker, and not every site uses it."""
    code = (
        "import sys; from sessions.backends.ram import RamStore; from sessions.testing import a_record\n"
        "store = RamStore(snapshot_path=sys.argv[1]); store.create(store.new_key(), a_record())"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, check=True)
    assert reopen().count() == 1


def test_several_processes_that_share_nothing_are_told_so(path: Path) -> None:
    client = WsgiClient(application(Counter(), snapshot_path=str(path)))
    app = client.app.wsgiapp.head = client.app.wsgiapp.tail
    client.app.wsgiapp.head = lambda environ, start: app({**environ, "wsgi.multiprocess": True}, start)
    with logged() as said:
        assert [client.get().text for _ in range(2)] == ["1", "2"]
    (line,) = said
    assert line.startswith("RamStore: each process of the server has sessions of its own: start a single one")
    sessions.close_stores(client.app)


def test_a_second_site_is_refused_at_its_start_with_one_line() -> None:
    place = folder()
    with Site("ram", config={"/": {"tools.sessions.snapshot_path": str(place / "snapshot")}}) as site:
        ended = run("--profile", "ram", "--port", "0", "--config", str(site.scratch / "extra.conf"))
    shutil.rmtree(place)
    assert ended.returncode and re.fullmatch("[^\\n]+snapshot_path: another process uses [^\\n]+\n", ended.stderr)
