"""Rule 6: locks are fair within a process, bounded in time and number, and leave nothing behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from sessions import LockTimeout, locks
from sessions.locks import FairLocks, Waiting, poll

LONG = 10.0  # seconds that nothing here takes


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> Waiting:
    """A count of this test alone, which lets five wait."""
    own = Waiting(limit=5)
    monkeypatch.setattr(locks, "waiting", own)
    return own


def until(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + LONG
    while not happened():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.0005)


@contextmanager
def running(*targets: Callable[[], None]) -> Iterator[None]:
    threads = [threading.Thread(target=target, daemon=True) for target in targets]
    for thread in threads:
        thread.start()
    yield
    for thread in threads:
        thread.join(LONG)
        assert not thread.is_alive()


def test_who_came_first_is_served_first(waiting: Waiting) -> None:
    table, order = FairLocks(), list[int]()

    def take(n: int) -> None:
        table.acquire("key", LONG)
        order.append(n)
        table.release("key")

    table.acquire("key", LONG)
    threads = [threading.Thread(target=take, args=(n,)) for n in range(5)]
    for n, thread in enumerate(threads):
        thread.start()
        until(lambda n=n: waiting.count > n)
    table.release("key")
    for thread in threads:
        thread.join(LONG)
    assert order == [0, 1, 2, 3, 4]
    assert (len(table), waiting.count) == (0, 0)


def test_who_releases_and_takes_again_stands_behind_those_who_wait(waiting: Waiting) -> None:
    table, order = FairLocks(), list[str]()
    table.acquire("key", LONG)

    def take() -> None:
        table.acquire("key", LONG)
        order.append("the one who waited")
        table.release("key")

    with running(take):
        until(lambda: waiting.count == 1)
        table.release("key")
        table.acquire("key", LONG)
        order.append("the one who had it")
        table.release("key")
    assert order == ["the one who waited", "the one who had it"]


class Outside:
    """Stands for a lock that other processes see."""

    closed = False

    def close(self) -> None:
        self.closed = True


def test_the_outside_lock_is_passed_to_those_who_waited_when_the_round_began_and_to_nobody_else(
    waiting: Waiting,
) -> None:
    table, got, outside = FairLocks(), list[object](), Outside()

    def take() -> None:
        table.acquire("key", LONG)
        got.append(table.passed("key"))
        table.pass_on("key", outside)
        table.release("key")

    table.acquire("key", LONG)
    assert table.passed("key") is None, "who finds the key free is the first of a round"
    assert not table.pass_on("key", outside), "there is nobody"
    with running(take):
        until(lambda: waiting.count == 1)
        table.begin_round("key")
        with running(take):
            until(lambda: waiting.count == 2)
            assert table.pass_on("key", outside)
            table.release("key")
    assert got == [outside, None]
    assert not outside.closed and len(table) == 0


def test_an_outside_lock_passed_to_nobody_is_let_go(waiting: Waiting) -> None:
    table, outside = FairLocks(), Outside()

    def refused() -> None:
        with pytest.raises(LockTimeout):
            table.acquire("key", 0.05)

    table.acquire("key", LONG)
    with running(refused):
        until(lambda: waiting.count == 1)
        table.begin_round("key")
        assert table.pass_on("key", outside)
    table.release("key")
    assert outside.closed and len(table) == 0


def test_different_keys_do_not_wait_for_each_other() -> None:
    table = FairLocks()
    for n in range(50):
        table.acquire(str(n), 0)
    assert len(table) == 50


def test_a_wait_ends_in_time_and_leaves_nothing_behind(waiting: Waiting) -> None:
    table = FairLocks()
    table.acquire("key", LONG)
    for timeout in (0.02, 0, -1):
        with pytest.raises(LockTimeout):
            table.acquire("key", timeout)
    assert (len(table), waiting.count) == (1, 0)
    table.release("key")
    assert len(table) == 0
    table.acquire("key", 0)


def test_a_thread_that_gave_up_is_passed_over(waiting: Waiting) -> None:
    table, got = FairLocks(), threading.Event()
    table.acquire("key", LONG)

    def take() -> None:
        table.acquire("key", LONG)
        got.set()
        table.release("key")

    with pytest.raises(LockTimeout):
        table.acquire("key", 0.01)
    with running(take):
        until(lambda: waiting.count == 1)
        table.release("key")
        assert got.wait(LONG)


def test_trying_does_not_wait() -> None:
    table = FairLocks()
    assert table.try_acquire("key")
    assert not table.try_acquire("key")
    table.release("key")
    assert table.try_acquire("key")


def test_a_photo_finish_of_timeout_and_hand_over_loses_no_lock() -> None:
    """The waiter's time ends within microseconds of the release, 400 times: either way the key is free afterwards."""
    table = FairLocks()
    outcomes = {"got": 0, "gave up": 0}

    def take(seconds: float) -> None:
        try:
            table.acquire("key", seconds)
        except LockTimeout:
            outcomes["gave up"] += 1
        else:
            outcomes["got"] += 1
            table.release("key")

    pause = 0.001
    for n in range(400):
        got_before = outcomes["got"]
        table.acquire("key", LONG)
        thread = threading.Thread(target=take, args=(0.001,))
        thread.start()
        time.sleep(pause)
        table.release("key")
        thread.join(LONG)
        pause += 0.00001 if outcomes["got"] > got_before else -0.00001  # closes in on the finish
        assert len(table) == 0, f"a lock is left behind after {n} races"
    assert sum(outcomes.values()) == 400
    assert all(outcomes.values()), f"no race took place: {outcomes}"


