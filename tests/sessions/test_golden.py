"""Record format 1, for good: what this release has written, each later one reads.

The files in golden/ were made once, by `python -m tests.sessions.test_golden`, and are never made again: a change that
needs them new would end the sessions of every site that is brought up to date. A run writes those that are missing, for
a backend that is new.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import shutil
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import redis as driver

from sessions import Record, Store, codec
from sessions.backends.cookie import CookieStore
from sessions.backends.file import FileStore
from sessions.backends.functions import FunctionStore
from sessions.backends.memcached import MemcachedStore
from sessions.backends.postgresql import PostgresqlStore
from sessions.backends.postgresql.table import table_sql
from sessions.backends.ram import RamStore
from sessions.backends.redis import RedisStore, name_of
from sessions.options import Settings
from sessions.record import INDEX
from sessions.registry import backend as session_class_of
from tests.sessions.test_codec import same
from tests.support.backends import BACKENDS, SECRET, memcached, postgresql, redis, table_of
from tests.support.members import sign_in_app
from tests.support.rules_app import repr_of

GOLDEN = Path(__file__).parent / "golden"
ID = "golden-golden-golden-golden-golden-golden-0"
NAMESPACE = "0123abcd-"
BEGAN, ENDS = 1_795_000_000.25, 4_102_444_800.5  # the year 2100: a file's time of modification is never later
USER = "Ada Løvelace+/-%"
AUTUMN = dt.datetime(2025, 10, 26, 2, 30, tzinfo=ZoneInfo("Europe/Rome"))  # this hour came twice
ODD_VALUES: dict[Any, Any] = {
    "text": ["\ud800", "\ud83d\ude00", "$tuple", ""], "numbers": [1 << 63, -(1 << 63) - 1, -0.0, 5e-324, float("inf")],
    "moments": [AUTUMN, AUTUMN.replace(fold=1), dt.datetime(2026, 1, 2, fold=1), dt.datetime(2026, 1, 2, tzinfo=dt.UTC),
                dt.time(1, tzinfo=dt.UTC), dt.time(1, fold=1)],
    "nested": {"$set": 1, "a": {}}, 7: None, (1, "$x"): frozenset({frozenset()}), "$": [((),), set()],
}  # fmt: skip

# What values.json holds: a type that is new goes into the tests of the codec, and not in here.
VALUES: dict[Any, Any] = {
    "none": None,
    "bool": True,
    "int": 10**40,
    "float": -0.5,
    "str": "é\0\n😀<b>",
    "bytes": bytes(range(256)),
    "list": [1, [2, (3,)]],
    "tuple": (1, (), [2]),
    "dict": {"a": 1, 2: "b", (3, 4): {"$x": 5}},
    "set": {1, "a", (2, 3)},
    "frozenset": frozenset({b"x"}),
    "datetime": dt.datetime(2026, 7, 1, 12, 30, 15, 250, ZoneInfo("Europe/Vienna")),
    "date": dt.date(2026, 2, 28),
    "time": dt.time(23, 59, 59, 999, dt.timezone(dt.timedelta(hours=-3, minutes=-30))),
    "timedelta": dt.timedelta(days=-1, microseconds=1),
    "decimal": Decimal("1.10"),
    "uuid": uuid.UUID(int=7),
}


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
    if backend == "redis":
        with driver.Redis(port=redis().port, protocol=2) as client:
            for name, fields in json.loads((GOLDEN / "redis.json").read_text()).items():
                client.delete(name)
                client.hset(name, mapping=fields)
                client.expireat(name, int(ENDS) + 60)
        return store_with(RedisStore(url=redis().url))
    import psycopg

    table = table_of(place)
    with psycopg.connect(postgresql().dsn, autocommit=True) as connection:  # a table of that day, which has to do
        connection.execute((GOLDEN / "postgresql.sql").read_text().replace("golden", table))
    sql = PostgresqlStore(dsn=postgresql().dsn, table=table)
    for row in json.loads((GOLDEN / "postgresql.json").read_text()):
        names, marks = ", ".join(row), ", ".join(["%s"] * len(row))
        sql.pool.query(f"INSERT INTO {table} ({names}) VALUES ({marks})", *row.values())  # noqa: S608 -- a test's own
    return store_with(sql)


@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "cookie"])
def test_what_this_release_has_stored_is_read_for_good(backend: str, tmp_path: Path) -> None:
    store = opened(backend, tmp_path)
    expected = records(store)
    if backend == "postgresql":  # which finds the sessions of a user by a column
        del expected[keys(store)["index"]]
    assert {key: store.load(key) for key in expected} == expected
    assert set(store.live(USER)) == {keys(store)["session"]}
    store.close()


@pytest.mark.parametrize("secret", [SECRET, f"a secret that was put before the one of old, {SECRET}"])
def test_a_cookie_that_this_release_has_set_is_read_for_good(secret: str) -> None:
    store = store_with(CookieStore(secret=secret))
    found = store.find(golden_cookie())
    assert found is not None and found[0] == ID
    assert store.load(found[1]) == Record(codec.encode(VALUES), BEGAN, ENDS, USER, True, 90.5)


def golden_cookie() -> str:
    return (GOLDEN / "cookie.txt").read_text().strip()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_visitor_of_this_release_goes_on_with_each_later_one(backend: str, tmp_path: Path) -> None:
    """Their session is read, belongs to the same user until the same moment, can be written, and is listed."""
    store = store_with(CookieStore(secret=SECRET)) if backend == "cookie" else opened(backend, tmp_path)
    cookie = golden_cookie() if backend == "cookie" else ID
    for count in (1, 2):
        session = session_class_of(backend)(store, Settings(session_class_of(backend)), f"session_id={cookie}")
        assert (session.user, session.remembered, session.timeout, session.signed_in_at) == (USER, True, 90.5, BEGAN)
        assert {name: repr_of(session[name]) for name in VALUES} == {n: repr_of(v) for n, v in VALUES.items()}
        session["count"] = session.get("count", 0) + 1
        assert session["count"] == count
        session.save()
        cookie = session.cookie_value
        if store.capabilities.lists:
            assert {key: record.user for key, record in store.live(USER).items()} == {keys(store)["session"]: USER}
    store.close()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_visitor_of_this_release_is_signed_in_at_a_site_of_each_later_one(backend: str, tmp_path: Path) -> None:
    """By its cookie alone: the tool opens the store, finds the session, keeps it and ends it."""
    texts = json.loads((GOLDEN / "functions.json").read_text())
    own: dict[str, dict[str, Any]] = {
        "ram": {"snapshot_path": str(tmp_path / "ram.snapshot")},
        "functions": {"load": texts.get, "save": texts.__setitem__, "delete": texts.pop},
    }
    if backend != "cookie":
        opened(backend, tmp_path).close()
    with sign_in_app(backend, tmp_path, remember_lifetime=None, **own.get(backend, {})) as site:
        site.store.namespace = NAMESPACE
        browser, other = site.browser(), site.browser()
        browser.cookies["session_id"] = golden_cookie() if backend == "cookie" else ID
        assert browser.user() == USER
        assert browser.run(lambda session: session["uuid"]) == str(VALUES["uuid"])
        browser.run(lambda session: session.update(seen=True))
        assert browser.run(lambda session: session["seen"]) == "True"
        other.cookies |= browser.cookies
        browser.run(lambda session: session.sign_out())
        assert browser.user() is None
        if site.store.capabilities.revokes:
            assert other.user() is None


def test_a_renewal_in_the_time_of_a_file_is_read_for_good(tmp_path: Path) -> None:
    store = opened("file", tmp_path)
    assert isinstance(store, FileStore)
    key = keys(store)["session"]
    for moment, deadline in ((0, ENDS), (ENDS + 600, ENDS + 600)):
        os.utime(store.path(key), (moment, moment))
        assert store.load(key) == records(store)[key]._replace(deadline=deadline)


def test_the_values_of_every_type_are_read_for_good() -> None:
    values = codec.decode(json.loads((GOLDEN / "values.json").read_text()))
    assert {name: repr_of(value) for name, value in values.items()} == {n: repr_of(v) for n, v in VALUES.items()}
    odd = json.loads((GOLDEN / "odd_values.json").read_text())
    assert same(codec.decode(odd), ODD_VALUES)
    assert codec.encode(ODD_VALUES) == odd, "a save would find each session changed"


@pytest.mark.parametrize("version", ["0", "2", "10"])
def test_a_record_of_another_format_is_not_taken_for_one_of_this(version: str) -> None:
    with pytest.raises(ValueError, match="a later release may have written it"):
        Record.unpack("key", f"{version} 00000000 session 1.0 2.0 - - {{}}".encode())


@pytest.mark.parametrize("kind", ["session", "visitor", "moved", "index"])
def test_the_line_of_a_record_is_written_as_it_was(kind: str) -> None:
    store = opened("functions", Path())
    key = keys(store)[kind]
    assert records(store)[key].pack(key).decode() == json.loads((GOLDEN / "functions.json").read_text())[key]


def _write() -> None:
    """Make the files. By hand, once for a format."""
    if not (GOLDEN / "odd_values.json").exists():
        (GOLDEN / "odd_values.json").write_text(json.dumps(codec.encode(ODD_VALUES)) + "\n")
    if not (GOLDEN / "postgresql.sql").exists():
        (GOLDEN / "postgresql.sql").write_text(table_sql("golden"))
    if not (GOLDEN / "redis.json").exists():
        _write_redis()
    if not (GOLDEN / "values.json").exists():
        _write_others()


def _write_others() -> None:
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


def _write_redis() -> None:
    if (GOLDEN / "redis.json").exists():
        return
    store, found = store_with(RedisStore(url=redis().url)), {}
    with driver.Redis(port=redis().port, protocol=2, decode_responses=True) as client:
        for key, record in records(store).items():
            store.save(key, record)
            found[name_of(key)] = client.hgetall(name_of(key))
    (GOLDEN / "redis.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    _write()
