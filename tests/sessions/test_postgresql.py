"""The PostgreSQL backend on real servers that hang, die and come back. Its good days are in `test_contract.py`."""

from __future__ import annotations

import hashlib
import logging
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from services import free_port
from services.postgresql import Postgresql
from services.proxy import Proxy
from sessions import ConfigError, Event, Hold, Record, Unavailable, subscribe
from sessions.backends.postgresql import PostgresqlStore, connection
from sessions.backends.postgresql.table import table_sql
from sessions.errors import CorruptRecord, LockTimeout
from sessions.events import unsubscribe
from sessions.testing import LONG, NOW, SHORT, Clock, a_record, count_of, opened
from tests.sessions.test_rules import Server as SiteProcess
from tests.support.backends import postgresql, table_of
from tests.support.pgbouncer import PgBouncer
from tests.support.process import ROOT, wait_until

OpenStore = Callable[..., PostgresqlStore]

# The names in the statements below are the tests' own.
# ruff: noqa: S608


@pytest.fixture
def table(tmp_path: Path) -> str:
    return table_of(tmp_path)


@pytest.fixture
def own() -> Iterator[Postgresql]:
    """A server that this test may torture."""
    folder = Path(tempfile.mkdtemp(prefix="sessions-postgresql-"))
    folder.chmod(0o755)
    server = Postgresql(folder / "server")
    server.start()
    yield server
    server.stop()
    shutil.rmtree(folder)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def open_store(table: str, clock: Clock) -> Iterator[OpenStore]:
    """Opens a store as another process of the site would."""
    stores = []

    def open_store(dsn: str | None = None, table: str = table, **options: Any) -> PostgresqlStore:
        store = opened(lambda: PostgresqlStore(dsn=dsn or postgresql().dsn, table=table, **options), clock)
        assert isinstance(store, PostgresqlStore)
        stores.append(store)
        return store

    yield open_store
    for store in stores:
        assert len(store.locks) == 0, "a lock is left behind"
        store.close()


@pytest.fixture
def store(open_store: OpenStore) -> PostgresqlStore:
    return open_store()


def a_key(store: PostgresqlStore, user: str = "", **values: Any) -> str:
    """Store a session."""
    return store.create(store.new_key(), a_record({"n": 1} | values, user=user))


def add_one(store: PostgresqlStore, key: str, times: int = 1) -> None:
    """Count up under the lock, as a page does."""
    for _ in range(times):
        hold = store.acquire(key, LONG)
        assert hold.record
        assert hold.commit(hold.record._replace(data=a_record({"n": count_of(hold.record) + 1}).data))


@contextmanager
def heard(*names: str) -> Iterator[list[Event]]:
    """Collect the events of these names."""
    events: list[Event] = []
    note = events.append
    subscribe(note, *names)
    try:
        yield events
    finally:
        unsubscribe(note)


def sql(statement: str, *params: Any, dsn: str | None = None) -> list[tuple[Any, ...]]:
    """Ask the server past the store."""
    with psycopg.connect(dsn or postgresql().dsn, autocommit=True) as connection:
        cursor = connection.execute(statement, params)  # type: ignore[arg-type]
        return cursor.fetchall() if cursor.description else []


def terminate(application: str = "sessions", dsn: str | None = None) -> None:
    """Close the connections of the stores, as an administrator would."""
    sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s", application, dsn=dsn)


def wait_for_a_lock() -> None:
    """Wait until somebody waits for one."""
    wait_until(lambda: sql("SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"))


def until_it_answers(use: Callable[[], Any]) -> Any:
    """Repeat until the server has seen that the connections of before are closed, and the store that it is back."""
    end = time.monotonic() + LONG
    while True:
        try:
            return use()
        except (Unavailable, LockTimeout):
            assert time.monotonic() < end


# ---------------------------------------------------------------- round trips


