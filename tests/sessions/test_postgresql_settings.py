"""The PostgreSQL backend with the settings that an administrator gives a role, a database or the server."""

from __future__ import annotations

import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from services.postgresql import Postgresql
from services.proxy import Proxy
from sessions import ConfigError, Event, Unavailable
from sessions.backends.postgresql import PostgresqlStore, connection
from sessions.testing import LONG, NOW, Clock, a_record, add_one, count_of, hearing, opened
from tests.support.backends import postgresql
from tests.support.client import Client
from tests.support.pgbouncer import PgBouncer
from tests.support.process import wait_until
from tests.support.site import Site

OpenStore = Callable[..., PostgresqlStore]

# The names in the statements below are the tests' own.
# ruff: noqa: S608

MS = 200  # what the time-outs of an administrator are here: as short as a busy machine bears
SETTINGS = {
    "default_transaction_isolation": "serializable",
    "default_transaction_read_only": "on",
    "default_transaction_deferrable": "on",
    "statement_timeout": MS,
    "lock_timeout": MS,
    "idle_in_transaction_session_timeout": MS,
    "extra_float_digits": -15,
    "client_encoding": "latin1",
    "standard_conforming_strings": "off",
    "client_min_messages": "debug1",
    "datestyle": "SQL,DMY",
    "bytea_output": "escape",
    "row_security": "off",
    "transform_null_equals": "on",
}
"""A hostile choice of what anybody may set, and so an administrator for a role."""


@pytest.fixture(scope="module")
def own() -> Iterator[Postgresql]:
    """A server whose configuration the tests change. Each leaves it as it was."""
    folder = Path(tempfile.mkdtemp(prefix="sessions-postgresql-"))
    folder.chmod(0o755)
    server = Postgresql(folder / "server")
    server.start()
    yield server
    server.stop()
    shutil.rmtree(folder)


@pytest.fixture
def open_store() -> Iterator[OpenStore]:
    """Opens a store as a process of the site would, each on the same table."""
    stores, table, clock = list[PostgresqlStore](), f"t_{secrets.token_hex(4)}", Clock()

    def open_store(dsn: str, **options: Any) -> PostgresqlStore:
        store = opened(lambda: PostgresqlStore(dsn=dsn, **{"table": table, **options}), clock)
        assert isinstance(store, PostgresqlStore)
        stores.append(store)
        return store

    yield open_store
    for store in stores:
        assert len(store.locks) == 0, "a lock is left behind"
        store.close()


def ask(server: Postgresql, *statements: str, database: str = "sessions") -> list[tuple[Any, ...]]:
    """Ask a server past the store, as its administrator, who has none of the settings. Return the last result."""
    dsn = f"postgresql://sessions@127.0.0.1:{server.port}/{database}"
    own = "-c default_transaction_read_only=off -c statement_timeout=0 -c lock_timeout=0"
    with psycopg.connect(dsn, autocommit=True, options=own) as connection:
        for statement in statements:
            cursor = connection.execute(statement)  # type: ignore[arg-type]
        return cursor.fetchall() if cursor.description else []


def dsn_of(server: Postgresql, role: str, database: str = "sessions") -> str:
    return f"postgresql://{role}@127.0.0.1:{server.port}/{database}"


def alter(server: Postgresql, kind: str, name: str, settings: dict[str, Any]) -> None:
    """Set defaults of a role or a database, for the connections to come."""
    ask(server, *(f"ALTER {kind} {name} SET {setting} = '{value}'" for setting, value in settings.items()))


def a_role(server: Postgresql, settings: dict[str, Any] | None = None, database: str = "sessions") -> str:
    """Make a user with settings of its own, and return its name."""
    name = f"r_{secrets.token_hex(4)}"
    ask(server, f"CREATE ROLE {name} LOGIN", f"GRANT CREATE ON SCHEMA public TO {name}", database=database)
    if settings:
        alter(server, "ROLE", name, settings)
    return name


def a_database(server: Postgresql, settings: dict[str, Any]) -> str:
    """Make a database with settings of its own, and return the dsn of a user without any."""
    name = f"d_{secrets.token_hex(4)}"
    ask(server, f"CREATE DATABASE {name}")
    dsn = dsn_of(server, a_role(server, database=name), name)
    alter(server, "DATABASE", name, settings)
    return dsn


