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

from services.postgresql import Postgresql
from services.proxy import Proxy
from sessions import ConfigError, LockTimeout, Record, Store, Unavailable
from sessions.backends import pglink
from sessions.backends.pgtable import table_sql
from sessions.backends.postgresql import PostgresqlStore
from sessions.errors import Unreadable
from sessions.testing import LONG, NAMESPACE, NOW, SHORT, a_record, add_one, count_of
from tests.backends import postgresql, table_of
from tests.pgbouncer import PgBouncer
from tests.site import ROOT, free_port
from tests.test_rules import a_server as a_site
from tests.visitor import Visitor

BOUND = 15.0  # seconds: a page gives up after 4 to 7; more is a busy machine, or no bound at all

OpenStore = Callable[..., PostgresqlStore]


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
def open_store(table: str) -> Iterator[OpenStore]:
    """Opens a store as another process of the site would."""
    stores = []

    def open_store(dsn: str | None = None, table: str = table) -> PostgresqlStore:
        store = PostgresqlStore(dsn=dsn or postgresql().dsn, table=table)
        store.namespace = NAMESPACE
        store.clock = lambda: NOW
        stores.append(store)
        return store

    yield open_store
    for store in stores:
        store.close()


@pytest.fixture
def store(open_store: OpenStore) -> PostgresqlStore:
    return open_store()


def a_key(store: Store, user: str = "", **values: Any) -> str:
    """A stored session."""
    key = store.new_key()
    store.create(key, a_record({"n": 1} | values, user=user))
    return key


def sql(statement: str, *params: Any, dsn: str | None = None) -> list[tuple[Any, ...]]:
    """Ask the server past the store."""
    with psycopg.connect(dsn or postgresql().dsn, autocommit=True) as connection:
        cursor = connection.execute(statement, params)  # type: ignore[arg-type]
        return cursor.fetchall() if cursor.description else []


def terminate(application: str = "sessions", dsn: str | None = None) -> None:
    """Close the connections of the stores, as an administrator would."""
    sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s", application, dsn=dsn)


def wait_for_a_lock() -> None:
    """Until somebody waits for one."""
    end = time.monotonic() + LONG
    while not sql("SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"):
        assert time.monotonic() < end


@contextmanager
def bounded() -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < BOUND


# ---------------------------------------------------------------- round trips


def test_a_request_makes_as_few_round_trips_as_it_can(table: str) -> None:
    with Proxy(postgresql().port) as proxy:
        dsn = f"postgresql://sessions@{proxy.address}/sessions"
        with a_site("postgresql", dsn=dsn, table=table) as site:
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
        keys = [a_key(store, user) for user in 3 * ["ada"] + 8 * ["bob"] + 2 * [""]]
        for user, found, trips in [("ada", keys[:3], 1), ("bob", keys[3:11], 3), ("eve", [], 1), (None, keys, 4)]:
            with proxy.expect(trips):
                assert [key for key, _ in store.live(user)] == sorted(found)


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


def test_a_missing_driver_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    monkeypatch.delitem(sys.modules, "sessions.backends.pglink")
    monkeypatch.delattr("sessions.backends.pglink")
    with pytest.raises(ConfigError, match=r"pip install 'psycopg\[binary\]' psycopg_pool"):
        PostgresqlStore(dsn="")


def test_a_server_that_is_down_at_the_start_is_named_with_the_command_that_starts_one() -> None:
    port = free_port()
    with bounded(), pytest.raises(Unavailable, match=rf"127\.0\.0\.1:{port}/shop: .*make services") as refused:
        PostgresqlStore(dsn=f"postgresql://ada:geheim@127.0.0.1:{port}/shop")
    assert "geheim" not in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


def test_a_database_that_does_not_exist_is_unavailable_and_named() -> None:
    with pytest.raises(Unavailable, match='database "shop" does not exist'):
        PostgresqlStore(dsn=f"postgresql://sessions@127.0.0.1:{postgresql().port}/shop")


# ---------------------------------------------------------------- the table