def test_a_store_makes_as_few_round_trips_as_it_can(open_store: OpenStore) -> None:
    with Proxy(postgresql().port) as proxy:
        store = open_store(f"postgresql://sessions@{proxy.address}/sessions")
        store.ping()  # opens the connection
        with proxy.expect(1):
            key = a_key(store, "ada")
        with proxy.expect(1):
            store.load(key)
        with proxy.expect(2):
            add_one(store, key)
        with proxy.expect(2):
            store.acquire(key, LONG).release()
        with proxy.expect(2):
            store.delete(key)
        for one_trip in (store.count, lambda: store.purge(10), lambda: store.live("ada"), lambda: list(store.scan())):
            with proxy.expect(1):
                one_trip()


def test_a_request_makes_as_few_round_trips_as_it_can(table: str) -> None:
    with Proxy(postgresql().port) as proxy:
        dsn = f"postgresql://sessions@{proxy.address}/sessions"
        with SiteProcess("postgresql", dsn=dsn, table=table) as site:
            site.visitor().get("/count")  # opens the connection
            visitor = site.visitor()
            for path, trips in [
                ("/untouched", 0), ("/count", 1), ("/untouched", 0), ("/count", 2), ("/read", 2), ("/explicit/read", 1),
            ]:  # fmt: skip
                with proxy.expect(trips):
                    assert visitor.get(path).status == 200
            assert visitor.get("/read").text == "2"


