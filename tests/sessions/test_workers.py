"""The thread pool of CherryPy's server while requests wait for sessions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager

import cherrypy
import pytest
from cheroot.server import HTTPServer
from cheroot.workers.threadpool import ThreadPool

from sessions import locks
from tests.support.process import wait_until


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadPool]:
    """A real pool of three threads, watched, and calm again after a twentieth of a second."""
    monkeypatch.setattr(locks, "IDLE_SECONDS", 0.05)
    server = HTTPServer(("127.0.0.1", 0), gateway=None)
    pool = server.requests = ThreadPool(server, min=3)
    pool.start()
    monkeypatch.setattr(cherrypy.server, "httpserver", server)
    scaler = locks.ThreadPoolScaler()
    scaler.start()
    yield pool
    scaler.stop()
    pool.stop()


def waiting() -> AbstractContextManager[None]:
    return locks.waiting.one_more(limit=10)


def alive(pool: ThreadPool) -> int:
    return sum(thread.is_alive() for thread in pool._threads)


def test_the_pool_grows_while_threads_wait_and_shrinks_again_every_time(pool: ThreadPool) -> None:
    for _ in range(4):
        with waiting(), waiting(), waiting(), waiting():
            wait_until(lambda: alive(pool) >= 3 + 4)
        wait_until(lambda: alive(pool) == 3)


def test_a_pool_that_cannot_grow_is_tried_again(pool: ThreadPool, monkeypatch: pytest.MonkeyPatch) -> None:
    grow, failures = pool.grow, [RuntimeError("can't start new thread")]

    def grow_the_second_time(amount: int) -> None:
        if failures:
            raise failures.pop()
        grow(amount)

    monkeypatch.setattr(pool, "grow", grow_the_second_time)
    with waiting():
        wait_until(lambda: not failures)
        with waiting():
            wait_until(lambda: alive(pool) > 3)
