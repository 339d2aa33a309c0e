"""Many sessions at once, put into a store as its own code would store them."""

from __future__ import annotations

from collections.abc import Iterator

from sessions import Record, codec
from sessions.backends.memcached import MemcachedStore
from sessions.backends.postgresql import PostgresqlStore
from sessions.backends.postgresql.table import COLUMNS, quoted
from sessions.store import Store

_BATCH = 500  # commands in one send
_SECONDS = 60.0  # that the database may take


def id_of(number: int) -> str:
    """The id of the session with this number."""
    return f"{number:043d}"


def fill(store: Store, number: int, *, expired: bool = False) -> None:
    """Store that many sessions, whose ids are `id_of(0)` and so on, alive for a day or expired since yesterday."""
    now = store.clock()
    deadline = now + (-86400 if expired else 86400)
    record = Record(_values(1), now, deadline)
    if isinstance(store, PostgresqlStore):
        _fill_table(store, record, number)
    elif isinstance(store, MemcachedStore):
        _fill_memcached(store, record, number)
    else:
        for count, key in enumerate(_keys(store, number)):
            store.create(key, Record(_values(count), now, deadline + count / 1e6))  # shares no memory with the others


def _values(count: int) -> str:
    return codec.encode({"count": count, "name": "Ada"})


def _keys(store: Store, number: int) -> Iterator[str]:
    return (store.key_of(id_of(one)) for one in range(number))


def _fill_memcached(store: MemcachedStore, record: Record, number: int) -> None:
    """By the store's own commands, many in one send."""
    keys = list(_keys(store, number))
    for start in range(0, number, _BATCH):
        some = keys[start : start + _BATCH]
        store.server(some[0]).send(*(store.to_set(key, record, b"ME") for key in some))


def _fill_table(store: PostgresqlStore, record: Record, number: int) -> None:
    """The first by the store, and the others as copies of its row: a transaction for each would take minutes."""
    first, *_ = _keys(store, 1)
    store.create(first, record)
    table = quoted(store._table)
    copies = f"""INSERT INTO {table} (key, {COLUMNS})
        SELECT %s || encode(sha256(lpad(n::text, 43, '0')::bytea), 'hex'), {COLUMNS}
        FROM generate_series(1, %s) AS n, {table} AS first WHERE first.key = %s"""  # noqa: S608 -- the names are ours
    with store.pool.dedicated() as connection:
        connection.query(copies, [store.namespace, number - 1, first], _SECONDS)
        connection.query(f"ANALYZE {table}", [], _SECONDS)  # the server does it, later