def test_a_user_with_few_sessions_is_listed_in_one_round_trip_and_all_in_batches(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sessions.backends.postgresql._BATCH", 4)
    with Proxy(postgresql().port) as proxy:
        store = open_store(f"postgresql://sessions@{proxy.address}/sessions")
        store.ping()  # opens the connection
        keys = [a_key(store, user) for user in 3 * ["ada"] + 8 * ["bob"] + 2 * [""]]
        for user, found, trips in [("ada", keys[:3], 1), ("bob", keys[3:11], 3), ("eve", [], 1)]:
            with proxy.expect(trips):
                assert list(store.live(user)) == sorted(found)
        with proxy.expect(4):
            assert [key for key, _ in store.scan()] == sorted(keys)


# ---------------------------------------------------------------- options and the start


@pytest.mark.parametrize("table", ["", "a b", 'a"b', "1a", "a.b.c", "a;", "x" * 51, "é", 5, None])
def test_a_table_has_a_plain_name(table: Any) -> None:
    with pytest.raises(ConfigError, match="^table is .*letters, digits"):
        PostgresqlStore(dsn="", table=table)


@pytest.mark.parametrize("dsn", ["postgresql://u:geheim@[", "password=geheim nonsense", "host=a geheim=b", 5])
def test_a_wrong_dsn_is_refused_without_being_quoted(dsn: Any) -> None:
    with pytest.raises(ConfigError, match="^dsn ") as refused:
        PostgresqlStore(dsn=dsn)
    assert "geheim" not in str(refused.value)


@pytest.mark.parametrize("seconds", [0, -1, 3.1, True, "1"])
def test_a_wrong_server_timeout_is_refused(seconds: Any) -> None:
    with pytest.raises(ConfigError, match="^server_timeout is .* at most 3"):
        PostgresqlStore(dsn="", server_timeout=seconds)


def test_without_the_driver_options_can_be_listed_and_a_store_names_the_command_that_installs_it() -> None:
    code = """import sys
sys.modules["psycopg"] = None
from sessions import options, registry
session_class = registry.backend("postgresql")
print(*options.store_options(session_class))
try:
    session_class.store_class(dsn="")
except ValueError as error:
    print(error)"""
    command = [sys.executable, "-c", code]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    assert said[0] == "dsn table server_timeout"
    assert said[1].endswith("pip install 'psycopg[binary]' psycopg_pool")


def test_a_server_that_is_down_at_the_start_is_named_with_the_command_that_starts_one() -> None:
    port = free_port()
    with pytest.raises(Unavailable, match=rf"127\.0\.0\.1:{port}/shop: .*make services") as refused:
        PostgresqlStore(dsn=f"postgresql://ada:geheim@127.0.0.1:{port}/shop")
    assert "geheim" not in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


def test_a_database_that_does_not_exist_is_unavailable_and_named() -> None:
    with pytest.raises(Unavailable, match='database "shop" does not exist'):
        PostgresqlStore(dsn=f"postgresql://sessions@127.0.0.1:{postgresql().port}/shop")


# ---------------------------------------------------------------- the table


FORMAT_1 = """\
CREATE TABLE {table} (key text COLLATE "C" PRIMARY KEY, format smallint NOT NULL DEFAULT 1, kind text NOT NULL,
    created double precision NOT NULL, deadline double precision NOT NULL, timeout double precision,
    account text NOT NULL, remembered boolean NOT NULL, data text NOT NULL) WITH (fillfactor = 70);
CREATE INDEX {table}_deadline ON {table} (deadline);
CREATE INDEX {table}_account ON {table} (left(account, 500), key) WHERE account <> '';
INSERT INTO {table} VALUES
('0123abcd-a', 1, 'session', 1999999940.25, 2000000600.5, NULL, '', false, '{"n": 1}'),
('0123abcd-b', 1, 'session', 1999999940, 2000000600, 2.5, '%C3%A9%25%00 @+-', true, '{"at": {"$date": "2026-02-28"}}'),
('0123abcd-c', 1, 'moved', 2000000000, 2000000060, NULL, '', false, '0123abcd-b')"""
"""A table with all that format 1 can say, as the first release with a format made it. It is never changed."""

RECORDS = {
    "0123abcd-a": Record('{"n": 1}', 1999999940.25, 2000000600.5),
    "0123abcd-b": Record('{"at": {"$date": "2026-02-28"}}', NOW - 60, NOW + 600, "é%\0 @+-", True, 2.5),
    "0123abcd-c": Record("0123abcd-b", NOW, NOW + 60, kind="moved"),
}


def test_the_table_of_format_1_is_read_and_still_written(open_store: OpenStore, table: str) -> None:
    for statement in FORMAT_1.replace("{table}", table).split(";\n"):
        sql(statement.replace("%", "%%"))
    old, new = open_store(), open_store(table=f"{table}_new")
    for key, record in RECORDS.items():
        assert old.load(key) == record
        new.create(key, record)
    assert sql(f"TABLE {table} ORDER BY key") == sql(f"TABLE {table}_new ORDER BY key")


def test_two_processes_that_start_at_once_where_tables_are_missing_both_start(table: str) -> None:
    tables = [f"{table}_{n}" for n in range(20)]  # so many that both come to one at about the same time
    code = (
        "import sys; from sessions.backends.postgresql import PostgresqlStore as S; print('ready', flush=True); "
        "[S(dsn=sys.argv[1], table=line.strip()).close() for line in sys.stdin]"
    )
    command = [sys.executable, "-c", code, postgresql().dsn]
    both = [subprocess.Popen(command, cwd=ROOT, stdin=-1, stdout=-1, stderr=-1, text=True) for _ in range(2)]
    assert [process.stdout.readline() for process in both if process.stdout] == ["ready\n"] * 2
    for process in both:
        assert process.stdin
        process.stdin.writelines(f"{each}\n" for each in tables)
        process.stdin.flush()
    assert [process.communicate(timeout=LONG)[1] for process in both] == ["", ""]
    assert [process.returncode for process in both] == [0, 0]
    assert [sql(f"TABLE {each}") for each in tables] == [[]] * 20


def test_a_start_does_not_wait_for_ever_for_one_that_is_making_the_table(
    open_store: OpenStore, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "START_TIMEOUT", SHORT)
    with psycopg.connect(postgresql().dsn) as other:
        other.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", [f"sessions table {table}"])
        with pytest.raises(ConfigError, match=f"making it for {SHORT} s; .* python -m sessions sql --table {table}$"):
            open_store()
    open_store()


@pytest.fixture
def guest(table: str) -> str:
    """Return the dsn of a user who may create nothing."""
    sql(f'CREATE ROLE "{table}" LOGIN')
    return f"postgresql://{table}@127.0.0.1:{postgresql().port}/sessions"


def test_a_user_without_the_right_to_create_can_use_the_table(open_store: OpenStore, table: str, guest: str) -> None:
    with pytest.raises(ConfigError, match=f"permission denied.* python -m sessions sql --table {table}$"):
        open_store(guest)
    sql(table_sql(table))
    with pytest.raises(ConfigError, match="permission denied"):
        open_store(guest)
    sql(f'GRANT SELECT, INSERT ON "{table}" TO "{table}"')
    with pytest.raises(ConfigError, match="rights SELECT, INSERT, UPDATE, DELETE"):
        open_store(guest)
    sql(f'GRANT UPDATE, DELETE ON "{table}" TO "{table}"')
    store = open_store(guest)
    key = a_key(store)
    add_one(store, key)
    assert count_of(store.load(key)) == 2
    assert store.count() == 1


def test_the_table_may_be_in_a_schema(open_store: OpenStore, table: str) -> None:
    with pytest.raises(ConfigError, match=f'schema "{table}" does not exist'):
        open_store(table=f"{table}.user")
    sql(f'CREATE SCHEMA "{table}"')
    store = open_store(table=f"{table}.user")  # a reserved word, too
    a_key(store)
    assert sql(f'SELECT count(*) FROM "{table}"."user"') == [(1,)]
    assert store.count() == 1


@pytest.mark.parametrize(
    "columns",
    ["value text", "data text, created float, deadline float, account text, remembered boolean"],
    ids=["something else", "an earlier version"],
)
def test_a_table_with_other_columns_is_left_alone_and_the_start_says_so(
    open_store: OpenStore, table: str, columns: str
) -> None:
    sql(f'CREATE TABLE "{table}" (key text, {columns})')
    before = sql("SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass", table)
    with pytest.raises(ConfigError, match=f"earlier version .* python -m sessions sql --table {table}$"):
        open_store()
    assert sql("SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass", table) == before


def test_the_sql_can_be_printed_and_run_by_hand(open_store: OpenStore, table: str) -> None:
    command = [sys.executable, "-m", "sessions", "sql", "--table", table]
    for _ in range(2):
        sql(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)
    a_key(open_store())
    wrong = subprocess.run([*command[:-1], "a b"], cwd=ROOT, capture_output=True, text=True)
    assert wrong.returncode == 2
    assert wrong.stderr.splitlines()[-1].startswith("python -m sessions: error: table is 'a b'")


def test_nine_of_ten_updates_of_live_sessions_are_heap_only(store: PostgresqlStore, table: str) -> None:
    users = 25 * ["ada", ""]
    keys = [a_key(store, user, fill="x" * 300) for user in users]
    for n in range(20):
        for key, user in zip(keys, users, strict=True):
            assert store.acquire(key, LONG).commit(a_record({"n": n, "fill": "x" * 300}, user=user))
    store.close()  # a server process reports its figures when it ends, if not before
    query = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = %s"
    wait_until(lambda: sql(query, table)[0][0] >= 1000)
    ((updates, hot),) = sql(query, table)
    assert updates == 1000
    assert hot >= 900


def test_a_person_is_told_where_a_session_is_and_what_stands_there(store: PostgresqlStore, table: str) -> None:
    key = store.create(store.new_key(), record := a_record({"n": 1}, user="Ada Lovelace"))
    assert re.search(rf"row of table {table} at 127.0.0.1:\d+/sessions .* {key}$", store.describe_location(key))
    names = "key, format, kind, created, deadline, timeout, account, remembered, data"
    (row,) = sql(f"SELECT {names} FROM {table}")
    lines = [f"{name}: {value}" for name, value in zip(names.split(", "), row, strict=True)]
    assert store.describe_record(key, record).splitlines() == lines


# ---------------------------------------------------------------- users


@pytest.mark.parametrize("analysed", [False, True])
def test_the_sessions_of_a_user_are_found_by_the_index_and_no_others_are_looked_at(
    store: PostgresqlStore, table: str, analysed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    sql(f"""INSERT INTO {table} SELECT namespace || '-' || encode(sha256(n::text::bytea), 'hex'),
        1, 'session', 1, 3e9, NULL, account, false, '{{}}'
        FROM generate_series(1, 10000) AS n, unnest(ARRAY['0123abcd', 'ffffffff']) AS namespace,
        LATERAL (SELECT CASE WHEN n <= 3 THEN 'ada' WHEN mod(n, 3) = 0 THEN '' ELSE 'bob' END AS account) AS x""")
    if analysed:
        sql(f"ANALYZE {table}")
    asked: list[tuple[Any, ...]] = []
    query = store.pool.query

    def noted(*question: Any) -> Any:
        asked.append(question)
        return query(*question)

    monkeypatch.setattr(store.pool, "query", noted)
    assert len(store.live("ada")) == 3
    assert len(asked) == 1
    assert len(store.live("bob")) > 6000
    for statement, *params in (asked[0], asked[1], asked[30]):
        plan = "\n".join(line for (line,) in query(f"EXPLAIN (ANALYZE) {statement}", *params))
        assert f"Index Scan using {table}_account on {table}" in plan
        for more_than_needed in ("Seq Scan", "Sort", "Bitmap", "Rows Removed"):
            assert more_than_needed not in plan


def test_accounts_are_told_apart_and_found_however_long_their_names_are(store: PostgresqlStore) -> None:
    names = [secrets.token_hex(3000), 3000 * "x", 3000 * "x" + "y", 3000 * "é"]
    keys = [a_key(store, name) for name in names]
    for name, key in zip(names, keys, strict=True):
        assert {found: record.user for found, record in store.live(name).items()} == {key: name}


def test_plain_names_can_be_read_in_the_table(store: PostgresqlStore, table: str) -> None:
    for name in ("ada", "Ada Lovelace", "ada+x@example.org", "é%\0"):
        a_key(store, name)
    query = f'SELECT account FROM {table} ORDER BY account COLLATE "C"'
    assert sql(query) == [("%C3%A9%25%00",), ("Ada Lovelace",), ("ada",), ("ada+x@example.org",)]


def test_who_is_not_signed_in_is_no_user(store: PostgresqlStore) -> None:
    a_key(store)
    assert store.live("") == {}


# ---------------------------------------------------------------- rows that cannot be read


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("account = '%%ff'", "percent-quoted"),
        ("format = 2", "row format 2 is unknown: a later release"),
        ("kind = 'other'", "'other' is no kind of record"),
    ],
)
def test_a_row_that_cannot_be_read_is_quarantined_once_and_hides_no_other(
    store: PostgresqlStore, table: str, clock: Clock, change: str, why: str
) -> None:
    keys = sorted(a_key(store, "ada") for _ in range(3))
    sql(f"UPDATE {table} SET {change} WHERE key = '{keys[1]}'")
    others = [keys[0], keys[2]]
    with heard("quarantined", "expired") as events:
        assert [key for key, _ in store.scan()] == list(store.live("ada")) == others
        with pytest.raises(CorruptRecord, match=why):
            store.load(keys[1])
        assert events == []
        for _ in range(2):
            assert not store.acquire(keys[1], LONG).commit(a_record())
        assert [(event.name, event.key) for event in events] == [("quarantined", keys[1])]
        assert why in events.pop().details["why"]
        query = f"SELECT key FROM {table} ORDER BY key"
        assert sql(query) == [(keys[0],), (keys[2],), (f"unreadable:{keys[1]}",)]
        clock.now += 1000  # it goes with the others, and is no session that has expired
        assert store.purge(10) == 3
        assert sorted((event.name, event.key) for event in events) == [("expired", key) for key in others]


