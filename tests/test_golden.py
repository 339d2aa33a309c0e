"""Record format 1, for good: what this release has written, each later one reads.

The files in tests/golden were made once, by `python -m tests.test_golden`, and are never made again: a change that
needs them new would end the sessions of every site that is brought up to date.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from sessions import Record, Store, codec
from sessions.backends.cookie import CookieStore
from sessions.backends.file import FileStore
from sessions.backends.functions import FunctionStore
from sessions.backends.memcached import MemcachedStore
from sessions.backends.postgresql import PostgresqlStore
from sessions.backends.ram import RamStore
from sessions.record import INDEX
from tests.backends import SECRET, memcached, postgresql, table_of
from tests.rules_app import VALUES, repr_of

GOLDEN = Path(__file__).parent / "golden"
ID = "golden-golden-golden-golden-golden-golden-0"
NAMESPACE = "0123abcd-"
BEGAN, ENDS = 1_795_000_000.25, 4_102_444_800.5  # the year 2100: a file's time of modification is never later
USER = "Ada Løvelace+/-%"


def store_with(store: Store) -> Store:
    store.namespace, store.clock = NAMESPACE, lambda: BEGAN + 60
    return store


def keys(store: Store) -> dict[str, str]:
    """The key of each golden record of a store."""
    return {"session": store.key_of(ID), "visitor": store.key_of(f"{ID}1"), "moved": store.key_of(f"{ID}2"),
            "index": store.user_key(USER)}  # fmt: skip


def records(store: Store) -> dict[str, Record]:
    key = keys(store)
    return {
        key["session"]: Record(codec.encode(VALUES), BEGAN, ENDS, USER, True, 90.5),
        key["visitor"]: Record('{"count":1}', BEGAN, ENDS),
        key["moved"]: Record.tombstone(key["session"], BEGAN),
        key["index"]: Record(f"1 {key['session'].removeprefix(NAMESPACE)}", BEGAN, ENDS, USER, kind=INDEX),
    }


def opened(backend: str, place: Path) -> Store:
    """A store into which an earlier release has written the golden records."""
    if backend == "ram":
        shutil.copy(GOLDEN / "ram.snapshot", place)
        return store_with(RamStore(snapshot_path=str(place / "ram.snapshot")))
    if backend == "file":
        shutil.copytree(GOLDEN / "file", place / "sessions")
        return store_with(FileStore(storage_path=str(place / "sessions")))
    if backend == "functions":
        texts = json.loads((GOLDEN / "functions.json").read_text())
        return store_with(FunctionStore(load=texts.get, save=texts.__setitem__))
    if backend == "memcached":
        store = MemcachedStore(servers=memcached().address)
        for item in (GOLDEN / "memcached.txt").read_bytes().splitlines():
            name, _, value = item.partition(b" ")
            (reply,) = store.server("").send(b"ms %b %d T60\r\n%b" % (name, len(value), value))
            assert reply.status == b"HD"
        return store_with(store)
    table = table_of(place)
    sql = PostgresqlStore(dsn=postgresql().dsn, table=table)
    for row in json.loads((GOLDEN / "postgresql.json").read_text()):
        names, marks = ", ".join(row), ", ".join(["%s"] * len(row))
        sql.pool.query(f"INSERT INTO {table} ({names}) VALUES ({marks})", *row.values())  # noqa: S608 -- a test's own
    return store_with(sql)


@pytest.mark.parametrize("backend", ["ram", "file", "functions", "memcached", "postgresql"])
def test_what_this_release_has_stored_is_read_for_good(backend: str, tmp_path: Path) -> None:
    store = opened(backend, tmp_path)
    expected = records(store)
    if backend == "postgresql":  # which finds the sessions of a user by a column
        del expected[keys(store)["index"]]
    assert {key: store.load(key) for key in expected} == expected
    assert set(store.live(USER)) == {keys(store)["session"]}
    store.close()


def test_a_cookie_that_this_release_has_set_is_read_for_good() -> None:
    store = store_with(CookieStore(secret=SECRET))
    found = store.find((GOLDEN / "cookie.txt").read_text().strip())
    assert found is not None and found[0] == ID
    assert store.load(found[1]) == Record(codec.encode(VALUES), BEGAN, ENDS, USER, True, 90.5)


def test_the_values_of_every_type_are_read_for_good() -> None:
    values = codec.decode(json.loads((GOLDEN / "values.json").read_text()))
    assert {name: repr_of(value) for name, value in values.items()} == {n: repr_of(v) for n, v in VALUES.items()}


@pytest.mark.parametrize("kind", ["session", "visitor", "moved", "index"])
def test_the_line_of_a_record_is_written_as_it_was(kind: str) -> None:
    store = opened("functions", Path())
    key = keys(store)[kind]
    assert records(store)[key].pack(key).decode() == json.loads((GOLDEN / "functions.json").read_text())[key]


def _write() -> None:
    """Make the files. By hand, once for a format."""
    shutil.rmtree(GOLDEN, ignore_errors=True)
    GOLDEN.mkdir()
    (GOLDEN / "values.json").write_text(json.dumps(codec.encode(VALUES)) + "\n")
    ram = store_with(RamStore(snapshot_path=str(GOLDEN / "ram.snapshot")))
    file = store_with(FileStore(storage_path=str(GOLDEN / "file")))
    texts: dict[str, Any] = {}
    functions = store_with(FunctionStore(load=texts.get, save=texts.__setitem__))
    for store in (ram, file, functions):
        for key, record in records(store).items():
            if store is file:  # a journal of two lines, the last of which is the state
                store.save(key, record._replace(data="{}" if record.kind == "session" else record.data))
            store.save(key, record)
        store.close()
    (GOLDEN / "functions.json").write_text(json.dumps(texts, indent=1) + "\n")
    (GOLDEN / "memcached.txt").write_text("".join(f"sessions:{key} {line}\n" for key, line in texts.items()))
    rows = [
        {"key": key, "format": 1, "kind": one.kind, "created": one.created, "deadline": one.deadline,
         "timeout": one.timeout, "account": "Ada L%C3%B8velace+%2F-%25" if one.user else "",
         "remembered": one.remembered, "data": one.data}
        for key, one in records(functions).items() if one.kind != INDEX
    ]  # fmt: skip
    (GOLDEN / "postgresql.json").write_text(json.dumps(rows, indent=1) + "\n")
    cookie = store_with(CookieStore(secret=SECRET))
    key = cookie.create(cookie.key_of(ID), next(iter(records(functions).values())))
    (GOLDEN / "cookie.txt").write_text(cookie.cookie_value(ID, key) + "\n")
    for left in [*GOLDEN.glob("ram.snapshot.*"), *GOLDEN.glob("file/.*")]:
        left.unlink()
    for folder in GOLDEN.glob("file/*"):
        if not any(folder.iterdir()):
            folder.rmdir()


if __name__ == "__main__":
    _write()
