"""The contract of a backend, as tests: whoever passes them can be trusted with sessions.

A backend of your own is tested with a handful of lines and pytest:

    from functools import partial
    import pytest
    from sessions.testing import StoreContract

    class TestMyStore(StoreContract):
        store_class = MyStore

        @pytest.fixture
        def factory(self, tmp_path):
            return partial(MyStore, path=str(tmp_path))     # called anew, it opens the same storage again

What the class declares in its `capabilities` decides which tests there are, and these prove it. The factory must be
picklable, for other processes open the store too; without one, `store_class` is called. Override `damage` if a record
can be unreadable in your store, `outage` if it has a server, `lose_lock` if that can forget a lock, and a test that
cannot hold for it, with the reason.
"""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext
from functools import partial
from typing import Any, ClassVar, TypeVar

import pytest

from . import codec
from .errors import CannotCount, CannotList, CorruptRecord, LockTimeout, TooLarge, Unavailable
from .events import Event, subscribe, unsubscribe
from .record import Record
from .store import Capabilities, Hold, Store

Factory = Callable[[], Store]
T = TypeVar("T")
Test = TypeVar("Test", bound=Callable[..., None])

NOW = 2_000_000_000.0  # the tests' own clock begins here: no store may look at another
LONG = 30.0  # seconds that nothing here takes
SHORT = 0.05  # seconds to wait for what must not happen
NAMESPACE, OTHER_NAMESPACE = "0123abcd-", "ffffffff-"
CLIENTS, VISITS, PAGE = 4, 25, 0.004  # threads in each of two processes, visits of each, seconds that one takes
FAIR_SHARES = 10  # how often all of them may have had their turn before a thread gets its own

_spawn = multiprocessing.get_context("spawn")


class Clock:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


def a_record(data: Any = None, *, deadline: float = NOW + 600, **fields: Any) -> Record:
    """Return a record with some data that was made a minute ago."""
    return Record(codec.encode(data or {"name": "Ada"}), NOW - 60, deadline, **fields)


def count_of(record: Record | None) -> int:
    """Return the counter in a record; -1 for no record."""
    return int(codec.decode(record.data)["n"]) if record else -1


def opened(factory: Factory, clock: Callable[[], float]) -> Store:
    """Open a store as the tool would."""
    store = factory()
    store.clock, store.namespace = clock, NAMESPACE
    return store


def stored(store: Store, record: Record | None = None) -> str:
    """Store a new session, and return its key."""
    return store.create(store.new_key(), record or a_record())


def commit(store: Store, key: str, record: Record) -> str:
    """Save a record in place of the one that is there, and return the key under which it is now."""
    hold = store.acquire(key, LONG)
    assert hold.commit(record)
    return hold.key


def add_one(store: Store, key: str, times: int, seconds: float = 0) -> list[int]:
    """Count up under the lock, as a page does that takes some seconds.

    Returns:
        How many visits of others each visit had to wait for.
    """
    waits = []
    for _ in range(times):
        before = count_of(store.load(key))
        hold = store.acquire(key, LONG)
        assert hold.record, "the session has gone"
        n = count_of(hold.record)
        waits.append(n - before)
        time.sleep(seconds)
        assert hold.commit(hold.record._replace(data=codec.encode({"n": n + 1})))
    return waits


def when_it_answers(call: Callable[[], T]) -> T:
    """Return what a call does, again and again while another thread finds out whether the server is back."""
    end = time.monotonic() + LONG
    while True:
        try:
            return call()
        except Unavailable:
            if time.monotonic() > end:
                raise
            time.sleep(SHORT)


@contextmanager
def hearing(note: Callable[[Event], None], *names: str) -> Iterator[None]:
    """Call a function at each event of these names."""
    subscribe(note, *names)
    try:
        yield
    finally:
        unsubscribe(note)


def in_threads(number: int, target: Callable[[], Any]) -> list[Any]:
    """Run a function in several threads at once, and return what they give."""
    with ThreadPoolExecutor(number) as pool:
        return [job.result(LONG) for job in [pool.submit(target) for _ in range(number)]]