def test_values_that_cannot_be_read_are_kept_in_quarantine_and_not_announced_as_expired(
    store: PostgresqlStore, table: str, clock: Clock
) -> None:
    key = a_key(store)
    store.acquire(key, LONG).quarantine(ValueError("torn"))
    assert sql(f"SELECT key FROM {table}") == [(f"unreadable:{key}",)]
    assert (store.load(key), list(store.scan()), store.count()) == (None, [], 0)
    clock.now += 1000
    with heard("expired") as events:
        assert store.purge(10) == 1
    assert events == []


def test_an_unreadable_row_is_a_fresh_session_and_logged_once(table: str) -> None:
    with SiteProcess("postgresql", table=table) as site:
        visitor = site.visitor()
        visitor.get("/count")
        key = hashlib.sha256(visitor.cookies["session_id"].encode()).hexdigest()
        sql(f"UPDATE {table} SET data = 'é no JSON'")
        old = visitor.twin()
        assert visitor.get("/count").text == "1"
        assert old.get("/read").text == "None"
        logged = re.findall("unreadable record of session quarantined.*", site.output())
        assert len(logged) == 1
        assert f"session={key[:8]}" in logged[0]
        kept = sql(f"SELECT key FROM {table} WHERE data = 'é no JSON'")
        assert [name.startswith("unreadable:") and name.endswith(key) for (name,) in kept] == [True]