BEFORE = """\
CREATE TABLE {table} (key text COLLATE "C" PRIMARY KEY, data text NOT NULL,
    created double precision NOT NULL, deadline double precision NOT NULL) WITH (fillfactor = 70);
CREATE INDEX {table}_deadline ON {table} (deadline);
INSERT INTO {table} (data, created, deadline, key) VALUES ('{"n": 1}', 1999999940, 2000000600, '0123abcd-old')"""
"""A table as the version before made it, with a session in it."""

OLD = "0123abcd-old"


def of_version_before(table: str) -> str:
    sql(BEFORE.replace("{table}", table))
    return table


def test_two_processes_that_start_at_once_where_tables_are_missing_or_of_the_version_before_both_start(
    table: str,
) -> None:
    tables = [f"{table}_{n}" for n in range(20)]  # so many that both come to one at about the same time
    for each in tables[::2]:
        of_version_before(each)
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
    kept = [sql(f"SELECT * FROM {each}") for each in tables]  # noqa: S608 -- a name of the test's own
    assert kept == 10 * [[(OLD, '{"n": 1}', NOW - 60, NOW + 600, "", False)], []]


def test_a_table_is_brought_up_to_date_between_the_requests_of_a_process_of_the_version_before(
    open_store: OpenStore, table: str
) -> None:
    of_version_before(table)
    with psycopg.connect(postgresql().dsn) as old, ThreadPoolExecutor(1) as pool:
        old.execute(f"SELECT data FROM {table} WHERE key = '{OLD}' FOR UPDATE")  # noqa: S608 -- names of the test's own
        start = pool.submit(open_store)
        wait_for_a_lock()
        old.execute(f"""UPDATE {table} SET data = '{{"n": 2}}' WHERE key = '{OLD}'""")  # noqa: S608
        old.commit()
        store = start.result(LONG)
        assert count_of(store.load(OLD)) == 2
        key = a_key(store, "ada")
        old.execute(f"UPDATE {table} SET data = '{{}}' WHERE key = '{key}'")  # noqa: S608 -- the old process goes on
        old.execute(f"INSERT INTO {table} (key, data, created, deadline) VALUES ('0123abcd-new', '{{}}', 1, 2)")  # noqa: S608
        old.commit()
        assert [key for key, _ in store.live("ada")] == [key]
        assert store.load("0123abcd-new") == Record(b"{}", 1.0, 2.0)