@contextmanager
def queueing() -> Iterator[Callable[[Callable[[], Any]], Future[Any]]]:
    """Return a function that runs another in a thread, and returns when that waits for a session or has ended."""
    came, jobs = threading.Semaphore(0), list[Future[Any]]()

    def note(event: Any) -> None:
        came.release()

    def start(target: Callable[[], Any]) -> Future[Any]:
        jobs.append(pool.submit(target))
        jobs[-1].add_done_callback(note)
        assert came.acquire(timeout=LONG), "it neither waits nor ends"
        return jobs[-1]

    with hearing(note, "queued"), ThreadPoolExecutor(8) as pool:
        yield start
    for job in jobs:
        job.result()


@contextmanager
def process(target: Callable[..., Any], *args: Any) -> Iterator[Any]:
    """Run `target` in a new interpreter; it is ended in any case."""
    child = _spawn.Process(target=target, args=args)
    child.start()
    try:
        yield child
    finally:
        child.kill()
        child.join()


def _load(factory: Factory, key: str, answer: Any) -> None:
    with closing(opened(factory, Clock())) as store:
        answer.put(store.load(key))


def _visit(store: Store, key: str) -> int:
    """Let several clients count, and return how many visits of others was the longest wait."""
    return int(max(map(max, in_threads(CLIENTS, lambda: add_one(store, key, VISITS, PAGE)))))


def _visit_too(factory: Factory, key: str, ready: Any, longest: Any) -> None:
    with closing(opened(factory, Clock())) as store:
        ready.wait(LONG)
        longest.put(_visit(store, key))


def _hold_until_killed(factory: Factory, key: str, held: Any) -> None:
    hold = opened(factory, Clock()).acquire(key, LONG)
    held.put(hold.record is not None)
    threading.Event().wait()


def needs(*capabilities: str, absent: bool = False) -> Callable[[Test], Test]:
    """Collect a test only for a backend that declares all of these, or with `absent` for one that declares none. There
    are four more: 'damage', 'outage' and 'lose_lock', of a subclass that overrides the method of that name, and 'scan',
    of a backend that can list them all."""

    def mark(test: Test) -> Test:
        test.__dict__.setdefault("needs", []).extend((name, not absent) for name in capabilities)
        return test

    return mark