# ---------------------------------------------------------------- what is shared


def test_a_lock_is_waited_for_in_steps_and_got_when_it_is_free(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "LOCK_STEP", 0.02)
    store, other = open_store(), open_store()
    key = a_key(store)
    hold = store.acquire(key, LONG)
    with pytest.raises(LockTimeout, match="by another process for 0.05 seconds"):
        other.acquire(key, SHORT)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(other.acquire, key, LONG)
        wait_for_a_lock()
        assert hold.commit(a_record({"n": 2}))
        assert count_of(waiting.result(LONG).record) == 2
        waiting.result().release()


def test_deleting_what_another_process_holds_waits_no_longer_than_its_bound(open_store: OpenStore) -> None:
    store, other = open_store(), open_store()
    key = a_key(store)
    hold = store.acquire(key, LONG)
    with pytest.raises(LockTimeout):
        other.delete(key, SHORT)
    assert hold.commit(a_record({"n": 2}))
    other.delete(key)
    assert store.load(key) is None


def test_a_cleaner_in_another_process_skips_what_is_held(open_store: OpenStore) -> None:
    store, cleaner = open_store(), open_store()
    keys = [store.create(store.new_key(), a_record(deadline=NOW - 1)) for _ in range(10)]
    hold = store.acquire(keys[0], LONG)
    assert [cleaner.purge(5) for _ in range(3)] == [5, 4, 0]
    assert hold.commit(a_record())
    assert cleaner.purge(5) == 0
    assert store.load(keys[0]) == a_record()


