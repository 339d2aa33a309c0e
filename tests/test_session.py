"""The rules of a session within a request: Session objects over real stores, the clock moved by hand, no HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import cherrypy
import pytest

import sessions
from sessions import Hold, Record, Session, SessionClosed, Store, Unavailable, UnstorableValue, codec
from sessions.backends.file import FileStore
from sessions.backends.ram import RamStore
from sessions.settings import Settings
from sessions.testing import NOW, Clock, opened

from .wsgi import Client, application

MINUTE = 60.0
MODES = ("implicit", "early", "explicit")


def session_of(id: str | None = None, *, store: Store, **options: Any) -> Session:
    """A session as the tool makes it, for a browser that sends this id."""
    return Session(lambda: id, store=store, settings=Settings(Session, **options))


class CountingHold(Hold):
    """A hold that notes its way back to the store: one, as commit saves and lets go together."""

    __slots__ = ("_calls",)

    def __init__(self, store: CountingStore, key: str, record: Record | None) -> None:
        super().__init__(store, key, record)
        self._calls = store.calls

    def commit(self, record: Record) -> bool:
        noted = len(self._calls)
        saved = super().commit(record)
        self._calls[noted:] = ["commit"]
        return saved

    def _unlock(self) -> None:
        self._calls.append("release")


class CountingStore(RamStore):
    """Notes each call that would be a round trip to a server."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def _hold(self, key: str, timeout: float) -> Hold:
        self.calls.append("acquire")
        return CountingHold(self, key, super().load(key))

    def load(self, key: str) -> Record | None:
        self.calls.append("load")
        return super().load(key)

    def create(self, key: str, record: Record) -> None:
        self.calls.append("create")
        super().create(key, record)

    def replace(self, key: str, record: Record) -> bool:
        self.calls.append("replace")
        return super().replace(key, record)


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
    """The id of a new session with n=1."""
    session = session_of(store=store, **options)
    session["n"] = 1
    session.save()
    return session.id


def read(store: Store, id: str) -> dict[Any, Any] | None:
    """What another visitor with this cookie would find; nothing is renewed."""
    session = session_of(id, store=store)
    found = None if session.missing else dict(session.items())
    session.discard()
    return found


def visit(store: Store, id: str, **options: Any) -> Session:
    """A request that only looks."""
    session = session_of(id, store=store, **options)
    session.get("n")
    session.save()
    return session


def deadline(store: Store, id: str) -> float:
    record = store.load(store.key_of(id))
    assert record
    return record.deadline - NOW


# -------------------------------------------------------------------- rules 1 and 2


def test_reading_makes_no_session(store: Store) -> None:
    session = session_of(store=store)
    assert (session.get("n"), "n" in session, list(session), bool(session)) == (None, False, [], False)
    session.save()
    assert (session.cookie, len(session)) == (None, 0)


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
    assert session.missing is bool(id)
    session.save()
    assert counting.calls == []


def test_the_id_that_is_told_is_the_id_that_is_stored(store: Store) -> None:
    session = session_of(store=store)
    told = session.id
    session["n"] = 1
    session.save()
    assert session.id == told
    assert read(store, told) == {"n": 1}


# -------------------------------------------------------------------- round trips


def test_an_untouched_session_costs_nothing(counting: CountingStore) -> None:
    id = begin(counting)
    del counting.calls[:]
    for session in (session_of(store=counting), session_of(id, store=counting)):
        session.save()
        assert not session.touched
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
    assert counting.calls == ["create"]


