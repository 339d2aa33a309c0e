"""The contract of a backend, as tests: whoever passes them can be trusted with sessions.

A backend of your own is tested with a handful of lines and pytest:

    from functools import partial
    import pytest
    from sessions.testing import StoreContract

    class TestMyStore(StoreContract):
        @pytest.fixture
        def factory(self, tmp_path):
            return partial(MyStore, path=str(tmp_path))     # called anew, it opens the same storage again

The factory must be picklable, for other processes open the store too. What a store declares in its `facts` is proved,
not believed. A test that cannot hold for a backend is overridden in its subclass, with the reason.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from . import codec
from .errors import CannotList, LockTimeout, TooLarge
from .locks import waiting
from .record import Record
from .store import Store

Factory = Callable[[], Store]

NOW = 2_000_000_000.0  # the tests' own clock begins here: no store may look at another
LONG = 30.0  # seconds that nothing here takes
SHORT = 0.05  # seconds to wait for what must not happen
NAMESPACE = "0123abcd-"


class Clock:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


def a_record(data: Any = None, *, deadline: float = NOW + 600, user: str = "", remembered: bool = False) -> Record:
    """A record with some data that was made a minute ago."""
    return Record(codec.encode(data or {"name": "Ada"}), NOW - 60, deadline, user, remembered)


def count_of(record: Record | None) -> int:
    """The counter in a record; -1 for no record."""
    return int(codec.decode(record.data)["n"]) if record else -1


def add_one(store: Store, key: str, times: int) -> None:
    """Count up under the lock, as a page does."""
    for _ in range(times):
        hold = store.acquire(key, LONG)
        record = hold.record
        assert record, "the session has gone"
        assert hold.commit(Record(codec.encode({"n": count_of(record) + 1}), record.created, record.deadline))


def opened(factory: Factory, clock: Callable[[], float]) -> Store:
    """A store as the tool would open it."""
    store = factory()
    store.clock, store.namespace = clock, NAMESPACE
    return store


def a_session(store: Store, data: Any = None) -> tuple[str, str]:
    """Store a session as the tool would; its id and its key."""
    id = secrets.token_urlsafe(32)
    key = store.key_of(id)
    store.create(key, a_record(data))
    return id, key


def load_by(store: Store, cookie: str) -> Record | None:
    """What a browser's cookie leads to."""
    found = store.find(cookie)
    return store.load(found[1]) if found else None


def _count_up(factory: Factory, cookie: str, times: int, found: Any) -> None:
    """In a process of its own: count, if the session is there; say whether it was."""
    store = opened(factory, Clock())
    here = load_by(store, cookie) is not None
    found.put(here)
    if here:
        named = store.find(cookie)
        assert named
        add_one(store, named[1], times)
    store.close()


def _hold_until_killed(factory: Factory, key: str, held: Any) -> None:
    hold = opened(factory, Clock()).acquire(key, LONG)
    held.put(hold.record is not None)
    signal.pause()


def _take_a_turn(factory: Factory, key: str, told: Any) -> None:
    store = opened(factory, Clock())
    told.put(time.time())
    hold = store.acquire(key, LONG)
    told.put(time.time())
    hold.release()


@contextlib.contextmanager
def process(target: Callable[..., None], *args: Any) -> Iterator[Any]:
    """Run `target` in a new interpreter; it is ended in any case."""
    child = multiprocessing.get_context("spawn").Process(target=target, args=args)
    child.start()
    try:
        yield child
    finally:
        child.kill()
        child.join()