def test_a_save_whose_row_has_gone_stores_nothing(store: PostgresqlStore, table: str) -> None:
    """Nobody else can remove it while it is locked: so it goes by the lock's own transaction, as by a trigger."""
    key = a_key(store)
    hold = store.acquire(key, LONG)
    hold._connection.execute(f"DELETE FROM {table}")  # type: ignore[attr-defined]
    assert not hold.commit(a_record())
    assert store.load(key) is None


# ---------------------------------------------------------------- the pool


def test_requests_that_hold_sessions_leave_connections_for_the_others(open_store: OpenStore) -> None:
    store = open_store(server_timeout=0.5)
    holds = [store.acquire(a_key(store), LONG) for _ in range(connection.MAX_HOLDS)]
    one_more = a_key(store)
    with pytest.raises(Unavailable, match=f"all {connection.MAX_HOLDS} connections"):
        store.acquire(one_more, LONG)
    assert count_of(store.load(one_more)) == 1
    for hold in holds:
        hold.release()
    add_one(store, one_more)
    open_now = sql("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'sessions' AND query LIKE %s",
                   f"%{store.namespace}%")  # fmt: skip
    assert open_now[0][0] <= connection.MAX_CONNECTIONS


def test_all_at_once_nobody_waits_for_a_second_connection_for_ever(store: PostgresqlStore) -> None:
    """Each holder stores a second session, as every login does; there are more of them than connections."""
    together = threading.Barrier(connection.MAX_HOLDS)

    def move(key: str) -> bool:
        hold = store.acquire(key, LONG)
        together.wait(LONG)
        return hold.commit(Record.tombstone(a_key(store), NOW))

    with ThreadPoolExecutor(connection.MAX_HOLDS) as pool:
        assert all(pool.map(move, [a_key(store) for _ in range(connection.MAX_HOLDS)]))


def test_through_a_transaction_pooler_everything_works(open_store: OpenStore, tmp_path: Path) -> None:
    with PgBouncer(tmp_path, postgresql().port) as pooler:
        stores = [open_store(pooler.dsn), open_store(pooler.dsn)]
        key = a_key(stores[0], n=0)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda n: add_one(stores[n % 2], key, 25), range(8)))
        assert count_of(stores[0].load(key)) == 200
        hold = stores[0].acquire(key, LONG)
        with pytest.raises(LockTimeout):
            stores[1].acquire(key, SHORT)
        hold.delete()
        assert stores[1].load(key) is None
        assert stores[0].purge(10) == 0
        key = a_key(stores[0], "ada")
        assert list(stores[1].live("ada")) == [key]