def test_signing_in_is_three_calls(counting: CountingStore) -> None:
    """The new id is stored, and word of the move is left under the old one."""
    id = begin(counting)
    del counting.calls[:]
    session = session_of(id, store=counting)
    session.sign_in("ada")
    session.save()
    assert counting.calls == ["acquire", "create", "commit"]


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
    session.discard()


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
def test_delete_is_final_for_the_request_and_the_old_id_is_a_stranger(
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
    assert len(session) == 0
    assert len(store.locks) == 0


@pytest.mark.parametrize("locking", ["implicit", "explicit"])
def test_a_save_does_not_bring_back_a_session_that_was_deleted_meanwhile(store: Store, locking: str) -> None:
    id = begin(store)
    session = session_of(id, store=store, locking=locking)
    session["n"] = 2
    session_of(id, store=store, locking="explicit").delete()
    session.save()
    assert read(store, id) is None
    session["n"] = 3
    session.save()
    assert len(session) == 0
    assert session.cookie is None


def test_a_session_deleted_between_two_saves_of_one_request_stays_deleted(store: Store) -> None:
    id = begin(store)
    session = session_of(id, store=store)
    session["n"] = 2
    session.release_lock()
    session_of(id, store=store).delete()
    session["n"] = 3
    session.save()
    assert read(store, id) is None
    assert len(session) == 0


def test_a_move_does_not_bring_back_a_session_that_was_deleted_meanwhile(store: Store) -> None:
    id = begin(store)
    session = session_of(id, store=store)
    session.regenerate()
    store.delete(session._stored.key)  # type: ignore[union-attr]
    session.save()
    assert len(session) == 0
    assert session.cookie is None


def test_deleting_what_was_made_in_the_same_request_leaves_nothing(store: Store) -> None:
    session = session_of(store=store)
    session["n"] = 1
    session.release_lock()
    session.delete()
    session.save()
    assert (session.cookie, len(session)) == ("expired", 0)


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
    assert len(session) == 1


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
    assert len(session) == 1


def test_a_new_id_and_a_deletion_leave_nothing(store: Store) -> None:
    old = begin(store)
    session = session_of(old, store=store)
    session.regenerate()
    new = session.id
    session.delete()
    session.save()
    assert [read(store, id) for id in (old, new)] == [None, None]
    assert (session.cookie, len(session)) == ("expired", 0)


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
    session.discard()
    assert session.cookie is None
    assert read(store, old) == {"n": 1}
    assert session.id == old
    session.discard()


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
    assert len(slow) == 1


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


def test_word_of_a_move_is_cleaned_away(store: Store, clock: Clock) -> None:
    login = session_of(begin(store), store=store)
    login.regenerate()
    login.save()
    clock.now = NOW + 61
    assert store.purge(10) == 1
    assert read(store, login.id) == {"n": 1}


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
    session.discard()
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
    session.discard()
    assert read(store, id) == {"n": 1}


def test_a_login_in_a_block_does_not_stay_under_the_planted_id_when_the_request_fails(store: Store) -> None:
    planted = begin(store)
    session = session_of(planted, store=store)
    session.get("n")
    with session.lock():
        session.regenerate()
        session["user"] = "ada"
    session.discard()
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
    assert len(session) == 0


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
    """Does not answer when it is told to."""

    failing: frozenset[str] = frozenset()

    def _ask(self, what: str) -> None:
        if what in self.failing:
            raise Unavailable(what)

    def load(self, key: str) -> Record | None:
        self._ask("load")
        return super().load(key)

    def create(self, key: str, record: Record) -> None:
        self._ask("create")
        super().create(key, record)

    def replace(self, key: str, record: Record) -> bool:
        self._ask("replace")
        return super().replace(key, record)

    def delete(self, key: str) -> None:
        self._ask("delete")
        super().delete(key)


@pytest.mark.parametrize("locking", MODES)
@pytest.mark.parametrize("failing", ["load", "create", "replace", "delete"])
@pytest.mark.parametrize("action", ["read", "write", "regenerate", "sign in", "sign out", "delete", "begin"])
def test_a_store_that_does_not_answer_is_a_503_and_nothing_else(
    clock: Clock, failing: str, action: str, locking: str
) -> None:
    store = opened(FailingStore, clock)
    assert isinstance(store, FailingStore)
    id = begin(store)
    session = session_of(None if action == "begin" else id, store=store, locking=locking)
    before = store.load(store.key_of(id))
    store.failing = frozenset({failing})
    try:
        if action in ("write", "begin"):
            session["n"] = 2
        elif action == "read":
            session.get("n")
        elif action == "sign in":
            session.sign_in("bob")
        elif action == "sign out":
            session.sign_out()
        else:
            getattr(session, action)()
        session.save()
    except cherrypy.HTTPError as error:
        assert error.code == 503
        assert session.cookie is None
        session.discard()
        store.failing = frozenset()
        assert store.load(store.key_of(id)) == before
    assert len(store.locks) == 0


def test_after_the_answer_has_begun_only_a_block_may_write(store: Store) -> None:
    session = session_of(begin(store), store=store)
    session.save()
    session.seal()
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
        session.seal()
        with pytest.raises(SessionClosed), session.lock():
            session.regenerate()
            session["n"] = 2
    assert read(store, old.id) == {"n": 1}
    assert len(new) == 1
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
def client(request: pytest.FixtureRequest) -> Iterator[Client]:
    yield Client(application(Pages(), **request.param))


def test_a_new_id_that_was_saved_reaches_the_browser_though_the_page_fails_then(client: Client) -> None:
    """Else the visitor is left with the old id, which is dead, and has lost the session."""
    client.get()
    before = dict(client.jar)
    assert client.get("/login").status == 500
    assert client.jar != before
    assert client.get().text == "2"
    assert Client(client.app, before).get().text == "1"


def test_a_session_begun_in_a_block_reaches_the_browser_though_the_page_fails_then(client: Client) -> None:
    assert client.get("/block").status == 500
    assert client.get().text == "101"


def test_a_page_that_fails_saves_nothing_and_sets_no_cookie(client: Client) -> None:
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
    second.discard()
    assert read(store, id) == {"n": 1, "list": [1]}
    assert codec.encode({"list": [1]}) == b'{"list":[1]}'