def test_a_key_handed_to_a_thread_that_is_refused_at_that_moment_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forced: the holder lets go after the newcomer has queued and before it is told that too many wait."""
    table = FairLocks()

    class Full(Waiting):
        @contextmanager
        def one_more(self) -> Iterator[None]:
            table.release("key")
            raise LockTimeout("too many")
            yield

    monkeypatch.setattr(locks, "waiting", Full())
    table.acquire("key", LONG)
    with pytest.raises(LockTimeout):
        table.acquire("key", LONG)
    assert len(table) == 0
    assert table.try_acquire("key")


def test_one_too_many_is_refused_at_once(waiting: Waiting) -> None:
    table = FairLocks()
    table.acquire("key", LONG)

    def take() -> None:
        table.acquire("key", LONG)
        table.release("key")

    with running(*[take] * 5):
        until(lambda: waiting.count == 5)
        began = time.monotonic()
        with pytest.raises(LockTimeout, match="5 requests are waiting"):
            table.acquire("key", LONG)
        assert time.monotonic() - began < 1
        table.acquire("another key", LONG)  # not waiting, so not counted
        table.release("another key")
        table.release("key")
    assert (len(table), waiting.count) == (0, 0)


def test_the_limit_counts_all_keys_and_polling_too(waiting: Waiting) -> None:
    waiting.limit = 1
    table = FairLocks()
    table.acquire("a", LONG)

    def take() -> None:
        table.acquire("a", LONG)
        table.release("a")

    with running(take):
        until(lambda: waiting.count == 1)
        with pytest.raises(LockTimeout, match="waiting"):
            poll(lambda: False, LONG, "b")
        table.release("a")


def test_changes_of_the_number_are_told(waiting: Waiting) -> None:
    table, told = FairLocks(), list[int]()
    waiting.changed = told.append
    table.acquire("key", LONG)
    with pytest.raises(LockTimeout):
        table.acquire("key", 0.01)
    assert told == [1, 0]


def test_polling_ends_with_success_or_in_time(waiting: Waiting) -> None:
    answers = iter([False, False, True])
    poll(lambda: next(answers), LONG, "it")
    with pytest.raises(LockTimeout, match="it was locked by another process"):
        poll(lambda: False, 0.02, "it")
    with pytest.raises(LockTimeout):
        poll(lambda: False, -1, "it")
    assert waiting.count == 0


def test_many_threads_on_few_keys_exclude_each_other_and_leave_nothing() -> None:
    """Races are left to chance here: 8 threads, 300 rounds, 3 keys."""
    table, inside, broken = FairLocks(), dict.fromkeys("abc", 0), list[str]()

    def work(n: int) -> None:
        for round_ in range(300):
            key = "abc"[(n + round_) % 3]
            table.acquire(key, LONG)
            inside[key] += 1
            if inside[key] != 1:
                broken.append(key)
            inside[key] -= 1
            table.release(key)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
    assert broken == []
    assert len(table) == 0
