"""The rules of a session within a request: Session objects over real stores, the clock moved by hand, no HTTP."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import cherrypy
import pytest

import sessions
from sessions import Hold, Record, Session, Store, StoreError, Unavailable, codec
from sessions.backends.file import FileStore
from sessions.backends.ram import RamStore
from sessions.errors import SessionClosed, UnstorableValue
from sessions.options import Settings
from sessions.session import State
from sessions.testing import NOW, Clock, opened
from tests.support.application import application
from tests.support.client import WsgiClient
from tests.support.members import MODES

MINUTE = 60.0


def session_of(id: str | None = None, *, store: Store, **options: Any) -> Session:
    """Return a session as the tool makes it, for a browser that sends this id."""
    return Session(store, Settings(Session, **options), "" if id is None else f"session_id={id}")


class CountingHold(Hold):
    """A hold that notes its way back to the store: one, as commit saves and releases together."""

    __slots__ = ()
    _store: CountingStore

    def _read(self) -> Record | None:
        return RamStore.load(self._store, self.key)

    def commit(self, record: Record) -> bool:
        calls = self._store.calls
        noted = len(calls)
        saved = super().commit(record)
        calls[noted:] = ["commit", *(call for call in calls[noted:] if call == "acquire")]
        return saved

    def _unlock(self) -> None:
        self._store.calls.append("release")


class CountingStore(RamStore):
    """Notes each call that would be a round trip to a server."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def _hold(self, key: str, timeout: float) -> Hold:
        self.calls.append("acquire")
        return CountingHold(self, key)

    def load(self, key: str) -> Record | None:
        self.calls.append("load")
        return super().load(key)

    def save(self, key: str, record: Record) -> None:
        self.calls.append("save")
        super().save(key, record)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["ram", "file"])
