"""What becomes of sessions when the site is restarted, killed, run twice, or finds its files damaged."""

from __future__ import annotations

import http.client
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.conftest import PASSWORD, survives_restart
from tests.support.backends import environment_of
from tests.support.client import JSON, CheckedClient
from tests.support.process import folder
from tests.support.site import Site

KILLS = 8
# Not cookie, whose clients each count in a copy of their own; not memcached, where a killed site's lock has to run out.
KEEPING = ["file", "functions", "postgresql"]
GONE = (OSError, http.client.HTTPException)  # what a client sees of a site that was killed


@pytest.fixture
def storage() -> Iterator[Path]:
    """A folder for the sessions of several sites."""
    path = folder()
    yield path / "sessions"
    shutil.rmtree(path)


@pytest.mark.parametrize("profile", ["ram", "file"], indirect=True)
def test_a_restart_keeps_the_sessions_of_a_profile_that_promises_it(profile: str) -> None:
    with Site(profile, env={"DEMO_PASSWORD": PASSWORD}) as site:
        visitor = CheckedClient(site.url)
        assert [visitor.count(), visitor.count()] == [1, 2]
        visitor.sign_in(PASSWORD)
        site.restart()
        kept = survives_restart(profile)
        assert visitor.user() == ("ada" if kept else None)
        assert visitor.get("/account").status == (200 if kept else 303)
        assert visitor.count() == (3 if kept else 1)


def test_two_processes_lose_no_visit_of_eight_clients(storage: Path) -> None:
    with ExitStack() as stack, ThreadPoolExecutor(8) as pool:
        sites = [stack.enter_context(Site("file", storage=storage)) for _ in range(2)]
        first = CheckedClient(sites[0].url)
        assert first.count() == 1
        clients = [CheckedClient(sites[n % 2].url, dict(first.cookies)) for n in range(8)]
        counts = [count for counted in pool.map(lambda client: [client.count() for _ in range(50)], clients)
                  for count in counted]  # fmt: skip
        assert sorted(counts) == list(range(2, 402))


@pytest.mark.parametrize("surviving", KEEPING)
def test_no_acknowledged_visit_is_lost_when_the_site_is_killed(surviving: str) -> None:
    with Site(surviving, env=environment_of(surviving)) as site:
        visitor = CheckedClient(site.url)
        acknowledged = [visitor.count()]
        for kill in range(KILLS):
            acknowledged += count_until_killed(site, visitor, after=5 + 7 * kill)
            site.restart()
            acknowledged.append(visitor.count())
            assert acknowledged[-1] == max(acknowledged)
        assert len(set(acknowledged)) == len(acknowledged), "a visit was acknowledged twice: one of them was lost"


def count_until_killed(site: Site, visitor: CheckedClient, after: int) -> list[int]:
    """Let two clients count in one session, kill the site after so many answers, and return the counts."""
    counts: list[int] = []
    enough = threading.Event()

    def count(client: CheckedClient) -> None:
        while True:
            try:
                counts.append(client.count())
            except GONE:
                return
            finally:
                if len(counts) >= after:
                    enough.set()

    with ThreadPoolExecutor(2) as pool:
        clients = [pool.submit(count, visitor.twin()) for _ in range(2)]
        assert enough.wait(60)
        site.kill()  # while both are at it
        for client in clients:
            client.result(60)
    return counts


@pytest.fixture
def damaged() -> Iterator[tuple[Site, CheckedClient, Path, bytes]]:
    """A site, a visitor with a session, its file, and what is in it."""
    with Site("file", env={"DEMO_PASSWORD": PASSWORD}) as site:
        visitor = CheckedClient(site.url)
        visitor.sign_in(PASSWORD)
        for _ in range(3):
            visitor.count()
        [path] = [path for path in site.storage.glob("*/*") if path.is_file() and b'"count":3' in path.read_bytes()]
        yield site, visitor, path, path.read_bytes()


def write(path: Path, content: bytes) -> None:
    """Put the content into a session's file, as its owner."""
    path.write_bytes(content)
    parent = path.parent.stat()
    shutil.chown(path, parent.st_uid, parent.st_gid)
    path.chmod(0o600)


def test_every_prefix_of_a_session_file_is_an_older_state_or_a_new_session(
    damaged: tuple[Site, CheckedClient, Path, bytes],
) -> None:
    _, visitor, path, whole = damaged
    for length in range(len(whole) + 1):
        write(path, whole[:length])
        lines = whole[:length].count(b"\n")
        reader = visitor.twin()
        assert reader.get("/account").status == (200 if lines else 303), length
        write(path, whole[:length])  # the first request has set the file aside
        # The last whole line is the state: signing in wrote one line without a count, each visit one more.
        counted = whole[:length].splitlines()[lines - 1].count(b'"count"') if lines else 0
        assert visitor.twin().count() == (lines if counted else 1), length


def test_no_flipped_bit_of_a_session_file_is_an_error(damaged: tuple[Site, CheckedClient, Path, bytes]) -> None:
    _, visitor, path, whole = damaged
    for position in range(len(whole)):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << position % 8
        write(path, bytes(flipped))
        answer = visitor.twin().get("/account", **JSON)
        assert answer.json == {"user": "ada"} if answer.status == 200 else answer.status == 401, position
        # An earlier line may be damaged without harm; the last one is the state, and it is whole or nothing.
        assert visitor.twin().count() in (1, 2, 3, 4)