# ---------------------------------------------------------------- faults


def test_a_store_finds_its_way_back_after_each_restart(own: Postgresql, open_store: OpenStore) -> None:
    store = open_store(own.dsn)
    key = a_key(store)
    for fault in (own.restart, lambda: terminate(dsn=own.dsn)):
        for use in (lambda: add_one(store, key), lambda: store.load(key), lambda: a_key(store), store.count):
            fault()
            use()  # no error: the connection that was open is replaced
    assert count_of(store.load(key)) == 3


def test_a_connection_cut_during_a_save_leaves_the_old_record_or_the_new_one(open_store: OpenStore) -> None:
    with Proxy(postgresql().port) as proxy:
        store = open_store(f"postgresql://sessions@{proxy.address}/sessions")
        key = a_key(store)
        hold = store.acquire(key, LONG)
        proxy.cut_next, proxy.cut_to = True, b"COMMIT"  # the server does it, and its answer gets lost
        with pytest.raises(Unavailable):
            hold.commit(a_record({"n": 2}))
        assert count_of(store.load(key)) == 2
        hold = store.acquire(key, LONG)
        proxy.cut()  # the server never hears of it
        with pytest.raises(Unavailable):
            hold.commit(a_record({"n": 3}))
        assert count_of(store.load(key)) == 2
        add_one(store, key)
        assert count_of(store.load(key)) == 3


def test_a_connection_that_dies_under_a_page_that_only_reads_is_no_error(open_store: OpenStore) -> None:
    with Proxy(postgresql().port) as proxy:
        store = open_store(f"postgresql://sessions@{proxy.address}/sessions")
        key = a_key(store)
        hold = store.acquire(key, LONG)
        proxy.cut()
        hold.release()
        before = count_of(store.load(key))
        add_one(store, key)
        assert count_of(store.load(key)) == before + 1