def store(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> Store:
    return opened(RamStore if request.param == "ram" else partial(FileStore, storage_path=str(tmp_path)), clock)


@pytest.fixture
def counting(clock: Clock) -> CountingStore:
    store = opened(CountingStore, clock)
    assert isinstance(store, CountingStore)
    return store


def begin(store: Store, **options: Any) -> str:
    """Return the id of a new session with n=1."""
    session = session_of(store=store, **options)
    session["n"] = 1
    session.save()
    return session.id


def read(store: Store, id: str) -> dict[Any, Any] | None:
    """Return what another visitor with this cookie would find; nothing is renewed."""
    session = session_of(id, store=store)
    found = None if session.missing else dict(session.items())
    session.rollback()
    return found


def visit(store: Store, id: str, **options: Any) -> Session:
    """Send a request that only reads."""
    session = session_of(id, store=store, **options)
    session.get("n")
    session.save()
    return session


def deadline(store: Store, id: str) -> float:
    record = store.load(store.key_of(id))
    assert record
    return record.deadline - NOW


# -------------------------------------------------------------------- the table of states


def table() -> dict[str, list[str]]:
    """Return the cells of the table in the docstring of Session by the state of their row."""
    lines = (inspect.getdoc(Session) or "").splitlines()
    first, second, last = [number for number, line in enumerate(lines) if line.startswith("===")]
    begins = [match.start() for match in re.finditer("=+", lines[first])]
    rows: list[list[str]] = []
    for line in lines[second + 1 : last]:
        cells = [line[begin:end].strip() for begin, end in zip(begins, [*begins[1:], None], strict=True)]
        if cells[0]:
            rows.append(cells)
        else:
            rows[-1] = [f"{above} {cell}".strip() for above, cell in zip(rows[-1], cells, strict=True)]
    return {row[0]: row[2:] for row in rows}


CALLS: dict[str, tuple[int, Callable[[Session], Any]]] = {  # with the column that is about them
    "value": (0, lambda session: session.get("n")),
    "acquire_lock": (1, Session.acquire_lock),
    "save": (2, Session.save),
    "release_lock": (2, Session.release_lock),
    "rollback": (2, Session.rollback),  # "goes where save() goes"
}


@dataclass(frozen=True)
class Case:
    """How a session has come to a state, and what has happened meanwhile.

    Attributes:
        state: where it is.
        steps: what has led there.
        known: whether the store knows the id that the browser sends; None: it sends none.
        unlocked: whether it is loaded without a lock: 'explicit', for a mode, or 'stream', for a streamed body.
        changed: whether a value was changed.
        gone: whether another request has deleted it since.
    """

    state: State
    steps: tuple[Callable[[Session], Any], ...] = ()
    known: bool | None = True
    unlocked: str = ""
    changed: bool = False
    gone: bool = False

    def session(self, store: Store) -> Session:
        """Return a session in this state."""
        ids = {True: begin(store), False: "u" * 43, None: None}
        session = session_of(
            ids[self.known], store=store, locking="explicit" if self.unlocked == "explicit" else "implicit"
        )
        session.sealed = self.unlocked == "stream"
        for step in self.steps:
            step(session)
        if self.gone:
            session_of(ids[True] if self.known else session.id, store=store).delete()
        assert session.state is self.state
        return session

    def goes_to(self, call: str) -> State:
        """Return where the table says that it goes."""
        cell = table()[self.state.name][CALLS[call][0]]
        if cell.startswith("as "):
            cell = table()[cell.split()[1].rstrip(";")][CALLS[call][0]] + cell.partition(";")[2]
        if call == "release_lock" and "release_lock() stays" in cell:
            return self.state
        if self.gone and "DELETED if it has gone" in cell:
            return State.DELETED
        if self.gone and self.changed and call == "save":
            return State.DELETED  # "A save that finds the session deleted meanwhile ends in DELETED."
        if cell.startswith("stays"):
            return self.state
        if not self.known and "NEW" in cell:
            return State.NEW
        if self.unlocked and "LOADED in the explicit mode and in a streamed body" in cell:
            return State.LOADED
        return State[re.findall("-> ([A-Z]+)", cell)[0]]


def use(session: Session) -> None:
    session.get("n")


def change(session: Session) -> None:
    session["n"] = 2


CLAIMED, NEW, HELD, LOADED, RELEASED, DELETED = State
CASES = [
    *(Case(CLAIMED, known=known, unlocked=how) for known in (True, False, None) for how in ("", "explicit", "stream")),
    *(Case(NEW, (use,), known, how) for known in (False, None) for how in ("", "explicit")),
    *(Case(NEW, (change,), known, changed=True) for known in (False, None)),
    Case(HELD, (use,)),
    Case(HELD, (change,), changed=True),
    Case(HELD, (Session.acquire_lock,), unlocked="explicit"),
    Case(HELD, (Session.acquire_lock,), unlocked="stream"),
    *(Case(LOADED, (use,), unlocked=how, gone=gone) for how in ("explicit", "stream") for gone in (False, True)),
    *(Case(LOADED, (change,), unlocked="explicit", changed=True, gone=gone) for gone in (False, True)),
    *(Case(RELEASED, (use, Session.save), known, how) for known in (True, False, None) for how in ("", "explicit")),
    *(Case(RELEASED, (use, Session.rollback), known, how) for known in (True, None) for how in ("", "explicit")),
    *(Case(RELEASED, (change, Session.save), unlocked=how, gone=gone) for how in ("", "explicit") for gone in (0, 1)),
    Case(RELEASED, (use, Session.save), unlocked="stream"),
    *(Case(DELETED, (Session.delete,), known, how) for known in (True, False, None) for how in ("", "explicit")),
    Case(DELETED, (change, Session.delete), None),
    Case(DELETED, (change, Session.delete), unlocked="explicit"),
]
CASE_NAMES = [f"{case.state.name}-{number}" for number, case in enumerate(CASES)]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("case", CASES, ids=CASE_NAMES)
def test_a_call_leads_where_the_table_of_states_says(store: Store, case: Case, call: str) -> None:
    session = case.session(store)
    CALLS[call][1](session)
    assert session.state is case.goes_to(call)
    session.rollback()
    assert len(store.locks) == 0


@pytest.mark.parametrize("case", CASES, ids=CASE_NAMES)
def test_delete_leads_from_every_state_to_deleted(store: Store, case: Case) -> None:
    session = case.session(store)
    session.delete()
    assert session.state is DELETED
    assert [record for _, record in store.scan() if record.data != '{"n":1}'] == []
    assert len(store.locks) == 0


def test_each_state_that_the_table_names_is_reached() -> None:
    assert set(table()) == set(State.__members__)
    for name, cells in table().items():
        for column, cell in enumerate(cells):
            calls = [call for call, (of, _) in CALLS.items() if of == column]
            found = {case.goes_to(call).name for case in CASES for call in calls if case.state.name == name}
            wanted = set(re.findall("|".join(State.__members__), cell)) | ({name} if "stays" in cell else set())
            if cell.startswith("as CLAIMED"):
                wanted = wanted - {"CLAIMED"} | set(re.findall("|".join(State.__members__), table()["CLAIMED"][column]))
            if (name, column) == ("LOADED", 2):
                wanted.add("DELETED")  # see goes_to
            assert found == wanted, (name, column)


# -------------------------------------------------------------------- rules 1 and 2


def test_reading_makes_no_session(store: Store) -> None:
    session = session_of(store=store)
    assert (session.get("n"), "n" in session, list(session), len(session), bool(session)) == (None, False, [], 0, False)
    session.save()
    assert (session.cookie, store.count()) == (None, 0)


def test_an_explicit_load_counts_as_a_first_write(store: Store) -> None:
    session = session_of(store=store)
    session.load()
    session.save()
    assert session.cookie == "new"
    assert read(store, session.id) == {}


def test_an_id_that_the_store_does_not_know_is_never_adopted(store: Store) -> None:
    planted = "p" * 43
    session = session_of(planted, store=store)
    assert session.id != planted
    assert session.missing
    session["n"] = 1
    session.save()
    assert session.id != planted
    assert read(store, planted) is None


@pytest.mark.parametrize(
    "id", ["", "short", "x" * 201, "../" * 10, "a" * 42 + "\0", "a" * 42 + "\n", "é" * 43, "a b" * 14]
)
def test_a_malformed_id_is_unknown_and_the_store_is_not_asked(counting: CountingStore, id: str) -> None:
    session = session_of(id, store=counting)
    assert session.get("n") is None
    assert session.missing
    session.save()
    assert counting.calls == []


def test_the_id_that_a_page_reads_is_the_id_that_is_stored(store: Store) -> None:
    session = session_of(store=store)
    id = session.id
    session["n"] = 1
    session.save()
    assert session.id == id
    assert read(store, id) == {"n": 1}


# -------------------------------------------------------------------- round trips


def test_an_untouched_session_costs_nothing(counting: CountingStore) -> None:
    id = begin(counting)
    del counting.calls[:]
    for session in (session_of(store=counting), session_of(id, store=counting)):
        session.save()
        assert not session.accessed
    assert counting.calls == []


def test_reading_a_session_is_two_calls(counting: CountingStore) -> None:
    id = begin(counting)
    del counting.calls[:]
    visit(counting, id)
    assert counting.calls == ["acquire", "release"]


def test_writing_a_session_is_two_calls(counting: CountingStore) -> None:
    id = begin(counting)
    del counting.calls[:]
    session = session_of(id, store=counting)
    session["n"] = 2
    session.save()
    assert counting.calls == ["acquire", "commit"]


def test_the_first_write_of_a_visitor_is_one_call(counting: CountingStore) -> None:
    begin(counting)
    assert counting.calls == ["save"]


def test_signing_in_is_three_calls_and_three_for_the_index_of_the_user(counting: CountingStore) -> None:
    """The new id is stored while the index is held, and a tombstone is left under the old one."""
    id = begin(counting)
    del counting.calls[:]
    session = session_of(id, store=counting)
    session.sign_in("ada")
    session.save()
    assert counting.calls == ["acquire", "acquire", "save", "save", "release", "commit"]


def test_a_request_of_a_user_costs_no_more_than_that_of_a_visitor(counting: CountingStore) -> None:
    session = session_of(begin(counting), store=counting)
    session.sign_in("ada")
    session.save()
    del counting.calls[:]
    session = session_of(session.id, store=counting)
    assert session.user == "ada"
    session["n"] = 2
    session.save()
    assert counting.calls == ["acquire", "commit"]


def test_reading_without_locks_is_one_call(counting: CountingStore) -> None:
    id = begin(counting)
    del counting.calls[:]
    visit(counting, id, locking="explicit")
    assert counting.calls == ["load"]


# -------------------------------------------------------------------- rule 7


def test_data_that_is_unchanged_is_not_written(counting: CountingStore) -> None:
    id = begin(counting)
    session = session_of(id, store=counting)
    session["n"] = 1
    session["m"] = [1]
    del session["m"]
    session.save()
    assert "commit" not in counting.calls
    assert session.cookie is None


def test_a_nested_change_is_written(store: Store) -> None:
    session = session_of(begin(store), store=store)
    session["basket"] = {"eggs": [1]}
    session.save()
    session = session_of(session.id, store=store)
    session["basket"]["eggs"].append(2)
    session.save()
    assert read(store, session.id) == {"n": 1, "basket": {"eggs": [1, 2]}}


def test_deadline_and_cookie_are_renewed_together_each_tenth_of_the_timeout(store: Store, clock: Clock) -> None:
    id = begin(store)
    for minutes, expected, cookie in (
        (5.9, 60, None), (6, 66, "renewed"), (11.9, 66, None), (12.1, 72.1, "renewed"), (70, 130, "renewed"),
    ):  # fmt: skip
        clock.now = NOW + minutes * MINUTE
        session = visit(store, id)
        assert session.cookie == cookie
        assert deadline(store, id) == pytest.approx(expected * MINUTE, abs=0.01)
        if cookie:
            assert session.cookie_age == 60 * MINUTE


def test_a_write_between_renewals_keeps_the_deadline(store: Store, clock: Clock) -> None:
    id = begin(store)
    clock.now = NOW + MINUTE
    session = session_of(id, store=store)
    session["n"] = 2
    session.save()
    assert session.cookie is None
    assert deadline(store, id) == 60 * MINUTE


@pytest.mark.parametrize(("timeout", "cookie"), [(10, "renewed"), (120, "renewed"), (60, None)])
def test_a_changed_timeout_holds_from_the_next_visit(
    store: Store, clock: Clock, timeout: float, cookie: str | None
) -> None:
    id = begin(store)
    clock.now = NOW + MINUTE
    assert visit(store, id, timeout=timeout).cookie == cookie
    assert deadline(store, id) == (timeout + 1 if cookie else 60) * MINUTE


# -------------------------------------------------------------------- rule 16


@pytest.mark.parametrize("locking", MODES)
def test_a_session_ends_when_its_idle_time_is_over(store: Store, clock: Clock, locking: str) -> None:
    id = begin(store, timeout=10)
    clock.now = NOW + 10 * MINUTE - 0.01
    assert not session_of(id, store=store, timeout=10, locking="explicit").missing
    clock.now = NOW + 10 * MINUTE
    session = session_of(id, store=store, timeout=10, locking=locking)
    assert session.missing
    assert session.get("n") is None
    session.rollback()


def test_a_busy_session_ends_with_its_lifetime(store: Store, clock: Clock) -> None:
    id = begin(store, timeout=10, lifetime=35)
    for minutes in (9, 18, 27, 34.9):
        clock.now = NOW + minutes * MINUTE
        assert not visit(store, id, timeout=10, lifetime=35).missing
    assert deadline(store, id) == 35 * MINUTE
    clock.now = NOW + 35 * MINUTE
    assert visit(store, id, timeout=10, lifetime=35).missing


def test_the_last_renewal_reaches_the_lifetime_exactly_and_only_once(store: Store, clock: Clock) -> None:
    id = begin(store, timeout=10, lifetime=15)
    clock.now = NOW + 6 * MINUTE
    session = visit(store, id, timeout=10, lifetime=15)
    assert (session.cookie, session.cookie_age) == ("renewed", 9 * MINUTE)
    for minutes in (7, 9, 14.9):
        clock.now = NOW + minutes * MINUTE
        assert visit(store, id, timeout=10, lifetime=15).cookie is None
    assert deadline(store, id) == 15 * MINUTE


def test_a_new_id_is_no_new_life(store: Store, clock: Clock) -> None:
    session = session_of(begin(store, lifetime=30), store=store, lifetime=30)
    clock.now = NOW + 20 * MINUTE
    session.regenerate()
    session.save()
    assert deadline(store, session.id) == 30 * MINUTE


def test_a_lifetime_shortened_in_the_settings_holds_at_once(store: Store, clock: Clock) -> None:
    id = begin(store)
    clock.now = NOW + 20 * MINUTE
    assert session_of(id, store=store, lifetime=15).missing


def test_a_visitor_without_a_lock_does_not_end_a_session_that_another_is_renewing(store: Store, clock: Clock) -> None:
    id = begin(store, timeout=10)
    busy = session_of(id, store=store, timeout=10)
    clock.now = NOW + 9.9 * MINUTE
    busy["n"] = 2
    clock.now = NOW + 10 * MINUTE
    assert session_of(id, store=store, timeout=10, locking="explicit").missing
    busy.save()
    assert read(store, id) == {"n": 2}


# -------------------------------------------------------------------- rule 8


@pytest.mark.parametrize("locking", MODES)
@pytest.mark.parametrize("touched_before", [False, True])
def test_delete_is_final_for_the_request_and_the_old_id_is_unknown(
    store: Store, locking: str, touched_before: bool
) -> None:
    id = begin(store)
    session = session_of(id, store=store, locking=locking)
    if touched_before:
        session["n"] = 2
    session.delete()
    assert session.get("n") is None
    session["n"] = 3
    session.regenerate()
    with session.lock():
        session["n"] = 4
    session.save()
    assert session.cookie == "expired"
    assert read(store, id) is None
    assert store.count() == 0
    assert len(store.locks) == 0


def test_a_save_does_not_bring_back_a_session_that_was_deleted_meanwhile(store: Store) -> None:
    id = begin(store)
    session = session_of(id, store=store, locking="explicit")
    session["n"] = 2
    session_of(id, store=store).delete()
    session.save()
    assert read(store, id) is None
    session["n"] = 3
    session.save()
    assert store.count() == 0
    assert session.cookie is None


class TakenHold(Hold):
    """What another process took over, when this one was stopped for so long that its lock ended."""

    __slots__ = ()

    def _commit(self, record: Record) -> bool:
        return False


class TakenStore(RamStore):
    def _hold(self, key: str, timeout: float) -> Hold:
        return TakenHold(self, key)


@pytest.mark.parametrize("work", [lambda session: session.update(n=2), Session.regenerate, Session.sign_out])
def test_a_session_that_was_taken_over_meanwhile_is_neither_saved_nor_moved(
    work: Callable[[Session], None], clock: Clock
) -> None:
    store = opened(TakenStore, clock)
    id = begin(store)
    session = session_of(id, store=store)
    work(session)
    session.save()
    assert (session.state, session.cookie) == (DELETED, None)
    assert [record.data for _, record in store.scan()] == ['{"n":1}']
    assert len(store.locks) == 0


def test_a_session_deleted_between_two_saves_of_one_request_stays_deleted(store: Store) -> None:
    id = begin(store)
    session = session_of(id, store=store)
    session["n"] = 2
    session.release_lock()
    session_of(id, store=store).delete()
    session["n"] = 3
    session.save()
    assert read(store, id) is None
    assert store.count() == 0


def test_deleting_what_was_made_in_the_same_request_leaves_nothing(store: Store) -> None:
    session = session_of(store=store)
    session["n"] = 1
    session.release_lock()
    session.delete()
    session.save()
    assert (session.cookie, store.count()) == ("expired", 0)


# -------------------------------------------------------------------- rule 9


@pytest.mark.parametrize("locking", MODES)
@pytest.mark.parametrize("loaded", [False, True])
def test_a_new_id_keeps_the_data_and_kills_the_old_id(store: Store, locking: str, loaded: bool) -> None:
    old = begin(store)
    session = session_of(old, store=store, locking=locking)
    if loaded:
        session["m"] = 2
    session.regenerate()
    new = session.id
    session.save()
    assert session.regenerated
    assert (session.id, session.cookie) == (new, "new")
    assert new != old
    assert read(store, old) is None
    assert read(store, new) == ({"n": 1, "m": 2} if loaded else {"n": 1})
    assert store.count() == 1


def test_a_new_id_twice_in_a_request_leaves_one_session(store: Store) -> None:
    old = begin(store)
    session = session_of(old, store=store)
    session.regenerate()
    first = session.id
    session.regenerate()
    session.save()
    assert len({old, first, session.id}) == 3
    assert [read(store, id) for id in (old, first, session.id)] == [None, None, {"n": 1}]


def test_a_new_id_after_each_of_two_saves_leaves_one_session(store: Store) -> None:
    session = session_of(begin(store), store=store)
    for _ in range(2):
        session.regenerate()
        session.save()
    assert read(store, session.id) == {"n": 1}
    assert store.count() == 1


def test_a_new_id_and_a_deletion_leave_nothing(store: Store) -> None:
    old = begin(store)
    session = session_of(old, store=store)
    session.regenerate()
    new = session.id
    session.delete()
    session.save()
    assert [read(store, id) for id in (old, new)] == [None, None]
    assert (session.cookie, store.count()) == ("expired", 0)


def test_a_planted_id_does_not_get_the_login(store: Store) -> None:
    planted = begin(store)
    session = session_of(planted, store=store)
    session.regenerate()
    session["user"] = "ada"
    session.save()
    assert read(store, planted) is None


def test_a_new_id_that_was_not_saved_leaves_the_old_one(store: Store) -> None:
    old = begin(store)
    session = session_of(old, store=store)
    session.regenerate()
    session["user"] = "ada"
    session.rollback()
    assert session.cookie is None
    assert read(store, old) == {"n": 1}
    assert session.id == old
    session.rollback()


# -------------------------------------------------------------------- a request that was under way


def test_a_request_under_way_while_another_signs_in_stores_nothing_and_sets_no_cookie(
    store: Store, clock: Clock
) -> None:
    """Its cookie would replace the one of the login, and the visitor would be signed out."""
    old = begin(store)
    slow = session_of(old, store=store)
    login = session_of(old, store=store)
    login.regenerate()
    login.save()
    slow["n"] = 2
    slow.save()
    assert slow.cookie is None
    assert slow.missing
    assert store.count() == 1


def test_a_request_that_comes_long_after_the_move_is_a_new_visitor(store: Store, clock: Clock) -> None:
    old = begin(store)
    login = session_of(old, store=store)
    login.regenerate()
    login.save()
    for seconds, cookie in ((0.9, None), (1.1, "new"), (59, "new"), (61, "new")):
        clock.now = NOW + seconds
        late = session_of(old, store=store)
        late["n"] = 2
        late.save()
        assert late.cookie == cookie
        assert late.id != old


def test_two_logins_at_once_are_two_sessions(store: Store) -> None:
    old = begin(store)
    second = session_of(old, store=store)
    for login in (session_of(old, store=store), second):
        login.regenerate()
        login["user"] = "ada"
        login.save()
        assert login.cookie == "new"
    assert read(store, second.id) == {"user": "ada"}


def test_the_tombstone_of_a_move_is_cleaned_away(store: Store, clock: Clock) -> None:
    login = session_of(begin(store), store=store)
    login.regenerate()
    login.save()
    clock.now = NOW + 61
    assert store.purge(10) == 1
    assert read(store, login.id) == {"n": 1}


def test_clean_up_removes_every_expired_session_and_no_other(store: Store, clock: Clock) -> None:
    gone = [store.key_of(begin(store)) for _ in range(1001)]  # more than one batch
    clock.now = NOW + 61 * MINUTE
    live = store.key_of(begin(store))
    session_of(store=store).clean_up()
    assert [key for key in [*gone, live] if store.load(key)] == [live]


# -------------------------------------------------------------------- rules 4 and 5


def test_released_early_and_touched_again_the_session_is_loaded_again(store: Store) -> None:
    id = begin(store)
    session = session_of(id, store=store)
    session["n"] = 2
    session.release_lock()
    assert (session.locked, session.loaded) == (False, False)
    other = session_of(id, store=store)
    other["n"] += 10
    other.save()
    assert session["n"] == 12
    assert session.locked
    session["n"] += 1
    session.save()
    assert read(store, id) == {"n": 13}


def test_explicit_mode_reads_without_a_lock_and_saves_the_last_word(store: Store) -> None:
    id = begin(store)
    one, two = (session_of(id, store=store, locking="explicit") for _ in range(2))
    one["n"], two["n"] = 2, 3
    assert not one.locked
    one.save()
    two.save()
    assert read(store, id) == {"n": 3}


def test_explicit_mode_keeps_what_was_written_before_the_lock(store: Store) -> None:
    id = begin(store)
    session = session_of(id, store=store, locking="explicit")
    session["before"] = 1
    session.acquire_lock()
    assert dict(session.items()) == {"n": 1, "before": 1}
    session["after"] = 2
    session.release_lock()
    assert read(store, id) == {"n": 1, "before": 1, "after": 2}


@pytest.mark.parametrize("locking", MODES)
@pytest.mark.parametrize("new", [False, True])
def test_a_block_that_raises_loses_its_writes_and_no_others(store: Store, locking: str, new: bool) -> None:
    session = session_of(None if new else begin(store), store=store, locking=locking)
    session["kept"] = [1]
    with pytest.raises(ZeroDivisionError), session.lock():
        session["kept"].append(2)
        session["lost"] = 1 / 0
    session["later"] = 3
    session.save()
    found = read(store, session.id)
    assert found is not None
    assert "lost" not in found
    assert (found["kept"], found["later"]) == ([1], 3)


@pytest.mark.parametrize("locking", MODES)
@pytest.mark.parametrize("new", [False, True])
@pytest.mark.parametrize("held", [False, True])
def test_what_a_block_wrote_is_saved_though_the_request_fails(
    store: Store, locking: str, new: bool, held: bool
) -> None:
    session = session_of(None if new else begin(store), store=store, locking=locking)
    if held:
        session.acquire_lock()
    with session.lock():
        session["block"] = 1
    session["rest"] = 2
    session.rollback()
    found = read(store, session.id)
    assert found is not None
    assert (found.get("block"), found.get("rest")) == (1, None)


def test_blocks_in_blocks_are_one(store: Store) -> None:
    id = begin(store)
    session = session_of(id, store=store, locking="explicit")
    with session.lock():
        with session.lock(), session.lock():
            session["n"] = 2
        assert session.locked
        session["m"] = 3
    assert not session.locked
    assert read(store, id) == {"n": 2, "m": 3}


@pytest.mark.parametrize("held", [False, True])
def test_a_block_that_raises_takes_the_blocks_within_it_along(store: Store, held: bool) -> None:
    id = begin(store)
    session = session_of(id, store=store)
    if held:
        session.acquire_lock()
    with pytest.raises(ZeroDivisionError), session.lock():
        with session.lock():
            session["n"] = 2
        raise ZeroDivisionError
    session.rollback()
    assert read(store, id) == {"n": 1}


def test_a_login_in_a_block_does_not_stay_under_the_planted_id_when_the_request_fails(store: Store) -> None:
    planted = begin(store)
    session = session_of(planted, store=store)
    session.get("n")
    with session.lock():
        session.regenerate()
        session["user"] = "ada"
    session.rollback()
    assert read(store, planted) is None
    assert read(store, session.id) == {"n": 1, "user": "ada"}
    assert session.cookie == "new"


def test_a_deletion_in_a_block_that_raises_is_final_all_the_same(store: Store) -> None:
    session = session_of(begin(store), store=store)
    session.get("n")
    with pytest.raises(ZeroDivisionError), session.lock():
        session.delete()
        raise ZeroDivisionError
    assert session.get("n") is None
    session.save()
    assert store.count() == 0


class Answer(Exception):
    """What a block may raise and have done its work all the same."""


@pytest.mark.parametrize("locking", MODES)
@pytest.mark.parametrize("new", [False, True])
@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("depth", [1, 2])
def test_a_block_that_completes_by_an_answer_is_left_as_by_a_return(
    store: Store, locking: str, new: bool, held: bool, depth: int
) -> None:
    session = session_of(None if new else begin(store), store=store, locking=locking)
    if held:
        session.acquire_lock()
    with pytest.raises(Answer), ExitStack() as blocks:
        for _ in range(depth):
            blocks.enter_context(session.lock(lambda error: isinstance(error, Answer)))
        session.sign_in("ada")
        session["block"] = 1
        raise Answer
    session["rest"] = 2
    session.rollback()
    after = session_of(session.id, store=store)
    assert (after.user, after.get("block"), after.get("rest"), session.cookie) == ("ada", 1, None, "new")
    after.rollback()


# -------------------------------------------------------------------- a timeout of the session's own (CherryPy's API)


@pytest.mark.parametrize("locking", MODES)
def test_a_timeout_of_its_own_holds_from_this_requests_save_on(store: Store, clock: Clock, locking: str) -> None:
    id = begin(store)
    clock.now = NOW + MINUTE
    session = session_of(id, store=store, locking=locking)
    session.timeout = 5
    assert session.timeout == 5
    session.save()
    assert (session.cookie, session.cookie_age) == ("renewed", 5 * MINUTE)
    assert deadline(store, id) == 6 * MINUTE
    for minutes, expected, cookie in ((1.4, 6, None), (1.6, 6.6, "renewed"), (6, 11, "renewed")):
        clock.now = NOW + minutes * MINUTE
        assert visit(store, id, locking=locking).cookie == cookie
        assert deadline(store, id) == pytest.approx(expected * MINUTE, abs=0.01)
    clock.now = NOW + 11 * MINUTE
    assert visit(store, id, locking=locking).missing


def test_a_timeout_of_its_own_may_be_longer_and_the_lifetime_holds_all_the_same(store: Store, clock: Clock) -> None:
    id = begin(store, lifetime=150)
    session = session_of(id, store=store, lifetime=150)
    session.timeout = 100
    session.save()
    for minutes, expected in ((90, 150), (149, 150)):
        clock.now = NOW + minutes * MINUTE
        assert not visit(store, id, lifetime=150).missing
        assert deadline(store, id) == expected * MINUTE
    clock.now = NOW + 150 * MINUTE
    assert visit(store, id, lifetime=150).missing


def test_a_session_that_begins_may_have_a_timeout_of_its_own(store: Store) -> None:
    session = session_of(store=store)
    session.timeout = 0.5
    session["n"] = 1
    session.save()
    assert (session.cookie_age, deadline(store, session.id)) == (30, 30)


def test_a_timeout_of_its_own_goes_along_to_a_new_id(store: Store, clock: Clock) -> None:
    session = session_of(begin(store), store=store)
    session.timeout = 5
    session.save()
    session.sign_in("ada", remember=True)
    session.save()
    assert deadline(store, session.id) == 5 * MINUTE
    assert session_of(session.id, store=store, locking="explicit").timeout == 5


def test_a_timeout_of_none_is_that_of_the_options_again(store: Store) -> None:
    id = begin(store)
    for minutes, left in ((5, 5), (None, 60)):
        session = session_of(id, store=store)
        session.timeout = minutes
        assert session.timeout == left
        session.save()
        assert (session.cookie, deadline(store, id)) == ("renewed", left * MINUTE)


def test_a_timeout_that_was_set_is_thrown_away_with_the_rest(store: Store) -> None:
    new, session = session_of(store=store), session_of(begin(store), store=store)
    for one in (new, session):
        one.timeout = 5
        one.rollback()
        assert one.timeout == 60
    with pytest.raises(ZeroDivisionError), session.lock():
        session.timeout = 5
        raise ZeroDivisionError
    session.save()
    assert (session.timeout, deadline(store, session.id)) == (60, 60 * MINUTE)
    session.rollback()


@pytest.mark.parametrize("new", [False, True])
def test_to_read_the_timeout_stores_and_renews_nothing(store: Store, clock: Clock, new: bool) -> None:
    id = begin(store, timeout=7)
    clock.now = NOW + 0.5 * MINUTE
    session = session_of(None if new else id, store=store, timeout=7)
    assert session.timeout == 7
    session.save()
    assert (session.cookie, store.count(), deadline(store, id)) == (None, 1, 7 * MINUTE)


@pytest.mark.parametrize(
    "minutes", [0, -1, "5", True, math.inf, math.nan, 1e308, 10**400, timedelta(minutes=5), [5]], ids=repr
)
def test_a_timeout_that_is_no_number_of_minutes_is_an_error_that_names_it(store: Store, minutes: Any) -> None:
    session = session_of(begin(store), store=store)
    with pytest.raises(ValueError, match=re.escape(f"session.timeout is {minutes!r:.60}")):
        session.timeout = minutes
    assert session.timeout == 60
    session.save()


def test_now_is_the_moment_as_cherrypys_sessions_have_it(store: Store) -> None:
    assert session_of(store=store).now() == datetime.fromtimestamp(NOW)


# -------------------------------------------------------------------- rules 12, 15, 19


@pytest.mark.parametrize("locking", MODES)
def test_a_value_that_cannot_be_stored_leaves_the_stored_session_as_it_was(store: Store, locking: str) -> None:
    id = begin(store)
    session = session_of(id, store=store, locking=locking)
    session["n"] = 2
    session["bad"] = object()
    with pytest.raises(UnstorableValue, match="'bad'"):
        session.save()
    assert read(store, id) == {"n": 1}
    assert len(store.locks) == 0


class FailingStore(RamStore):
    """Does not answer to what `failing` names."""

    failing = ""

    def _ask(self, what: str, record: Record | None = None) -> None:
        if self.failing and self.failing in (what, f"{what} {record.kind if record else ''}"):
            raise Unavailable(what)

    def load(self, key: str) -> Record | None:
        self._ask("load")
        return super().load(key)

    def save(self, key: str, record: Record) -> None:
        self._ask("save", record)
        super().save(key, record)

    def remove(self, key: str) -> None:
        self._ask("remove")
        super().remove(key)


def read_and(work: Callable[[Session], None]) -> Callable[[Session], None]:
    return lambda session: (session.get("n"), work(session))[1]


ACTIONS: dict[str, tuple[Callable[[Session], Any], list[str]]] = {  # with what each of them asks of the store
    "read": (lambda session: session.get("n"), ["load"]),
    "write": (lambda session: session.update(n=2), ["load", "save"]),
    "regenerate": (Session.regenerate, ["load", "save session", "save moved"]),
    "sign in": (lambda session: session.sign_in("bob"), ["load", "save session", "save index", "save moved"]),
    "sign out": (Session.sign_out, ["load", "save session", "save moved"]),
    "delete": (Session.delete, ["load", "remove"]),
    "read and delete": (read_and(Session.delete), ["load", "remove"]),
    "read and sign out": (read_and(Session.sign_out), ["save session", "save moved"]),
}


def request_to(store: Store, id: str | None, action: str, locking: str) -> Session:
    """Return the session of a request that does this, and meets an error of the store."""
    session = session_of(id, store=store, locking=locking)
    with pytest.raises(StoreError):
        ACTIONS[action][0](session)
        session.save()
    session.rollback()
    return session


@pytest.mark.parametrize("locking", MODES)
@pytest.mark.parametrize(
    ("action", "failing"), [(action, failing) for action, (_, asked) in ACTIONS.items() for failing in asked]
)
def test_a_store_that_does_not_answer_is_a_503_and_nothing_else(
    clock: Clock, failing: str, action: str, locking: str
) -> None:
    store = opened(FailingStore, clock)
    assert isinstance(store, FailingStore)
    id = begin(store)
    before = store.load(store.key_of(id))
    store.failing = failing
    session = request_to(store, id, action, locking)
    store.failing = ""
    assert (session.cookie, session.state) == (None, RELEASED)
    assert store.load(store.key_of(id)) == before
    assert [key for key, _ in store.scan()] == [store.key_of(id)], "what was stored under a new id is left behind"
    assert store.live("bob") == {}
    assert len(store.locks) == 0


@pytest.mark.parametrize("locking", MODES)
@pytest.mark.parametrize("action", ["write", "sign in"])
def test_a_session_that_could_not_begin_is_a_503_and_sets_no_cookie(clock: Clock, action: str, locking: str) -> None:
    store = opened(FailingStore, clock)
    assert isinstance(store, FailingStore)
    store.failing = "save session"
    session = request_to(store, None, action, locking)
    assert (session.cookie, session.cookie_value, list(store.scan()), len(store.locks)) == (None, "", [], 0)


def test_after_the_answer_has_begun_only_a_block_may_write(store: Store) -> None:
    session = session_of(begin(store), store=store)
    session.save()
    session.sealed = True
    assert session["n"] == 1
    for write in (
        lambda: session.update(n=2), session.clear, lambda: session.pop("n"), lambda: session.setdefault("m", 1),
        session.regenerate, lambda: session.sign_in("ada"), session.sign_out,
    ):  # fmt: skip
        with pytest.raises(SessionClosed):
            write()
    with session.lock():
        session["n"] = 2
    assert read(store, session.id) == {"n": 2}
    assert session.user is None


def test_a_session_cannot_begin_or_move_after_the_answer_has_begun(store: Store) -> None:
    new, old = session_of(store=store), session_of(begin(store), store=store)
    for session in (new, old):
        session.sealed = True
        with pytest.raises(SessionClosed), session.lock():
            session.regenerate()
            session["n"] = 2
    assert read(store, old.id) == {"n": 1}
    assert store.count() == 1
    assert len(store.locks) == 0


# -------------------------------------------------------------------- within a request


class Pages:
    """Pages that save early and then fail."""

    @cherrypy.expose
    def index(self) -> str:
        cherrypy.session["n"] = cherrypy.session.get("n", 0) + 1
        return str(cherrypy.session["n"])

    @cherrypy.expose
    def login(self) -> str:
        cherrypy.session.regenerate()
        cherrypy.session["user"] = "ada"
        cherrypy.session.release_lock()
        raise RuntimeError("after the session was saved")

    @cherrypy.expose
    def block(self) -> str:
        with sessions.session_lock():
            cherrypy.session["n"] = 100
        raise RuntimeError("after the session was saved")

    @cherrypy.expose
    def fail(self) -> str:
        cherrypy.session.regenerate()
        cherrypy.session["n"] = 1000
        raise RuntimeError("before the session was saved")


@pytest.fixture(params=[{}, {"locking": "explicit"}, {"locking": "early"}], ids=str)
def client(request: pytest.FixtureRequest) -> Iterator[WsgiClient]:
    yield WsgiClient(application(Pages(), **request.param))


def test_a_new_id_that_was_saved_reaches_the_browser_though_the_page_fails_then(client: WsgiClient) -> None:
    """Else the visitor is left with the old id, which is dead, and has lost the session."""
    client.get()
    before = dict(client.cookies)
    assert client.get("/login").status == 500
    assert client.cookies != before
    assert client.get().text == "2"
    assert WsgiClient(client.app, before).get().text == "1"


def test_a_session_begun_in_a_block_reaches_the_browser_though_the_page_fails_then(client: WsgiClient) -> None:
    assert client.get("/block").status == 500
    assert client.get().text == "101"


def test_a_page_that_fails_saves_nothing_and_sets_no_cookie(client: WsgiClient) -> None:
    client.get()
    answer = client.get("/fail")
    assert (answer.status, list(answer.cookies)) == (500, [])
    assert client.get().text == "2"


def test_the_data_of_a_record_is_never_shared_between_requests(store: Store) -> None:
    id = begin(store)
    first = session_of(id, store=store)
    first["list"] = [1]
    first.save()
    second = session_of(id, store=store)
    second["list"].append(2)
    second.rollback()
    assert read(store, id) == {"n": 1, "list": [1]}
    assert codec.encode({"list": [1]}) == '{"list":[1]}'