@contextmanager
def configured(server: Postgresql, settings: dict[str, Any]) -> Iterator[None]:
    """Change the configuration of a running server in the block."""
    ask(server, *(f"ALTER SYSTEM SET {setting} = '{value}'" for setting, value in settings.items()))
    reload(server)
    try:
        yield
    finally:
        ask(server, "ALTER SYSTEM RESET ALL")
        reload(server)


def reload(server: Postgresql) -> None:
    """Let a server read its configuration, and return when it has told its connections."""
    loaded = "SELECT pg_conf_load_time()::text"
    before = ask(server, loaded)
    ask(server, "SELECT pg_reload_conf()")
    wait_until(lambda: ask(server, loaded) != before)


def until_it_answers(ask: Callable[[], Any]) -> None:
    """Repeat until the store has seen that the server is back."""
    end = time.monotonic() + LONG
    while True:
        try:
            return ask()
        except Unavailable:
            assert time.monotonic() < end


def lasts(server: Postgresql, condition: str) -> bool:
    """Whether a connection of a store has been in a state for longer than any time-out."""
    since = f"greatest(query_start, state_change) < clock_timestamp() - interval '{1.2 * MS} ms'"
    query = f"SELECT 1 FROM pg_stat_activity WHERE application_name = 'sessions' AND {condition} AND {since}"
    return bool(ask(server, query))


def use(server: Postgresql, stores: list[PostgresqlStore]) -> None:
    """Do all that a site does in two processes, and what takes longer than the time-outs."""
    one, other = stores
    key = one.create(one.new_key(), a_record({"n": 0}))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: add_one(stores[n % 2], key, 10), range(8)))
    assert count_of(one.load(key)) == 80
    with ThreadPoolExecutor(1) as pool:
        hold = one.acquire(key, LONG)
        waiting = pool.submit(other.acquire, key, LONG)
        wait_until(lambda: waiting.done() or lasts(server, "wait_event_type = 'Lock'"))
        assert lasts(server, "state = 'idle in transaction'")
        record = a_record({"n": 81, "text": "é\\'\n%"}, deadline=NOW + 600.123456, user="ada é\\", timeout=2.7182818284)
        assert hold.commit(record)
        assert waiting.result(LONG).record == record
        waiting.result().release()
    assert one.load(key) == record
    assert dict(other.scan()) == one.live(record.user) == {key: record}
    assert one.count() == 1
    ended = [one.create(one.new_key(), a_record(deadline=NOW - 1)) for _ in range(40)]
    hold = one.acquire(ended[0], LONG)
    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(lambda n: stores[n % 2].purge(5), range(20))) == 39
    hold.delete()
    moved = one.create(one.new_key(), record)
    assert other.acquire(key, LONG).commit(a_record().tombstone(moved, NOW))
    assert not one.acquire(key, LONG).commit(record)
    one.delete(moved)
    assert other.load(moved) is None
    one.ping()


# ---------------------------------------------------------------- defaults


@pytest.mark.parametrize(
    ("where", "isolation"),
    [
        ("role", "repeatable read"), ("role", "serializable"), ("database", "serializable"), ("dsn", "repeatable read"),
        ("server", "serializable"), ("pooler", "repeatable read"),
    ],
)  # fmt: skip
def test_what_an_administrator_may_set_changes_nothing(
    own: Postgresql, open_store: OpenStore, tmp_path: Path, where: str, isolation: str
) -> None:
    settings = {**SETTINGS, "default_transaction_isolation": isolation}
    if int(ask(own, "SHOW server_version_num")[0][0]) >= 170000:
        settings["transaction_timeout"] = MS
    with ExitStack() as stack:
        if where == "role":
            dsn = dsn_of(own, a_role(own, settings))
        elif where == "database":
            dsn = a_database(own, settings)
        elif where == "dsn":
            options = " ".join("-c " + f"{name}={value}".replace(" ", r"\ ") for name, value in settings.items())
            dsn = make_conninfo(dsn_of(own, a_role(own)), options=options)
        elif where == "server":
            dsn = dsn_of(own, a_role(own))
            stack.enter_context(configured(own, {**settings, "default_transaction_read_only": "off"}))
        else:
            dsn = stack.enter_context(PgBouncer(tmp_path, own.port, user=a_role(own, settings))).dsn
        use(own, [open_store(dsn), open_store(dsn)])