class StoreContract:
    """What every store must do.

    Attributes:
        store_class: the store to be tested.
        capabilities: what it is tested for; set it where an option makes that another than its class declares.
    """

    store_class: ClassVar[type[Store]]
    capabilities: ClassVar[Capabilities]

    def __init_subclass__(cls) -> None:
        if "capabilities" not in vars(cls):
            cls.capabilities = cls.store_class.capabilities
        for name, test in vars(StoreContract).items():
            if hasattr(test, "needs") and name not in vars(cls):
                collected = all(cls._can(capability) is wanted for capability, wanted in test.needs)
                setattr(cls, name, test if collected else None)

    @classmethod
    def _can(cls, capability: str) -> bool:
        if capability in ("damage", "outage", "lose_lock"):
            return getattr(cls, capability) is not getattr(StoreContract, capability)
        if capability == "scan":
            return cls.store_class.scan is not Store.scan
        return bool(getattr(cls.capabilities, capability))

    def damage(self, store: Store, key: str) -> None:
        """Make the stored record of `key` unreadable."""

    @contextmanager
    def outage(self, store: Store) -> Iterator[None]:
        """Stop the server for a block, as SIGSTOP does: it takes commands, and answers when it goes on."""
        yield

    def lose_lock(self, hold: Hold) -> None:
        """Let the server forget the lock of a hold, as one that restarts does, or that has not heard of it for long."""

    @pytest.fixture
    def factory(self) -> Factory:
        """A callable that opens the store."""
        return self.store_class

    @pytest.fixture
    def clock(self) -> Clock:
        return Clock()

    @pytest.fixture
    def store(self, factory: Factory, clock: Clock) -> Iterator[Store]:
        with closing(opened(factory, clock)) as store:
            yield store
            assert len(store.locks) == 0, "a lock is left behind"

    def test_an_unknown_key_is_missing_and_no_error(self, store: Store) -> None:
        key = store.new_key()
        assert store.load(key) is None
        store.delete(key)
        hold = store.acquire(key, LONG)
        assert hold.record is None
        assert not hold.commit(a_record()), "only create() makes a session"
        assert store.load(key) is None
        store.ping()  # raises Unavailable if the store is not there
        assert store.capabilities == self.capabilities

    @pytest.mark.parametrize("user", ["", "ada", "-", "a/../b c+", "é\n\0=%\\", "x" * 300], ids="{:.9}".format)
    @pytest.mark.parametrize("fields", [{}, {"remembered": True, "timeout": 2.5}], ids=["", "own limits"])
    def test_a_record_comes_back_as_it_was_stored(self, store: Store, user: str, fields: dict[str, Any]) -> None:
        record = a_record({"text": "é\n\0 😀", "n": [1, 2.5, None]}, user=user, **fields)
        key = stored(store, record)
        assert store.load(key) == record
        for change in ({"data": codec.encode({"n": 1})}, {"deadline": NOW + 900}, {"deadline": NOW + 50}):
            record = record._replace(**change)
            key = commit(store, key, record)
            assert store.load(key) == record

    def test_a_record_of_the_size_it_declares_comes_back_whole(self, store: Store) -> None:
        record = a_record({"text": "x" * ((self.capabilities.max_bytes or 2_000_000) - 20)})
        assert store.load(stored(store, record)) == record

    @needs("max_bytes")
    def test_a_record_above_its_limit_is_refused_and_the_one_before_stays(self, store: Store) -> None:
        hold = store.acquire(stored(store), LONG)
        with pytest.raises(TooLarge, match="bytes"):
            hold.commit(a_record({"text": "x" * (2 * (self.capabilities.max_bytes or 0))}))
        assert store.load(hold.key) == a_record()
        store.acquire(hold.key, SHORT).release()

    def test_commit_saves_and_releases(self, store: Store) -> None:
        key, other = stored(store, a_record({"n": 0})), stored(store)
        for n in range(200):  # enough for a store that tidies up now and then
            hold = store.acquire(key, LONG)
            assert count_of(hold.record) == n
            assert hold.commit(a_record({"n": n + 1, "fill": "x" * n}))
            key = hold.key
        assert count_of(store.load(key)) == 200
        assert store.load(other) == a_record()

    def test_release_saves_nothing_and_is_final(self, store: Store) -> None:
        key = stored(store)
        hold = store.acquire(key, LONG)
        hold.release()
        assert not hold.commit(a_record({"n": 1})), "it has been released, and is again"
        assert store.load(key) == a_record()

    # ---------------------------------------------------------------- the end of a session

    @needs("revokes")
    @pytest.mark.parametrize("how", ["delete", "hold.delete", "quarantine", "move"])
    def test_a_session_that_ended_does_not_come_back(self, store: Store, how: str) -> None:
        key, tombstone = stored(store), Record.tombstone(store.new_key(), NOW)
        if how == "delete":
            store.delete(key)
        elif how == "move":
            commit(store, key, tombstone)
        else:
            hold = store.acquire(key, LONG)
            hold.delete() if how == "hold.delete" else hold.quarantine(ValueError("it makes no sense"))
        for _ in range(2):
            assert store.load(key) == (tombstone if how == "move" else None)
            assert not store.acquire(key, LONG).commit(a_record())

    @needs("revokes", "locks_threads")
    def test_a_session_deleted_while_it_is_held_stays_deleted(self, store: Store) -> None:
        """Whether the deletion is done at once, so that the save is refused, or waits until the holder has saved."""
        key = stored(store)
        hold = store.acquire(key, LONG)
        with queueing() as start:
            deletion = start(lambda: store.delete(key))
            waits = not deletion.done()
            assert hold.commit(a_record()) is waits
        assert store.load(key) is None

    @needs("revokes", absent=True)
    def test_a_copy_of_the_cookie_of_a_deleted_session_works_and_that_is_declared(self, store: Store) -> None:
        key = stored(store)
        store.delete(key)
        assert store.load(key) == a_record()

    @needs("damage", "lists")
    def test_an_unreadable_record_is_quarantined_once_and_hides_no_other(self, store: Store) -> None:
        (key, *others), events = [stored(store, a_record(user="ada")) for _ in range(3)], list[Event]()
        self.damage(store, key)
        with pytest.raises(CorruptRecord):
            store.load(key)
        assert set(store.live("ada")) == set(others)
        with hearing(events.append, "quarantined"):
            for _ in range(2):
                assert not store.acquire(key, LONG).commit(a_record())
        assert [event.key for event in events] == [key]
        assert store.load(key) is None

    # ---------------------------------------------------------------- the sessions of a user

    @needs("lists")
    def test_the_sessions_of_a_user_are_found_and_no_others(self, store: Store) -> None:
        records = {user: a_record(user=user, remembered=user == "bob") for user in ("ada", "bob", "é/ \n", "")}
        keys = {user: [stored(store, record) for _ in range(3)] for user, record in records.items()}
        for user in ("ada", "bob", "é/ \n"):
            assert store.live(user) == dict.fromkeys(keys[user], records[user])
        assert store.live("nobody") == {}

    @needs("lists")
    def test_a_session_that_ended_is_not_listed_and_leaves_no_index(self, store: Store, clock: Clock) -> None:
        keys = [stored(store, a_record(user="ada", deadline=NOW + 10 * n)) for n in range(1, 7)]
        store.delete(keys[0])
        store.acquire(keys[1], LONG).delete()
        commit(store, keys[2], Record.tombstone(store.new_key(), NOW))
        commit(store, keys[3], a_record(user="bob"))
        assert set(store.live("ada")) == {keys[4], keys[5]}
        clock.now = NOW + 55
        assert set(store.live("ada")) == {keys[5]}
        store.delete(keys[5])
        assert store.live("ada") == {}
        assert store.load(store.user_key("ada")) is None

    @needs("lists")
    def test_an_index_that_was_lost_grows_again_when_its_sessions_are_renewed(self, store: Store) -> None:
        """A cleaner of old files may have removed it, or a cache that was full."""
        keys = [stored(store, a_record(user="ada")) for _ in range(3)]
        renewed = a_record(user="ada", deadline=NOW + 900)
        store.acquire(store.user_key("ada"), LONG).delete()
        for n in range(3):
            commit(store, keys[n], renewed)
            assert set(store.live("ada")) >= set(keys[: n + 1])
        assert store.live("ada") == dict.fromkeys(keys, renewed)

    @needs("lists", "shared")
    def test_two_applications_do_not_see_each_others_users(self, store: Store) -> None:
        found = {NAMESPACE: stored(store, a_record(user="ada"))}
        store.namespace = OTHER_NAMESPACE
        assert store.live("ada") == {}
        found[OTHER_NAMESPACE] = stored(store, a_record(user="ada"))
        for store.namespace in found:
            assert set(store.live("ada")) == {found[store.namespace]}

    @needs("lists")
    def test_users_who_sign_in_and_out_at_once_are_all_found(self, store: Store) -> None:
        def sign_in() -> list[str]:
            keys = [stored(store, a_record(user="ada")) for _ in range(20)]
            for key in keys[::2]:
                store.delete(key)
                assert set(store.live("ada")) >= set(keys[1::2])
            return keys[1::2]

        found = in_threads(8, sign_in)  # races are left to chance
        assert set(store.live("ada")) == {key for keys in found for key in keys}

    @needs("scan")
    def test_the_sessions_of_everybody_are_listed_and_nothing_else(self, store: Store) -> None:
        keys = {stored(store, a_record(user=user)) for user in ("ada", "ada", "bob", "")}
        commit(store, stored(store, a_record(user="ada")), Record.tombstone(store.new_key(), NOW))
        assert dict(store.scan()).keys() == keys

    def test_what_a_store_cannot_list_or_count_it_says(self, store: Store) -> None:
        calls = {"counts": store.count, "lists": lambda: store.live("ada"), "scan": store.scan}
        for capability, call in calls.items():
            cannot = pytest.raises((CannotCount, CannotList), match="cannot")
            with nullcontext() if self._can(capability) else cannot:
                call()

    # ---------------------------------------------------------------- locks

    @needs("locks_threads")
    def test_a_held_session_is_nobody_elses(self, store: Store) -> None:
        key, other = stored(store), stored(store)
        hold = store.acquire(key, LONG)
        with pytest.raises(LockTimeout):
            store.acquire(key, SHORT)
        with pytest.raises(LockTimeout):
            store.delete(key, SHORT)
        store.acquire(other, SHORT).release()
        hold.release()
        store.acquire(key, SHORT).release()

    @needs("locks_threads")
    def test_increments_from_many_threads_are_all_counted(self, store: Store) -> None:
        key = stored(store, a_record({"n": 0}))
        in_threads(8, lambda: add_one(store, key, 50))  # races are left to chance
        assert count_of(store.load(key)) == 400

    @needs("locks_threads", "revokes")
    @pytest.mark.parametrize("end", ["release", "delete", "quarantine"])
    def test_threads_get_the_session_in_the_order_they_came_or_find_it_gone(self, store: Store, end: str) -> None:
        key, found = stored(store), list[tuple[int, Record | None]]()

        def take(n: int) -> None:
            hold = store.acquire(key, LONG)
            found.append((n, hold.record))
            hold.release()

        with queueing() as start:
            hold = store.acquire(key, LONG)
            for n in range(5):
                start(partial(take, n))
            hold.quarantine(ValueError("it makes no sense")) if end == "quarantine" else getattr(hold, end)()
        assert found == [(n, a_record() if end == "release" else None) for n in range(5)]

    @needs("locks_threads")
    def test_an_outage_refuses_those_who_wait_behind_it(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        key, asked = stored(store), list[str]()

        def ask() -> None:
            with pytest.raises(Unavailable, match="it does not answer"):
                store.acquire(key, LONG)

        def hold(key: str, timeout: float) -> Hold:
            asked.append(key)
            for _ in range(3):
                start(ask)
            raise Unavailable("it does not answer")

        with monkeypatch.context() as patch, queueing() as start:
            patch.setattr(store, "_hold", hold)
            ask()
        assert asked == [key]
        store.acquire(key, SHORT).release()

    @needs("outage")
    def test_while_its_server_is_stopped_a_store_is_unavailable_in_bounded_time(self, store: Store) -> None:
        """And afterwards the sessions are there: rule 15. Commands that were not answered may be done then."""
        keys = [stored(store, a_record({"n": 1}, user="ada")) for _ in range(3)]
        held, freed = store.acquire(keys[0], LONG), store.acquire(keys[1], LONG)
        calls: dict[str, Callable[[], object]] = {
            "commit": lambda: held.commit(a_record({"n": 2}, user="ada")),
            "load": lambda: store.load(keys[2]),
            "load_all": lambda: store.load_all(keys),
            "acquire": lambda: store.acquire(keys[2], LONG),
            "create": lambda: stored(store),
            "ping": store.ping,
        }
        with ThreadPoolExecutor(1) as pool, self.outage(store):  # which ends before what still waits for it
            for name, call in calls.items():
                with pytest.raises(Unavailable):
                    pool.submit(call).result(LONG)
                    pytest.fail(f"{name} did not notice")
            pool.submit(freed.release).result(LONG)  # the page has what it needs
        assert when_it_answers(lambda: [count_of(store.load(key)) for key in keys]) in ([1, 1, 1], [2, 1, 1])
        for key in keys:
            add_one(store, key, 1)

    @needs("lose_lock")
    @pytest.mark.parametrize("meanwhile", ["saved", "held", "deleted"])
    def test_a_save_after_its_lock_was_lost_takes_nothing_from_another_process(
        self, store: Store, factory: Factory, meanwhile: str
    ) -> None:
        key = stored(store, a_record({"n": 0}))
        late = store.acquire(key, LONG)
        with closing(opened(factory, store.clock)) as other:
            self.lose_lock(late)
            if meanwhile == "deleted":
                other.delete(key)
            elif meanwhile == "saved":
                add_one(other, key, 1)
            hold = other.acquire(key, LONG)
            try:
                saved = late.commit(a_record({"n": 2}))
            except Unavailable:  # which says it, too
                saved = False
            assert not saved or meanwhile == "held", "the other one's save is lost, or the session is back"
            assert hold.commit(a_record({"n": 1})) is (not saved and meanwhile != "deleted"), (
                "both were told of success"
            )
        assert count_of(store.load(key)) == (-1 if meanwhile == "deleted" else 2 if saved else 1)

    @needs("locks_threads", absent=True)
    def test_a_store_without_locks_lets_nobody_wait(self, store: Store) -> None:
        key = stored(store)
        first, second = store.acquire(key, 0), store.acquire(key, 0)
        assert first.commit(a_record({"n": 1}))
        assert second.commit(a_record({"n": 2}))
        assert count_of(store.load(second.key)) == 2

    # ---------------------------------------------------------------- cleaning

    @needs("purges")
    def test_purge_removes_what_has_expired_and_nothing_else(self, store: Store, clock: Clock) -> None:
        early, late = a_record(user="ada", deadline=NOW + 10), a_record(user="ada", deadline=NOW + 100)
        live, dead, renewed = stored(store, late), stored(store, early), commit(store, stored(store, early), late)
        moved = commit(store, stored(store), Record.tombstone(store.new_key(), NOW - 20))
        clock.now = NOW + 50
        events = list[Event]()
        with hearing(events.append, "expired"):
            assert store.purge(100) == 2
        assert [(event.key, event.details["record"]) for event in events] == [(dead, early)]
        assert store.load(dead) is store.load(moved) is None
        assert store.load(live) == store.load(renewed) == late
        clock.now = NOW + 150
        assert store.purge(100) >= 2
        assert store.load(live) is store.load(renewed) is store.load(store.user_key("ada")) is None

    @needs("purges")
    def test_purge_removes_no_more_than_asked_and_goes_on_the_next_time(self, store: Store, clock: Clock) -> None:
        for _ in range(25):
            stored(store, a_record(deadline=NOW + 10))
        clock.now = NOW + 50
        assert [store.purge(10) for _ in range(4)] == [10, 10, 5, 0]

    @needs("purges", "locks_threads")
    def test_purge_leaves_a_held_session_and_does_not_wait(self, store: Store, clock: Clock) -> None:
        key = stored(store, a_record(deadline=NOW + 10))
        hold = store.acquire(key, LONG)
        clock.now = NOW + 50
        assert store.purge(100) == 0
        assert hold.commit(a_record(deadline=NOW + 100))
        assert store.purge(100) == 0
        assert store.load(key) == a_record(deadline=NOW + 100)

    @needs("purges", "damage")
    def test_purge_goes_on_past_an_unreadable_record(self, store: Store, clock: Clock) -> None:
        keys = [stored(store, a_record(deadline=NOW + 10)) for _ in range(10)]
        self.damage(store, keys[4])
        clock.now = NOW + 50
        assert store.purge(100) in (9, 10)
        assert [store.load(key) for key in keys if key != keys[4]] == [None] * 9

    @needs("counts")
    def test_count_is_the_number_of_live_sessions(self, store: Store, clock: Clock) -> None:
        assert store.count() == 0
        for seconds in (10, 100, 100):
            stored(store, a_record(user="ada", deadline=NOW + seconds))
        commit(store, stored(store), Record.tombstone(store.new_key(), NOW))
        assert store.count() == 3
        clock.now = NOW + 50
        assert store.count() == 2

    # ---------------------------------------------------------------- processes

    def test_sessions_survive_a_restart_if_that_is_declared(self, factory: Factory, clock: Clock) -> None:
        with closing(opened(factory, clock)) as store:
            key = stored(store)
        with closing(opened(factory, clock)) as store:
            assert store.load(key) == (a_record() if self.capabilities.survives_restart else None)

    def test_another_process_sees_a_session_if_that_is_declared(self, store: Store, factory: Factory) -> None:
        answer = _spawn.Queue()
        with process(_load, factory, stored(store), answer):
            assert answer.get(timeout=LONG) == (a_record() if self.capabilities.shared else None)

    @needs("locks_processes")
    def test_two_processes_count_one_session_and_nobody_starves(self, store: Store, factory: Factory) -> None:
        """A wait is counted in visits of others: a slow machine makes no difference."""
        key, ready, theirs = stored(store, a_record({"n": 0})), _spawn.Barrier(2), _spawn.Queue()
        with process(_visit_too, factory, key, ready, theirs):
            ready.wait(LONG)
            longest = max(_visit(store, key), theirs.get(timeout=LONG))
        assert count_of(store.load(key)) == 2 * CLIENTS * VISITS
        assert longest <= FAIR_SHARES * 2 * CLIENTS

    @needs("locks_processes")
    def test_a_killed_holder_blocks_nobody(self, store: Store, factory: Factory) -> None:
        key, held = stored(store, a_record({"n": 0})), _spawn.Queue()
        with process(_hold_until_killed, factory, key, held) as child:
            assert held.get(timeout=LONG)
            with pytest.raises(LockTimeout):
                store.acquire(key, SHORT)
            child.kill()
            add_one(store, key, 1)
        assert count_of(store.load(key)) == 1