class StoreContract:
    """What every store must do. A subclass defines the fixture `factory`."""

    @pytest.fixture
    def factory(self) -> Factory:
        """A callable that opens the store."""
        raise NotImplementedError("define a fixture `factory` that returns a callable which opens your store")

    @pytest.fixture
    def clock(self) -> Clock:
        return Clock()

    @pytest.fixture
    def store(self, factory: Factory, clock: Clock) -> Iterator[Store]:
        store = opened(factory, clock)
        yield store
        store.close()

    def damage(self, store: Store, key: str) -> None:
        """Make the stored record of `key` unreadable. Override it if your store can meet such a record."""
        assert store.replace(key, Record(b"no JSON", NOW, NOW - 1))

    # ---------------------------------------------------------------- records

    def test_an_unknown_key_is_missing_and_no_error(self, store: Store) -> None:
        key = store.new_key()
        assert store.load(key) is None
        store.delete(key)
        hold = store.acquire(key, LONG)
        assert hold.record is None
        hold.release()

    def test_a_record_comes_back_as_it_was_stored(self, store: Store) -> None:
        key, record = store.new_key(), a_record({"text": "é\n\0 😀", "n": [1, 2.5, None]})
        store.create(key, record)
        assert store.load(key) == record

    def test_a_record_of_the_size_it_declares_comes_back_whole(self, store: Store) -> None:
        key, record = store.new_key(), a_record({"text": "x" * ((store.facts.max_bytes or 2_000_000) - 20)})
        store.create(key, record)
        assert store.load(key) == record

    def test_a_record_above_its_limit_is_refused_and_the_one_before_stays(self, store: Store) -> None:
        if store.facts.max_bytes is None:
            return  # the test above has stored more than any session should hold
        key, before = store.new_key(), a_record()
        store.create(key, before)
        with pytest.raises(TooLarge, match="bytes"):
            store.acquire(key, LONG).commit(a_record({"text": "x" * (2 * store.facts.max_bytes)}))
        assert store.load(key) == before
        store.acquire(key, LONG).release()

    def test_records_of_different_keys_do_not_mix(self, store: Store) -> None:
        keys = [store.new_key() for _ in range(20)]
        for n, key in enumerate(keys):
            store.create(key, a_record({"n": n}))
        store.delete(keys[0])
        assert [count_of(store.load(key)) for key in keys] == [-1, *range(1, 20)]

    def test_replace_stores_the_new_record(self, store: Store) -> None:
        key = store.new_key()
        store.create(key, a_record({"n": 1}))
        for n in range(2, 200):  # enough for a store that tidies up now and then
            assert store.replace(key, a_record({"n": n, "fill": "x" * n}))
            assert count_of(store.load(key)) == n

    def test_replace_does_not_make_a_record(self, store: Store) -> None:
        key = store.new_key()
        assert not store.replace(key, a_record())
        assert store.load(key) is None

    def test_replace_does_not_bring_back_a_deleted_record(self, store: Store) -> None:
        key = store.new_key()
        store.create(key, a_record())
        store.delete(key)
        assert not store.replace(key, a_record())
        assert store.load(key) is None

    def test_replace_does_not_bring_back_a_session_that_moved(self, store: Store) -> None:
        key, moved = store.new_key(), Record(b"", NOW, NOW + 60)
        store.create(key, a_record())
        assert store.replace(key, moved)
        assert not store.replace(key, a_record())
        assert not store.acquire(key, LONG).commit(a_record())
        assert store.load(key) == moved

    def test_a_deadline_can_be_moved_alone(self, store: Store) -> None:
        key = store.new_key()
        store.create(key, a_record(deadline=NOW + 100))
        for deadline in (NOW + 900, NOW + 50):
            assert store.acquire(key, LONG).commit(a_record(deadline=deadline))
            assert store.load(key) == a_record(deadline=deadline)

    def test_a_store_that_is_there_answers_a_ping(self, store: Store) -> None:
        store.ping()  # raises Unavailable if not
        assert store.load(store.new_key()) is None

    # ---------------------------------------------------------------- users

    def live(self, store: Store, user: str | None) -> dict[str, Record]:
        """The live sessions of a user by key; that there are none where the backend says that it cannot tell."""
        if store.facts.lists:
            return dict(store.live(user))
        with pytest.raises(CannotList, match="cannot"):
            list(store.live(user))
        return {}

    @pytest.mark.parametrize("user", ["ada", "a/../b c", "é\n\0=+\\%", "x" * 300])
    @pytest.mark.parametrize("remembered", [False, True])
    def test_whose_a_session_is_comes_back_as_it_was_stored(self, store: Store, user: str, remembered: bool) -> None:
        key, record = store.new_key(), a_record({"n": 1}, user=user, remembered=remembered)
        store.create(key, record)
        assert store.load(key) == record
        assert store.acquire(key, LONG).commit(a_record({"n": 2}, user=user, remembered=remembered))
        assert store.load(key) == a_record({"n": 2}, user=user, remembered=remembered)
        listed = self.live(store, user)
        assert listed == ({key: store.load(key)} if store.facts.lists else {})

    def test_the_sessions_of_a_user_are_found_and_no_others(self, store: Store) -> None:
        keys = {user: [store.new_key() for _ in range(3)] for user in ("ada", "bob", "")}
        for user, of_user in keys.items():
            for key in of_user:
                store.create(key, a_record(user=user))
        assert set(self.live(store, "ada")) == (set(keys["ada"]) if store.facts.lists else set())
        store.delete(keys["ada"][0])
        store.acquire(keys["ada"][1], LONG).delete()
        assert set(self.live(store, "ada")) == ({keys["ada"][2]} if store.facts.lists else set())
        assert self.live(store, "nobody") == {}

    def test_a_session_that_changed_hands_is_nobodys_any_more(self, store: Store) -> None:
        key = store.new_key()
        store.create(key, a_record(user="ada"))
        assert store.acquire(key, LONG).commit(a_record(user=""))
        assert store.load(key) == a_record(user="")
        assert [record for record in self.live(store, "ada").values() if record.user == "ada"] == []

    def test_a_session_that_was_renewed_or_rewritten_is_still_found(self, store: Store) -> None:
        key = store.new_key()
        store.create(key, a_record(user="ada"))
        for n in range(150):  # enough for a store that tidies up now and then
            assert store.acquire(key, LONG).commit(a_record({"n": n, "x": "x" * n}, user="ada", deadline=NOW + 600 + n))
        assert set(self.live(store, "ada")) == ({key} if store.facts.lists else set())

    def test_two_applications_do_not_see_each_others_users(self, store: Store) -> None:
        if store.facts.shared:  # else an application has its store alone
            store.create(store.new_key(), a_record(user="ada"))
            store.namespace = "ffffffff-"
            assert self.live(store, "ada") == {}

    def test_users_who_sign_in_and_out_at_once_are_all_found(self, store: Store) -> None:
        """Races are left to chance here: 8 threads, 20 sign-ins each, every second one ended again."""
        found: list[str] = []

        def sign_in() -> None:
            for n in range(20):
                key = store.new_key()
                store.create(key, a_record(user="ada"))
                if n % 2:
                    store.delete(key)
                else:
                    found.append(key)

        threads = [threading.Thread(target=sign_in) for _ in range(8)]
        for thread in threads:
            thread.start()
        for _ in range(20):
            self.live(store, "ada")  # which may tidy up
        for thread in threads:
            thread.join()
        assert set(self.live(store, "ada")) == (set(found) if store.facts.lists else set())

    def test_the_cleaner_leaves_nothing_of_a_user_to_find(self, store: Store, clock: Clock) -> None:
        if not store.facts.purges:
            return
        for seconds in (10, 10, 100):
            store.create(store.new_key(), a_record(user="ada", deadline=NOW + seconds))
        clock.now = NOW + 50
        assert store.purge(100) == 2
        found = [record.deadline for record in self.live(store, "ada").values()]
        assert found == ([NOW + 100] if store.facts.lists else [])

    def test_an_unreadable_record_does_not_hide_the_others_of_its_user(self, store: Store) -> None:
        keys = [store.new_key() for _ in range(3)]
        for key in keys:
            store.create(key, a_record(user="ada"))
        self.damage(store, keys[1])
        assert set(self.live(store, "ada")) - {keys[1]} == ({keys[0], keys[2]} if store.facts.lists else set())

    def test_everybodys_sessions_are_listed_or_it_is_said_that_they_cannot_be(self, store: Store) -> None:
        users = ["ada", "bob", ""]
        for user in users:
            store.create(store.new_key(), a_record(user=user))
        try:
            listed = dict(store.live(None))
        except CannotList as error:
            assert "cannot" in str(error)
        else:
            assert sorted(record.user for record in listed.values()) == sorted(users)

    # ---------------------------------------------------------------- holds

    def test_commit_saves_and_lets_go(self, store: Store) -> None:
        key = store.new_key()
        store.create(key, a_record({"n": 1}))
        for n in (1, 2, 3):
            hold = store.acquire(key, LONG)
            assert count_of(hold.record) == n
            assert hold.commit(a_record({"n": n + 1}))
        assert count_of(store.load(key)) == 4

    def test_release_lets_go_without_saving(self, store: Store) -> None:
        key = store.new_key()
        store.create(key, a_record({"n": 1}))
        hold = store.acquire(key, LONG)
        hold.release()
        hold.release()
        add_one(store, key, 1)
        assert count_of(store.load(key)) == 2

    def test_a_held_session_is_nobody_elses(self, store: Store) -> None:
        key = store.new_key()
        store.create(key, a_record())
        hold = store.acquire(key, LONG)
        with pytest.raises(LockTimeout):
            store.acquire(key, SHORT)
        other = store.new_key()
        store.create(other, a_record())
        store.acquire(other, SHORT).release()
        hold.release()
        store.acquire(key, LONG).release()

    def test_a_hold_can_delete(self, store: Store) -> None:
        key = store.new_key()
        store.create(key, a_record())
        store.acquire(key, LONG).delete()
        assert store.load(key) is None
        hold = store.acquire(key, LONG)
        assert hold.record is None
        assert not hold.commit(a_record())
        assert store.load(key) is None

    @pytest.mark.parametrize("size", [10, 100_000])
    def test_a_session_deleted_while_held_stays_deleted(self, store: Store, size: int) -> None:
        """Whether the deletion is done at once, so that the save is refused, or waits until the holder has saved."""
        key = store.new_key()
        store.create(key, a_record())
        hold = store.acquire(key, LONG)
        deletion = threading.Thread(target=store.delete, args=(key,))
        deletion.start()
        deletion.join(1)
        waits = deletion.is_alive()
        size = min(size, (store.facts.max_bytes or size) // 2)
        assert hold.commit(a_record({"fill": "x" * size})) is waits
        deletion.join(LONG)
        assert store.load(key) is None

    def test_an_unreadable_record_can_be_set_aside(self, store: Store) -> None:
        key = store.new_key()
        store.create(key, Record(b"no JSON", NOW, NOW + 600))
        store.acquire(key, LONG).set_aside(ValueError("no JSON"))
        assert store.load(key) is None

    def test_increments_from_many_threads_are_all_counted(self, store: Store) -> None:
        """Races are left to chance here: 8 threads, 50 times each."""
        key = store.new_key()
        store.create(key, a_record({"n": 0}))
        threads = [threading.Thread(target=add_one, args=(store, key, 50)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert count_of(store.load(key)) == 400
        assert len(store.locks) == 0, "locks are left behind"

    def test_threads_get_the_session_in_the_order_in_which_they_came(self, store: Store) -> None:
        """The order is forced: the next thread starts when the one before is counted as waiting."""
        key, order = store.new_key(), list[int]()
        store.create(key, a_record())

        def take(n: int) -> None:
            hold = store.acquire(key, LONG)
            order.append(n)
            hold.release()

        hold = store.acquire(key, LONG)
        threads = [threading.Thread(target=take, args=(n,)) for n in range(5)]
        for n, thread in enumerate(threads):
            thread.start()
            _wait_until_waiting(n + 1)
        hold.release()
        for thread in threads:
            thread.join()
        assert order == [0, 1, 2, 3, 4]

    @pytest.mark.parametrize("end", ["delete", "set_aside"])
    def test_a_session_that_ends_while_others_wait_for_it_is_gone_for_them(self, store: Store, end: str) -> None:
        key, found = store.new_key(), list[Record | None]()
        store.create(key, a_record())

        def look() -> None:
            hold = store.acquire(key, LONG)
            found.append(hold.record)
            hold.release()

        first, threads = store.acquire(key, LONG), [threading.Thread(target=look) for _ in range(3)]
        for n, thread in enumerate(threads):
            thread.start()
            _wait_until_waiting(n + 1)
        store.locks.begin_round(key)  # as the first of those who wait does
        first.delete() if end == "delete" else first.set_aside(ValueError("it makes no sense"))
        for thread in threads:
            thread.join()
        assert found == [None] * 3
        assert len(store.locks) == 0

    # ---------------------------------------------------------------- cleaning

    def test_purge_removes_what_has_expired_and_nothing_else(self, store: Store, clock: Clock) -> None:
        live, dead = store.new_key(), store.new_key()
        store.create(live, a_record(deadline=NOW + 100))
        store.create(dead, a_record(deadline=NOW + 10))
        clock.now = NOW + 50
        if not store.facts.purges:
            assert store.purge(100) == 0
            return
        assert store.purge(100) == 1
        assert store.load(dead) is None
        assert store.load(live) is not None

    def test_purge_removes_no_more_than_asked_and_goes_on_the_next_time(self, store: Store, clock: Clock) -> None:
        for _ in range(25):
            store.create(store.new_key(), a_record(deadline=NOW + 10))
        clock.now = NOW + 50
        expected = [10, 10, 5, 0] if store.facts.purges else [0] * 4
        assert [store.purge(10), store.purge(10), store.purge(10), store.purge(10)] == expected

    def test_purge_leaves_a_held_session_and_does_not_wait(self, store: Store, clock: Clock) -> None:
        key = store.new_key()
        store.create(key, a_record(deadline=NOW + 10))
        hold = store.acquire(key, LONG)
        clock.now = NOW + 50
        assert store.purge(100) == 0
        assert hold.commit(a_record(deadline=NOW + 100))
        assert store.purge(100) == 0
        assert store.load(key) == a_record(deadline=NOW + 100)

    def test_purge_leaves_a_renewed_session(self, store: Store, clock: Clock) -> None:
        key = store.new_key()
        store.create(key, a_record(deadline=NOW + 10))
        assert store.acquire(key, LONG).commit(a_record(deadline=NOW + 100))
        clock.now = NOW + 50
        assert store.purge(100) == 0
        assert store.load(key) is not None

    def test_purge_goes_on_past_an_unreadable_record(self, store: Store, clock: Clock) -> None:
        keys = [store.new_key() for _ in range(10)]
        for key in keys:
            store.create(key, a_record(deadline=NOW + 10))
        self.damage(store, keys[4])
        clock.now = NOW + 50
        assert store.purge(100) <= (10 if store.facts.purges else 0)
        if store.facts.purges:
            assert [store.load(key) for key in keys if key != keys[4]] == [None] * 9

    def test_count_is_the_number_of_live_sessions_of_this_application(self, store: Store, clock: Clock) -> None:
        if not store.facts.counts:
            with pytest.raises(NotImplementedError):
                store.count()
            return
        assert store.count() == 0
        for seconds in (10, 100, 100):
            store.create(store.new_key(), a_record(deadline=NOW + seconds))
        assert store.count() == 3
        clock.now = NOW + 50
        assert store.count() == 2
        if store.facts.shared:  # else the application has it alone
            store.namespace = "ffffffff-"
            assert store.count() == 0

    # ---------------------------------------------------------------- processes

    def test_sessions_survive_a_restart_if_the_store_says_so(self, factory: Factory, clock: Clock) -> None:
        store = opened(factory, clock)
        id, key = a_session(store)
        cookie = store.cookie_value(id, key)
        store.close()
        store = opened(factory, clock)
        assert load_by(store, cookie) == (a_record() if store.facts.survives_restart else None)
        store.close()

    def test_a_deleted_session_cannot_be_had_with_its_cookie_if_the_store_can_revoke(
        self, factory: Factory, clock: Clock
    ) -> None:
        store = opened(factory, clock)
        id, key = a_session(store)
        cookie = store.cookie_value(id, key)
        store.delete(key)
        store.leave(key)
        assert load_by(store, cookie) == (None if store.facts.revokes else a_record())
        store.close()

    def test_two_processes_count_one_session(self, store: Store, factory: Factory) -> None:
        """What is not shared, the other process must not see; what is not locked between processes, it sees but may
        miscount. Races are left to chance: 2 x 200."""
        id, key = a_session(store, {"n": 0})
        found = multiprocessing.get_context("spawn").Queue()
        with process(_count_up, factory, store.cookie_value(id, key), 200, found) as child:
            assert found.get(timeout=LONG) is store.facts.shared
            add_one(store, key, 200)
            child.join(LONG)
            assert child.exitcode == 0
        if store.facts.locks_processes:
            assert count_of(store.load(key)) == 400
        elif not store.facts.shared:
            assert count_of(store.load(key)) == 200

    def test_threads_of_one_process_let_another_process_have_its_turn(self, store: Store, factory: Factory) -> None:
        """Four threads want the session all the time, so it is never free. It is another's after two rounds at most."""
        if not store.facts.locks_processes:
            return  # it takes what it wants
        key, turns, enough = store.new_key(), list[float](), threading.Event()
        store.create(key, a_record())
        told = multiprocessing.get_context("spawn").Queue()

        def take_turns() -> None:
            while not enough.is_set():
                hold = store.acquire(key, LONG)
                turns.append(time.time())
                time.sleep(0.02)
                hold.release()

        threads = [threading.Thread(target=take_turns) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            with process(_take_a_turn, factory, key, told):
                came, had = told.get(timeout=LONG), told.get(timeout=LONG)
        finally:
            enough.set()
            for thread in threads:
                thread.join()
        assert sum(came < turn < had for turn in turns) <= 8

    def test_a_killed_holder_blocks_nobody(self, store: Store, factory: Factory) -> None:
        if not store.facts.locks_processes:
            return  # no other process can hold it
        key = store.new_key()
        store.create(key, a_record({"n": 0}))
        held = multiprocessing.get_context("spawn").Queue()
        with process(_hold_until_killed, factory, key, held) as child:
            assert held.get(timeout=LONG)
            with pytest.raises(LockTimeout):
                store.acquire(key, SHORT)
            os.kill(child.pid, signal.SIGKILL)
            add_one(store, key, 1)
        assert count_of(store.load(key)) == 1


def _wait_until_waiting(threads: int) -> None:
    end = time.monotonic() + LONG
    while waiting.count < threads:
        assert time.monotonic() < end, f"{waiting.count} threads wait, not {threads}"
        time.sleep(0.001)
