"""A disk that really is full: what frees space works. Signing out, ending sessions, and the cleaner do."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import cherrypy
import psycopg
import pytest

import sessions
from sessions import Session
from sessions.backends.ram import RamStore
from sessions.testing import a_record
from sessions.tool import reference
from tests.support.backends import postgresql, table_of
from tests.support.members import SignInApp, sign_in_app

SECRET = "what nobody else may read"  # noqa: S105 -- a value in a session


@contextmanager
def small_disk(path: Path, options: str = "size=4m,nr_inodes=2000") -> Iterator[None]:
    """A disk at `path`; the test is skipped where this machine or user may not mount one."""
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("no disk can be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", str(path)], check=True)  # noqa: S607 -- found where root finds it


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("disk")
    with small_disk(path):
        yield path


@pytest.fixture(scope="module", params=["file", "ram"])
def opened(request: pytest.FixtureRequest, disk: Path) -> Iterator[SignInApp]:
    options = {"file": {"storage_path": str(disk / "file")}, "ram": {"snapshot_path": str(disk / "ram" / "snapshot")}}
    with sign_in_app(request.param, disk, **options[request.param]) as site:
        yield site


class Filler:
    """Leaves no room on a disk for a byte, or for a file."""

    def __init__(self, disk: Path, what: str) -> None:
        self._folder, self._what = disk / "filler", what

    def __call__(self) -> None:
        self._folder.mkdir()
        if self._what != "inodes":
            with suppress(OSError), open(self._folder / "bytes", "wb", buffering=0) as file:
                while True:
                    file.write(b"x" * 4096)
        if self._what != "blocks":
            with suppress(OSError):
                for n in range(2000):
                    (self._folder / str(n)).touch()

    def undo(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


@pytest.fixture(params=["blocks", "inodes", "both"])
def fill(request: pytest.FixtureRequest, disk: Path) -> Iterator[Filler]:
    filler = Filler(disk, request.param)
    yield filler
    filler.undo()


@pytest.fixture
def site(opened: SignInApp, disk: Path) -> Iterator[SignInApp]:
    opened.reset()
    for _ in range(2):  # snapshots, and a file for the ends to come that takes no room yet
        opened.store.checkpoint()
    yield opened
    opened.ahead = 1e6
    opened.store.purge(1000)
    opened.reset()


def stored(disk: Path) -> list[str]:
    """What is left of any session: the files with something in them."""
    return [path.name for path in disk.glob("file/??/*") if path.stat().st_size]


def sign_out(session: Session) -> None:
    session.sign_out()


def sign_out_and_say_so(session: Session) -> None:
    session.sign_out()
    session["flash"] = "You have signed out."


def sign_out_elsewhere(session: Session) -> None:
    session.sign_out()
    raise cherrypy.HTTPRedirect("/")


def sign_out_in_a_block(session: Session) -> None:
    with sessions.session_lock() as inside:
        inside.sign_out()


def delete(session: Session) -> None:
    session.delete()


def expire(session: Session) -> None:
    sessions.expire()


@pytest.mark.parametrize("visits", [0, 1], ids=["not yet locked", "locked before"])
@pytest.mark.parametrize(
    "end", [sign_out, sign_out_and_say_so, sign_out_elsewhere, sign_out_in_a_block, delete, expire]
)
def test_who_signs_out_is_signed_out(
    site: SignInApp, disk: Path, fill: Filler, end: Callable[[Session], None], visits: int
) -> None:
    browser = site.browser()
    browser.run(lambda session: (session.sign_in("ada"), session.update(secret=SECRET)))
    for _ in range(visits):
        assert browser.user() == "ada"
    twin = browser.twin()
    site.store.checkpoint()
    fill()
    assert browser.do(end).status in (200, 303)
    assert browser.user() is None
    assert twin.run(lambda session: (session.user, dict(session))) == "(None, {})"
    assert stored(disk) == []
    assert site.store.live("ada") == {}
    assert len(site.store.locks) == 0


@pytest.mark.parametrize("checkpoints", [1, 2])
def test_a_session_that_ended_does_not_come_back_after_a_kill_and_the_others_do(
    disk: Path, fill: Filler, tmp_path: Path, checkpoints: int
) -> None:
    path = disk / tmp_path.name / "snapshot"
    key, other = (RamStore().new_key() for _ in range(2))
    pid = os.fork()
    if not pid:
        try:
            store = RamStore(snapshot_path=str(path))
            for one in (key, other):
                store.create(one, a_record(deadline=time.time() + 600))
            for _ in range(checkpoints):
                store.checkpoint()
            fill()
            store.delete(key)
            with suppress(OSError):
                store.checkpoint()
            os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
    fill.undo()
    with closing(RamStore(snapshot_path=str(path))) as store:
        assert [store.load(one) is not None for one in (key, other)] == [False, True]
    shutil.rmtree(path.parent)


def test_the_other_sessions_of_a_user_can_be_ended(site: SignInApp, disk: Path, fill: Filler) -> None:
    here, there = site.signed_in(), site.signed_in()
    assert [one.user() for one in (here, there)] == ["ada", "ada"]
    lost = site.signed_in()
    for path in disk.glob(f"file/??/{site.store.key_of(lost.cookies['session_id'])}*"):
        path.unlink()  # so the index has an entry too many
    fill()
    assert here.run(lambda session: sessions.end_session(reference(there.cookies["session_id"]))) == "True"
    assert (here.user(), there.user()) == ("ada", None)


def test_who_signs_out_of_a_table_that_cannot_grow_is_signed_out(tmp_path: Path) -> None:
    server, folder = postgresql(), Path(tempfile.mkdtemp(prefix="sessions-full-disk-"))
    folder.chmod(0o755)  # the server cannot pass tmp_path
    with small_disk(folder, "size=2m"), ExitStack() as stack:
        place = folder / "tablespace"
        place.mkdir()
        shutil.chown(place, "nobody", "nogroup")
        admin = stack.enter_context(psycopg.connect(server.dsn, autocommit=True))
        admin.execute(f"CREATE TABLESPACE small LOCATION '{place}'")
        stack.callback(admin.execute, "DROP TABLESPACE small")
        with sign_in_app("postgresql", tmp_path) as site:
            table = table_of(tmp_path)
            admin.execute(f"ALTER TABLE {table} SET TABLESPACE small")
            stack.callback(admin.execute, f"DROP TABLE {table}")
            browser = site.signed_in()
            twin = browser.twin()
            with suppress(OSError), open(folder / "filler", "wb", buffering=0) as filler:
                while True:
                    filler.write(b"x" * 4096)
            while site.browser().do(lambda session: session.update(n=1)).status == 200:
                pass
            assert browser.do(sign_out).status == 200
            assert (browser.user(), twin.user(), site.store.live("ada")) == (None, None, {})
    folder.rmdir()


def test_the_cleaner_removes_what_has_expired(site: SignInApp, disk: Path, fill: Filler) -> None:
    browsers = [site.browser() for _ in range(5)]
    for browser in browsers:
        browser.run(lambda session: session.update(secret=SECRET))
    assert browsers[0].run(lambda session: session["secret"]) == SECRET  # locked, the others not
    kept = len(stored(disk))
    fill()
    site.ahead = 3600.0
    assert site.store.purge(100) == 5
    assert len(stored(disk)) == kept - 5 if kept else True


def test_who_cannot_be_given_a_new_id_stays_signed_in(site: SignInApp, fill: Filler) -> None:
    """Only an end frees space. A sign-in, or a page that keeps its values, is a 503 that changes nothing."""
    if site.store.capabilities.shared is False:
        return  # in memory there is room
    browser = site.browser()
    browser.run(lambda session: session.update(secret=SECRET))
    ada = site.signed_in()
    fill()
    for one, work in (
        (browser, lambda session: session.sign_in("ada")),
        (browser, lambda session: session.regenerate()),
        (ada, lambda session: session.regenerate()),
        (ada, lambda session: session.sign_in("ada")),
    ):
        answer = one.do(work)
        assert (answer.status, list(answer.cookies)) == (503, [])
    assert browser.run(lambda session: (session.user, dict(session))) == f"(None, {{'secret': '{SECRET}'}})"
    assert ada.user() == "ada"