def test_a_table_that_is_in_use_for_too_long_is_not_brought_up_to_date_and_the_start_says_so(
    open_store: OpenStore, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sessions.backends.pgtable._START_TIMEOUT", SHORT)
    of_version_before(table)
    with psycopg.connect(postgresql().dsn) as old:
        old.execute(f"SELECT data FROM {table} FOR UPDATE")  # noqa: S608 -- a name of the test's own
        with pytest.raises(ConfigError, match=rf"in use for {SHORT} s; .* python -m sessions sql --table {table}$"):
            open_store()
    open_store()


@pytest.fixture
def guest(table: str) -> str:
    """The dsn of a user who may create nothing."""
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
    add_one(store, key, 1)
    assert count_of(store.load(key)) == 2
    assert store.count() == 1


def test_a_user_who_does_not_own_the_table_cannot_bring_it_up_to_date_and_is_told_who_can(
    open_store: OpenStore, table: str, guest: str
) -> None:
    of_version_before(table)
    sql(f'GRANT SELECT, INSERT, UPDATE, DELETE ON "{table}" TO "{table}"')
    with pytest.raises(ConfigError, match=f"earlier version, and .* may not .* python -m sessions sql --table {table}"):
        open_store(guest)
    sql(table_sql(table))
    store = open_store(guest)
    add_one(store, OLD, 1)
    assert count_of(store.load(OLD)) == 2


def test_the_table_may_be_in_a_schema(open_store: OpenStore, table: str) -> None:
    with pytest.raises(ConfigError, match=f'schema "{table}" does not exist'):
        open_store(table=f"{table}.user")
    sql(f'CREATE SCHEMA "{table}"')
    store = open_store(table=f"{table}.user")  # a reserved word, too
    a_key(store)
    assert sql(f'SELECT count(*) FROM "{table}"."user"') == [(1,)]  # noqa: S608 -- a name of the test's own
    assert store.count() == 1


def test_a_table_of_something_else_is_refused(open_store: OpenStore, table: str) -> None:
    sql(f'CREATE TABLE "{table}" (key text, value text)')
    with pytest.raises(ConfigError, match="other columns"):
        open_store()
    assert sql("SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0", table) == [
        ("key",), ("value",),
    ]  # fmt: skip


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
    end = time.monotonic() + LONG
    while (figures := sql(query, table)[0])[0] < 1000:
        assert time.monotonic() < end, figures
    updates, hot = figures
    assert updates == 1000
    assert hot >= 900


# ---------------------------------------------------------------- users


@pytest.mark.parametrize("analysed", [False, True])
def test_the_sessions_of_a_user_are_found_by_the_index_and_no_others_are_looked_at(
    store: PostgresqlStore, table: str, analysed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    sql(f"""INSERT INTO {table} SELECT namespace || '-' || encode(sha256(n::text::bytea), 'hex'), '{{}}', 1, 2, account
        FROM generate_series(1, 10000) AS n, unnest(ARRAY['0123abcd', 'ffffffff']) AS namespace,
        LATERAL (SELECT CASE WHEN n <= 3 THEN 'ada' WHEN mod(n, 3) = 0 THEN '' ELSE 'bob' END AS account) AS x""")  # noqa: S608
    if analysed:
        sql(f"ANALYZE {table}")
    asked: list[tuple[Any, ...]] = []
    rows = store._rows

    def noted(*question: Any) -> list[tuple[Any, ...]]:
        asked.append(question)
        return rows(*question)

    monkeypatch.setattr(store, "_rows", noted)
    assert len(list(store.live("ada"))) == 3
    assert len(asked) == 1
    assert len(list(store.live("bob"))) > 6000
    for statement, *params in (asked[0], asked[1], asked[30]):
        plan = "\n".join(line for (line,) in rows(f"EXPLAIN (ANALYZE) {statement}", *params))
        assert f"Index Scan using {table}_account on {table}" in plan
        for more_than_needed in ("Seq Scan", "Sort", "Bitmap", "Rows Removed"):
            assert more_than_needed not in plan


def test_accounts_are_told_apart_and_found_however_long_their_names_are(store: PostgresqlStore) -> None:
    names = [secrets.token_hex(3000), 3000 * "x", 3000 * "x" + "y", 3000 * "é"]
    keys = [a_key(store, name) for name in names]
    for name, key in zip(names, keys, strict=True):
        assert [(found, record.user) for found, record in store.live(name)] == [(key, name)]


def test_plain_names_can_be_read_in_the_table(store: PostgresqlStore, table: str) -> None:
    for name in ("ada", "Ada Lovelace", "ada+x@example.org", "é%\0"):
        a_key(store, name)
    query = f'SELECT account FROM {table} ORDER BY account COLLATE "C"'  # noqa: S608 -- a name of the test's own
    assert sql(query) == [("%C3%A9%25%00",), ("Ada Lovelace",), ("ada",), ("ada+x@example.org",)]


def test_nobody_is_no_user(store: PostgresqlStore) -> None:
    a_key(store)
    assert list(store.live("")) == []


def test_a_row_whose_account_cannot_be_read_is_set_aside_and_hides_no_other(
    store: PostgresqlStore, table: str, caplog: pytest.LogCaptureFixture
) -> None:
    keys = sorted(a_key(store, "ada") for _ in range(3))
    sql(f"UPDATE {table} SET account = '%%ff' WHERE key = '{keys[1]}'")  # noqa: S608 -- names of the test's own
    assert [key for key, _ in store.live(None)] == [keys[0], keys[2]]
    with pytest.raises(Unreadable, match="account"):
        store.load(keys[1])
    assert caplog.text == ""
    hold = store.acquire(keys[1], LONG)
    assert not hold.commit(a_record())
    noted = [record for record in caplog.records if record.name == "sessions" and "unreadable" in record.getMessage()]
    assert len(noted) == 1
    store.acquire(keys[0], LONG).set_aside(ValueError("torn"))
    assert [key for key, _ in store.live("ada")] == [keys[2]]
    kept = sql(f"SELECT key FROM {table} WHERE key LIKE %s ORDER BY key", "unreadable:%")  # noqa: S608
    assert kept == [(f"unreadable:{key}",) for key in keys[:2]]


# ---------------------------------------------------------------- what is shared


def test_two_applications_in_one_table_do_not_count_each_others_sessions(open_store: OpenStore) -> None:
    stores = [open_store(), open_store()]
    stores[1].namespace = "ffffffff-"
    keys = [a_key(stores[0]), a_key(stores[0]), a_key(stores[1])]
    assert [store.count() for store in stores] == [2, 1]
    assert len(set(keys)) == 3


def test_the_cleaner_waits_for_nobody_and_skips_what_is_held(open_store: OpenStore) -> None:
    store, cleaner = open_store(), open_store()
    keys = [store.new_key() for _ in range(10)]
    for key in keys:
        store.create(key, a_record(deadline=NOW - 1))
    hold = store.acquire(keys[0], LONG)
    assert cleaner.purge(5) == 5
    assert cleaner.purge(5) == 4
    assert cleaner.purge(5) == 0
    assert hold.commit(a_record())
    assert cleaner.purge(5) == 0
    assert store.load(keys[0]) == a_record()


def test_a_lock_is_waited_for_in_steps_and_got_when_it_is_free(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pglink, "LOCK_STEP", 0.02)
    store, other = open_store(), open_store()
    key = a_key(store)
    hold = store.acquire(key, LONG)
    with pytest.raises(LockTimeout):
        other.acquire(key, SHORT)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(other.acquire, key, LONG)
        wait_for_a_lock()
        assert hold.commit(a_record({"n": 2}))
        assert count_of(waiting.result(LONG).record) == 2
        waiting.result().release()


def test_deleting_what_another_process_holds_waits_no_longer_than_its_bound(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sessions.backends.postgresql._WRITE_TIMEOUT", SHORT)
    store, other = open_store(), open_store()
    key = a_key(store)
    hold = store.acquire(key, LONG)
    for write in (lambda: other.delete(key), lambda: other.replace(key, a_record())):
        with pytest.raises(LockTimeout):
            write()
    assert hold.commit(a_record({"n": 2}))
    assert other.replace(key, a_record({"n": 3}))
    other.delete(key)
    assert store.load(key) is None


def test_an_unreadable_row_is_set_aside_and_logged_once(table: str) -> None:
    with a_site("postgresql", table=table) as site:
        visitor = site.visitor()
        visitor.get("/count")
        key = hashlib.sha256(visitor.cookies["session_id"].encode()).hexdigest()
        sql(f"UPDATE {table} SET data = 'é no JSON'")  # noqa: S608 -- a name of the test's own
        old = visitor.twin()
        assert visitor.get("/count").text == "1"
        assert old.get("/read").text == "None"
        assert site.output().count(f"unreadable record of session {key[:8]}") == 1
        kept = sql(f"SELECT key FROM {table} WHERE data = 'é no JSON'")  # noqa: S608
        assert [name.startswith("unreadable:") and name.endswith(key) for (name,) in kept] == [True]


# ---------------------------------------------------------------- the pool


def test_requests_that_hold_sessions_leave_connections_for_the_others(store: PostgresqlStore) -> None:
    holds = [store.acquire(a_key(store), LONG) for _ in range(pglink.HOLDS)]
    one_more = a_key(store)
    with bounded(), pytest.raises(Unavailable, match=f"all {pglink.HOLDS} connections"):
        store.acquire(one_more, LONG)
    assert count_of(store.load(one_more)) == 1
    for hold in holds:
        hold.release()
    add_one(store, one_more, 1)
    open_now = sql("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'sessions' AND query LIKE %s",
                   f"%{NAMESPACE}%")  # fmt: skip
    assert open_now[0][0] <= pglink.MOST


def test_all_at_once_nobody_waits_for_a_second_connection_for_ever(store: PostgresqlStore) -> None:
    """Each holder stores a second session, as every login does; there are more of them than connections."""
    together = threading.Barrier(pglink.HOLDS)

    def move(key: str) -> bool:
        hold = store.acquire(key, LONG)
        together.wait(LONG)
        a_key(store)
        return hold.commit(a_record())

    with ThreadPoolExecutor(pglink.HOLDS) as pool:
        assert all(pool.map(move, [a_key(store) for _ in range(pglink.HOLDS)]))


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
        assert [found for found, _ in stores[1].live("ada")] == [key]


# ---------------------------------------------------------------- faults


def test_a_store_finds_its_way_back_after_each_restart(own: Postgresql, open_store: OpenStore) -> None:
    store = open_store(own.dsn)
    key = a_key(store)
    for fault in (own.restart, lambda: terminate(dsn=own.dsn)):
        for use in (lambda: add_one(store, key, 1), lambda: store.load(key), lambda: a_key(store), store.count):
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
        add_one(store, key, 1)
        assert count_of(store.load(key)) == 3


def test_a_connection_that_dies_under_a_page_that_only_reads_is_no_error(open_store: OpenStore, table: str) -> None:
    with Proxy(postgresql().port) as proxy:
        store = open_store(f"postgresql://sessions@{proxy.address}/sessions")
        key = a_key(store)
        hold = store.acquire(key, LONG)
        proxy.cut()
        hold.release()
        before = count_of(store.load(key))
        add_one(store, key, 1)
        assert count_of(store.load(key)) == before + 1


@pytest.mark.parametrize("moment", ["before", "held"])
def test_a_server_that_hangs_is_given_up_on_and_used_again(own: Postgresql, open_store: OpenStore, moment: str) -> None:
    store = open_store(own.dsn)
    key = a_key(store)
    hold = store.acquire(key, LONG) if moment == "held" else None
    own.pause()
    try:
        with bounded(), pytest.raises(Unavailable, match="127.0.0.1"):
            if hold:
                hold.commit(a_record({"n": 9}))
            else:
                store.acquire(key, LONG)
    finally:
        own.resume()
    end = time.monotonic() + BOUND
    while True:
        try:
            add_one(store, key, 1)
            break
        except (Unavailable, LockTimeout):  # until the server has seen that the connection is closed
            assert time.monotonic() < end
    assert count_of(store.load(key)) in (2, 10)


def test_the_patience_of_a_store_is_its_own(own: Postgresql, table: str) -> None:
    store = PostgresqlStore(dsn=own.dsn, table=table, patience=0.1)
    store.ping()
    own.pause()
    try:
        start = time.monotonic()
        with pytest.raises(Unavailable):
            store.ping()
        assert time.monotonic() - start < 2.0  # the usual three seconds have not passed
    finally:
        own.resume()
    assert store.addresses == (f"127.0.0.1:{own.port}",)
    store.close()


def test_a_site_survives_what_becomes_of_its_server(own: Postgresql, table: str) -> None:
    """Killed and started again: 503 meanwhile, cookies left alone, and the session is there again by itself."""
    with a_site("postgresql", dsn=own.dsn, table=table) as site:
        visitor = site.visitor()
        assert [visitor.get("/count").text for _ in range(2)] == ["1", "2"]
        own.kill()
        for somebody in (visitor, site.visitor()):
            with bounded():
                answer = somebody.get("/count")
            assert (answer.status, answer.set_cookie) == (503, [])
            assert int(answer.headers["retry-after"]) > 0
            assert str(own.port) not in answer.text
        assert visitor.get("/untouched").status == 200
        own.start()
        wait_until_used_again(visitor)
        assert visitor.get("/count").text == "3"
        own.restart()
        assert visitor.get("/count").text == "4"
        warnings = re.findall(rf"Unavailable: PostgreSQL at 127\.0\.0\.1:{own.port}/sessions: .+", site.output())
        assert warnings
        assert visitor.cookies["session_id"] not in site.output()
        assert "Traceback" not in site.output()


def test_while_the_server_is_away_one_request_waits_and_the_others_are_refused_at_once(
    own: Postgresql, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pglink, "FREE", 0.5)
    store = open_store(own.dsn)
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
    end = time.monotonic() + BOUND
    while True:
        try:
            assert count_of(store.load(key)) == 1
            return
        except Unavailable:
            assert time.monotonic() < end


def wait_until_used_again(visitor: Visitor) -> None:
    end = time.monotonic() + BOUND
    while visitor.get("/read").status != 200:
        assert time.monotonic() < end


def test_a_connection_that_is_terminated_under_a_held_session_saves_nothing(table: str) -> None:
    with a_site("postgresql", table=table) as site, ThreadPoolExecutor(1) as pool:
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
