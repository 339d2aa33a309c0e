"""A site moves from files to PostgreSQL to Redis under load: nobody is signed out, and no visit is lost."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PASSWORD
from tests.support.backends import environment_of
from tests.support.client import CheckedClient
from tests.support.process import ROOT, account, environment, folder, wait_until
from tests.support.site import Site

CLIENTS = 8
MOVE_FROM, MOVE_TO = "tools.sessions.moving_from", "tools.sessions.moving_to"
ENV = {"DEMO_PASSWORD": PASSWORD}


@pytest.fixture
def storage() -> Iterator[Path]:
    path = folder()
    yield path / "sessions"
    shutil.rmtree(path)


class Load:
    """Eight people who count their visits at two processes by turns, until they are told to stop."""

    def __init__(self, sites: list[Site]) -> None:
        self.urls = [site.url for site in sites]
        self.people = [CheckedClient(self.urls[n % 2]) for n in range(CLIENTS)]
        self.counted = [[person.count()] for person in self.people]
        self._stop = threading.Event()

    def visit(self, number: int) -> None:
        turn = number
        while not self._stop.is_set():
            turn += 1
            self.people[number].url = self.urls[turn % 2]
            self.counted[number].append(self.people[number].count())

    def goes_on(self) -> None:
        """Wait until everybody has been here twice more."""
        before = [len(counted) for counted in self.counted]
        wait_until(lambda: all(len(now) > n + 2 for now, n in zip(self.counted, before, strict=True)), "visits")

    def __enter__(self) -> Load:
        self._pool = ThreadPoolExecutor(CLIENTS)
        self._jobs = [self._pool.submit(self.visit, n) for n in range(CLIENTS)]
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        for job in self._jobs:
            job.result(60)
        self._pool.shutdown()


def test_a_site_of_two_processes_moves_under_load_and_loses_no_visit(storage: Path) -> None:
    env = {**ENV, **environment_of("postgresql"), **environment_of("redis")}
    with ExitStack() as stack:

        def start(profile: str, port: int = 0, **options: Any) -> Site:
            return stack.enter_context(Site(profile, env=env, storage=storage, port=port, config={"/": options}))

        def change(profile: str, **options: Any) -> None:
            """Restart one process after the other, while a balancer sends everybody to the other one."""
            for n, site in enumerate(sites):
                load.urls[n] = load.urls[1 - n]
                load.goes_on()
                site.close()
                sites[n] = start(profile, site.port, **options)
                load.urls[n] = sites[n].url
                load.goes_on()

        sites = [start("file"), start("file")]
        member = CheckedClient(sites[0].url)
        member.sign_in(PASSWORD)
        with Load(sites) as load:
            for former, new in [("file", "postgresql"), ("postgresql", "redis")]:
                change(former, **{MOVE_TO: new})
                change(new, **{MOVE_FROM: former})
                assert "moved" in copied(former, new, env, storage)
                change(new)
        for person, counted in zip(load.people, load.counted, strict=True):
            assert counted == list(range(1, len(counted) + 1))
            assert person.count() == len(counted) + 1
        assert member.user() == "ada"


def copied(former: str, new: str, env: dict[str, str], storage: Path) -> str:
    """Run the command as an operator does, and return what it prints."""
    command = [sys.executable, "-m", "sessions", "copy", "--from", former, "--to", new]
    given = environment({**env, "STORAGE_PATH": str(storage)})
    done = subprocess.run(command, cwd=ROOT, env=given, capture_output=True, text=True, timeout=60, **account())
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_profile_that_does_not_exist_is_named_and_stops_the_start() -> None:
    with pytest.raises(AssertionError, match="moving_from: there is no profile 'fiel'. Did you mean 'file'"):
        Site("ram", config={"/": {MOVE_FROM: "fiel"}})