@pytest.mark.parametrize("moment", ["acquire", "commit", "delete", "quarantine", "release"])
def test_who_waits_behind_the_one_that_finds_the_server_stopped_is_refused_with_it(
    own: Postgresql, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Four requests on one session once took 4, 7, 10 and 10 s. Now the server is asked once for all four."""
    store = open_store(own.dsn, server_timeout=0.2)
    key, asked, refused = a_key(store), list[str](), list[str]()
    under_way, all_wait, queued = threading.Event(), threading.Event(), threading.Semaphore(0)
    query, take = connection.Connection.query, connection.Pool._take

    def counted(self: connection.Connection, statement: str, *args: Any) -> connection.Cursor:
        asked.append(statement)
        under_way.set()
        assert all_wait.wait(LONG)
        return query(self, statement, *args)

    def taken(self: connection.Pool) -> connection.Connection:
        asked.append("a connection")
        return take(self)

    def note(event: Event) -> None:
        queued.release()

    def ask() -> None:
        with pytest.raises(Unavailable) as error:
            store.acquire(key, LONG)
        refused.append(str(error.value))

    hold = store.acquire(key, LONG) if moment != "acquire" else None
    find_out: dict[str, Callable[[Hold], object]] = {
        "commit": lambda hold: hold.commit(a_record({"n": 9})),
        "delete": lambda hold: hold.delete(),
        "quarantine": lambda hold: hold.quarantine(ValueError("torn")),
    }
    own.pause()
    subscribe(note, "queued")
    try:
        with monkeypatch.context() as patch, ThreadPoolExecutor(4) as pool:
            patch.setattr(connection.Connection, "query", counted)
            patch.setattr(connection.Pool, "_take", taken)
            jobs = [pool.submit(ask)] if not hold else []
            assert not jobs or under_way.wait(LONG)
            for _ in range(3):
                jobs.append(pool.submit(ask))
                assert queued.acquire(timeout=LONG)
            all_wait.set()
            if hold and moment == "release":
                hold.release()  # no error: the page has what it wanted
            elif hold:
                with pytest.raises(Unavailable) as found:
                    find_out[moment](hold)
                refused.append(str(found.value))
            for job in jobs:
                job.result(LONG)
    finally:
        unsubscribe(note)
        own.resume()
    assert len(asked) == (2 if moment == "acquire" else 1), asked
    assert len(refused) == (3 if moment == "release" else 4)
    assert len(set(refused)) == 1
    assert "127.0.0.1" in refused[0]
    record = until_it_answers(lambda: store.load(key))
    expected = {"commit": (1, 9), "delete": (1, -1), "quarantine": (1, -1)}  # it may have been done, or not
    assert count_of(record) in expected.get(moment, (1,))
    until_it_answers(lambda: store.acquire(key, SHORT)).release()


def test_the_server_timeout_of_a_store_is_its_own(
    own: Postgresql, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, bounds, wait = open_store(own.dsn, server_timeout=0.25), list[Any](), psycopg.Connection.wait

    def noted(self: Any, gen: Any, interval: float, timeout: float | None) -> Any:
        bounds.append(timeout)
        return wait(self, gen, interval, timeout)

    key = a_key(store)
    monkeypatch.setattr(psycopg.Connection, "wait", noted)
    store.load(key)
    store.acquire(key, LONG).release()  # it may have to wait for a lock, a second in one piece
    assert bounds == [0.25, 1.25, 0.25]
    assert store.addresses == (f"127.0.0.1:{own.port}",)


def test_a_site_survives_what_becomes_of_its_server(own: Postgresql, table: str) -> None:
    """Killed and started again: 503 meanwhile, cookies left alone, and the session is there again by itself."""
    with SiteProcess("postgresql", dsn=own.dsn, table=table) as site:
        visitor = site.visitor()
        assert [visitor.get("/count").text for _ in range(2)] == ["1", "2"]
        own.kill()
        for somebody in (visitor, site.visitor()):
            answer = somebody.get("/count")
            assert (answer.status, answer.set_cookie) == (503, [])
            assert int(answer.headers["retry-after"]) > 0
            assert str(own.port) not in answer.text
        assert visitor.get("/untouched").status == 200
        own.start()
        wait_until(lambda: visitor.get("/read").status == 200)
        assert visitor.get("/count").text == "3"
        own.restart()
        assert visitor.get("/count").text == "4"
        warnings = re.findall(rf"Unavailable: PostgreSQL at 127\.0\.0\.1:{own.port}/sessions: .+", site.output())
        assert warnings
        assert visitor.cookies["session_id"] not in site.output()
        assert "Traceback" not in site.output()


def test_while_the_server_is_down_one_request_waits_and_the_others_are_refused_at_once(
    own: Postgresql, open_store: OpenStore
) -> None:
    store = open_store(own.dsn, server_timeout=0.5)
    key = a_key(store)
    own.kill()
    with pytest.raises(Unavailable, match="couldn't get a connection"):
        store.load(key)

    def what_is_said(_: int) -> str:
        with pytest.raises(Unavailable) as error:
            store.load(key)
        return str(error.value)

    with ThreadPoolExecutor(10) as pool:
        said = list(pool.map(what_is_said, range(10)))
    assert sum("another request is looking" in line for line in said) >= 5
    own.start()
    assert count_of(until_it_answers(lambda: store.load(key))) == 1


def test_a_connection_that_is_terminated_under_a_held_session_saves_nothing(table: str) -> None:
    with SiteProcess("postgresql", table=table) as site, ThreadPoolExecutor(1) as pool:
        visitor = site.visitor()
        visitor.get("/count")
        answer = pool.submit(visitor.twin().get, "/hold?word=go")
        site.listen("go-in")
        terminate()
        site.say("go")
        assert (answer.result(LONG).status, answer.result().set_cookie) == (503, [])
        assert visitor.get("/count").text == "2"


def test_what_goes_wrong_is_logged_in_a_line_without_what_is_in_the_session(
    own: Postgresql, open_store: OpenStore, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store(own.dsn)
    key = a_key(store)
    hold = store.acquire(key, LONG)
    own.kill()
    with caplog.at_level(logging.INFO), pytest.raises(Unavailable) as error:
        hold.commit(a_record({"secret": "geheim"}))
    assert "geheim" not in str(error.value) + caplog.text
    assert len(str(error.value).splitlines()) == 1
