"""Rule 6: locks are fair within a process, bounded in time and number, and leave nothing behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import cherrypy
import pytest

from sessions import Unavailable, locks
from sessions.backends.ram import RamStore
from sessions.errors import LockTimeout, TooManyWaiting
from sessions.locks import FairLocks, Waiting, poll
from sessions.testing import a_record
from tests.support.application import application, logged
from tests.support.client import WsgiClient

LONG = 10.0  # seconds that nothing here takes


class Counted(Waiting):
    """A count of one test alone."""

    def __init__(self) -> None:
        super().__init__()
        self._condition = threading.Condition()
        self.changed = self._tell

    def _tell(self, count: int) -> None:
        with self._condition:
            self._condition.notify_all()

    def until(self, count: int) -> None:
        """Return when so many threads wait."""
        with self._condition:
            assert self._condition.wait_for(lambda: self.count == count, LONG), f"{self.count} threads wait"


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> Counted:
    own = Counted()
    monkeypatch.setattr(locks, "waiting", own)
    return own


@contextmanager
def running(*targets: Callable[[], None]) -> Iterator[None]:
    threads = [threading.Thread(target=target, daemon=True) for target in targets]
    for thread in threads:
        thread.start()
    yield
    for thread in threads:
        thread.join(LONG)
        assert not thread.is_alive()


def test_who_came_first_is_served_first(waiting: Counted) -> None:
    table, order = FairLocks(), list[int]()

    def take(n: int) -> None:
        table.acquire("key", LONG)
        order.append(n)
        table.release("key")

    table.acquire("key", LONG)
    threads = [threading.Thread(target=take, args=(n,)) for n in range(5)]
    for n, thread in enumerate(threads):
        thread.start()
        waiting.until(n + 1)
    table.release("key")
    for thread in threads:
        thread.join(LONG)
    assert order == [0, 1, 2, 3, 4]
    assert (len(table), waiting.count) == (0, 0)


def test_who_releases_and_takes_again_stands_behind_those_who_wait(waiting: Counted) -> None:
    table, order = FairLocks(), list[str]()
    table.acquire("key", LONG)

    def take() -> None:
        table.acquire("key", LONG)
        order.append("the one who waited")
        table.release("key")

    with running(take):
        waiting.until(1)
        table.release("key")
        table.acquire("key", LONG)
        order.append("the one who had it")
        table.release("key")
    assert order == ["the one who waited", "the one who had it"]


def test_an_outage_that_the_holder_met_refuses_those_who_wait_and_nobody_else(waiting: Counted) -> None:
    table, refused = FairLocks(), list[Unavailable]()

    def wait() -> None:
        with pytest.raises(Unavailable, match="no answer from 192.0.2.1") as caught:
            table.acquire("key", LONG)
        refused.append(caught.value)

    table.acquire("key", LONG)
    table.refuse("key", Unavailable("nobody waits: it does no harm"))
    with running(wait, wait, wait):
        waiting.until(3)
        table.refuse("key", Unavailable("no answer from 192.0.2.1"))
    assert len(set(map(id, refused))) == 3, "threads share an error, and write their tracebacks into it"
    assert not table.try_acquire("key"), "the holder has it still"
    with pytest.raises(LockTimeout):
        table.acquire("key", 0.01)
    table.release("key")
    assert (len(table), waiting.count) == (0, 0)


@pytest.mark.parametrize("step", ["_hold", "load", "save"])
def test_an_outage_at_any_step_of_a_hold_refuses_those_who_wait(waiting: Counted, step: str) -> None:
    """Also one that is met when the session is saved: whoever comes next would only meet it again."""
    store = RamStore()
    key = store.create(store.new_key(), a_record())
    asked, down = list[str](), threading.Event()

    def fail(*_: object) -> None:
        asked.append(step)
        down.set()
        waiting.until(2)
        raise Unavailable("no answer")

    def visit() -> None:
        with pytest.raises(Unavailable, match="no answer"):
            store.acquire(key, LONG).commit(a_record())

    setattr(store, step, fail)
    with running(visit):
        assert down.wait(LONG)
        with running(visit, visit):
            pass
    assert asked == [step]
    assert len(store.locks) == 0


def test_different_keys_do_not_wait_for_each_other() -> None:
    table = FairLocks()
    for n in range(50):
        table.acquire(str(n), 0)
    assert len(table) == 50


def test_a_wait_ends_in_time_and_leaves_nothing_behind(waiting: Counted) -> None:
    table = FairLocks()
    table.acquire("key", LONG)
    for timeout in (0.02, 0, -1):
        with pytest.raises(LockTimeout):
            table.acquire("key", timeout)
    assert (len(table), waiting.count) == (1, 0)
    table.release("key")
    assert len(table) == 0
    table.acquire("key", 0)


def test_a_thread_that_gave_up_is_passed_over(waiting: Counted) -> None:
    table, got = FairLocks(), threading.Event()
    table.acquire("key", LONG)

    def take() -> None:
        table.acquire("key", LONG)
        got.set()
        table.release("key")

    with pytest.raises(LockTimeout):
        table.acquire("key", 0.01)
    with running(take):
        waiting.until(1)
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
        def one_more(self, limit: int, place: int = 1) -> Iterator[None]:
            table.release("key")
            raise LockTimeout("too many")
            yield

    monkeypatch.setattr(locks, "waiting", Full())
    table.acquire("key", LONG)
    with pytest.raises(LockTimeout):
        table.acquire("key", LONG)
    assert len(table) == 0
    assert table.try_acquire("key")


def test_one_too_many_is_refused_at_once(waiting: Counted) -> None:
    table = FairLocks()
    table.max_waiting = 10
    table.acquire("key", LONG)

    def take() -> None:
        table.acquire("key", LONG)
        table.release("key")

    with running(*[take] * 5):
        waiting.until(5)
        with pytest.raises(TooManyWaiting, match="5 requests .* 5 of them .* tools.sessions.max_waiting is 10"):
            table.acquire("key", LONG)
        table.acquire("another key", LONG)  # not waiting, so not counted
        table.release("another key")
        table.release("key")
    assert (len(table), waiting.count) == (0, 0)


def test_sessions_that_many_wait_for_leave_places_to_others(waiting: Counted) -> None:
    """However many there are, whoever comes next finds as many places as each of them has."""
    table = FairLocks()
    table.max_waiting = 12
    places = list[int]()
    for key in ("a", "b", "c"):
        table.acquire(key, LONG)

    def take(key: str) -> Callable[[], None]:
        def run() -> None:
            table.acquire(key, LONG)
            table.release(key)

        return run

    with ExitStack() as stack:
        for key, most in (("a", 6), ("b", 3), ("c", 2)):
            for n in range(most):
                stack.enter_context(running(take(key)))
                waiting.until(sum(places) + n + 1)
            places.append(most)
            with pytest.raises(TooManyWaiting):
                table.acquire(key, LONG)
        for key in ("a", "b", "c"):
            table.release(key)
    assert (len(table), waiting.count) == (0, 0)


@pytest.mark.parametrize("storage_type", ["ram", "file"])
def test_who_is_one_too_many_is_told_why(waiting: Counted, storage_type: str, tmp_path: Path) -> None:
    inside, go_on = threading.Semaphore(0), threading.Event()

    class Page:
        @cherrypy.expose
        def index(self) -> str:
            cherrypy.session["n"] = cherrypy.session.get("n", 0) + 1
            inside.release()
            assert go_on.wait(LONG)
            return str(cherrypy.session["n"])

    own = {"storage_path": str(tmp_path)} if storage_type == "file" else {}
    app = application(Page(), storage_type=storage_type, max_waiting=2, **own)
    visitor, counts = WsgiClient(app), list[int]()
    go_on.set()
    visitor.get()
    go_on.clear()
    inside.acquire()

    def visit() -> None:
        counts.append(int(visitor.twin().get().text))

    with running(visit):
        inside.acquire()
        with running(visit):
            waiting.until(1)
            with logged() as lines:
                refused = visitor.get()
            go_on.set()
    assert (refused.status, refused.headers["retry-after"]) == (503, "1")
    assert "Too many requests are waiting" in refused.text and not refused.cookies
    assert [line for line in lines if "tools.sessions.max_waiting is 2" in line]
    assert sorted(counts) == [2, 3]


def test_the_limit_counts_all_keys_and_polling_too(waiting: Counted) -> None:
    table = FairLocks()
    table.acquire("a", LONG)

    def take() -> None:
        table.acquire("a", LONG)
        table.release("a")

    with running(take):
        waiting.until(1)
        with pytest.raises(TooManyWaiting):
            poll(lambda: False, LONG, "b", max_waiting=1)
        table.release("a")


def test_changes_of_the_number_are_told(waiting: Counted) -> None:
    table, told = FairLocks(), list[int]()
    waiting.changed = told.append
    table.acquire("key", LONG)
    with pytest.raises(LockTimeout):
        table.acquire("key", 0.01)
    assert told == [1, 0]


def test_polling_ends_with_success_or_in_time(waiting: Counted) -> None:
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