def test_a_default_that_is_changed_while_the_site_runs_changes_nothing(own: Postgresql, open_store: OpenStore) -> None:
    role = a_role(own)
    stores = [open_store(dsn_of(own, role)) for _ in range(2)]
    for store in stores:
        store.ping()  # opens a connection
    alter(own, "ROLE", role, SETTINGS)
    use(own, stores)
    ask(own, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{role}'")
    for store in stores:
        store.purge(100)
        for key, _ in store.scan():
            store.delete(key)
    use(own, stores)


def test_connections_that_the_server_ends_when_they_are_idle_are_replaced(
    own: Postgresql, open_store: OpenStore
) -> None:
    store = open_store(dsn_of(own, role := a_role(own, {"idle_session_timeout": 500})))
    key = store.create(store.new_key(), a_record({"n": 0}))
    for _ in range(2):
        wait_until(lambda: not ask(own, f"SELECT 1 FROM pg_stat_activity WHERE usename = '{role}'"))
        add_one(store, key, 1)
    assert count_of(store.load(key)) == 2


def test_what_a_transaction_needs_takes_no_round_trip_of_its_own(own: Postgresql, open_store: OpenStore) -> None:
    with Proxy(own.port) as proxy:
        store = open_store(f"postgresql://{a_role(own, SETTINGS)}@{proxy.address}/sessions")
        store.ping()  # opens the connection, and finds out that it has to say READ WRITE
        with proxy.expect(1):
            key = store.create(store.new_key(), a_record({"n": 0}))
        with proxy.expect(2):
            store.acquire(key, LONG).commit(a_record({"n": 1}))
        for one_trip in (store.ping, store.count, lambda: store.load(key), lambda: store.purge(10)):
            with proxy.expect(1):
                one_trip()


# ---------------------------------------------------------------- waits


def test_processes_that_wait_for_one_session_are_not_taken_for_ones_whose_server_hangs(
    own: Postgresql, open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waits for a row waits for the right to be the next, and then for the row: as long as a step for each."""
    monkeypatch.setattr(connection, "LOCK_STEP", 0.8)
    dsn, steps = dsn_of(own, a_role(own)), list[str]()
    stores = [open_store(dsn, server_timeout=0.5) for _ in range(4)]
    key = stores[0].create(stores[0].new_key(), a_record({"n": 0}))
    hold = stores[0].acquire(key, LONG)

    def note(event: Event) -> None:
        steps.append(event.details["what"].split()[0])

    with hearing(note, "trip"), ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(add_one, store, key, 1) for store in stores[1:]]
        wait_until(lambda: steps.count("ROLLBACK") >= 6 or any(job.done() for job in waiting))
        assert hold.commit(a_record({"n": 1}))
        for job in waiting:
            job.result(LONG)
    assert count_of(stores[0].load(key)) == 4


def test_a_statement_that_takes_too_long_is_ended_by_the_server(own: Postgresql, open_store: OpenStore) -> None:
    store = open_store(dsn_of(own, role := a_role(own)), table=f"{role}_t", server_timeout=0.3)
    store.ping()
    before = connections(own)
    with psycopg.connect(own.dsn) as other:
        other.execute(f"LOCK TABLE {role}_t")
        with pytest.raises(Unavailable, match="statement timeout"):
            store.load(store.new_key())
        assert not ask(own, "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
    assert store.load(store.new_key()) is None
    assert connections(own) == before


# ---------------------------------------------------------------- a server that is read-only


def refuses_all(store: PostgresqlStore, key: str) -> None:
    for write in (
        store.ping, lambda: store.acquire(key, LONG), lambda: store.create(store.new_key(), a_record()),
        lambda: store.delete(key), lambda: store.purge(10),
    ):  # fmt: skip
        with pytest.raises(Unavailable, match="read-only|read-write") as error:
            write()
        assert len(str(error.value).splitlines()) == 1


def connections(server: Postgresql) -> set[int]:
    return {pid for (pid,) in ask(server, "SELECT pid FROM pg_stat_activity WHERE application_name = 'sessions'")}


def test_a_server_that_becomes_read_only_is_left_until_it_is_writable_again(
    own: Postgresql, open_store: OpenStore
) -> None:
    store = open_store(dsn_of(own, a_role(own)))
    key = store.create(store.new_key(), a_record({"n": 0}))
    holds = [store.acquire(store.new_key(), LONG) for _ in range(3)]  # so that the pool has several connections
    hold = store.acquire(key, LONG)
    before = connections(own)
    with configured(own, {"default_transaction_read_only": "on"}):
        assert hold.commit(a_record({"n": 1}))  # it has begun before
        for held in holds:
            held.release()
        refuses_all(store, key)
        assert not before & connections(own), "a connection to it is kept"
        with pytest.raises(Unavailable, match="read-only"):
            open_store(dsn_of(own, "sessions"), table="another")
    until_it_answers(store.ping)
    add_one(store, key, 1)
    assert count_of(store.load(key)) == 2


@pytest.mark.parametrize("settings", [{}, {"default_transaction_read_only": "on"}], ids=["", "read-only role"])
def test_a_standby_is_refused_at_the_start_and_later_until_it_is_promoted(
    open_store: OpenStore, own: Postgresql, settings: dict[str, Any]
) -> None:
    store = open_store(dsn := dsn_of(own, a_role(own, settings)))
    key = store.create(store.new_key(), a_record({"n": 0}))
    own.stop()
    (own.data / "standby.signal").touch()
    own.start()
    try:
        refuses_all(store, key)
        with pytest.raises(Unavailable, match="read-only|read-write"):
            open_store(dsn)
    finally:
        ask(own, "SELECT pg_promote()")
    until_it_answers(store.ping)
    add_one(store, key, 1)
    assert count_of(store.load(key)) == 1


def test_the_successor_of_a_server_that_becomes_read_only_is_used_without_an_error(
    own: Postgresql, open_store: OpenStore
) -> None:
    role, other = a_role(own), postgresql()
    ask(other, f"CREATE ROLE {role} LOGIN", f"GRANT CREATE ON SCHEMA public TO {role}")
    open_store(dsn_of(other, role))  # makes the table
    hosts = {"host": "127.0.0.1,127.0.0.1", "port": f"{own.port},{other.port}", "target_session_attrs": "read-write"}
    store = open_store(make_conninfo(user=role, dbname="sessions", **hosts))
    store.ping()
    with configured(own, {"default_transaction_read_only": "on"}):
        key = store.create(store.new_key(), a_record({"n": 0}))
        add_one(store, key, 1)
        assert count_of(open_store(dsn_of(other, role)).load(key)) == 1


def test_a_site_says_that_its_server_is_read_only(own: Postgresql) -> None:
    with Site("postgresql", env={"DATABASE_URL": own.dsn}) as site:
        visitor = Client(site.url)
        assert [visitor.get(path).status for path in ("/counter/", "/healthz")] == [200, 200]
        with configured(own, {"default_transaction_read_only": "on"}):
            for path in ("/healthz", "/counter/", "/healthz"):
                assert visitor.get(path).status == 503
        wait_until(lambda: visitor.get("/healthz").status == 200)
        assert visitor.get("/counter/").status == 200
        assert "read-only transaction" in site.output()


# ---------------------------------------------------------------- what cannot be overridden


def test_a_pooler_that_allows_no_transaction_is_refused_at_the_start(
    own: Postgresql, open_store: OpenStore, tmp_path: Path
) -> None:
    with (
        PgBouncer(tmp_path, own.port, user=a_role(own), mode="statement") as pooler,
        pytest.raises(Unavailable, match="transaction blocks not allowed in statement pooling mode"),
    ):
        open_store(pooler.dsn)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("ENABLE ROW LEVEL SECURITY", "row-level security"),
        ("DROP CONSTRAINT {name}_pkey", "unique"),
        ("ADD another text NOT NULL", "null value"),
    ],
)
def test_a_table_in_which_no_session_can_be_stored_is_refused_at_the_start(
    own: Postgresql, open_store: OpenStore, change: str, why: str
) -> None:
    role, owner = a_role(own), a_role(own)
    open_store(dsn_of(own, owner), table=role)
    ask(own, f"ALTER TABLE {role} {change.format(name=role)}", f"GRANT ALL ON {role} TO {role}")
    with pytest.raises(ConfigError, match=f"table {role} .*{why}.*python -m sessions sql"):
        open_store(dsn_of(own, role), table=role)
