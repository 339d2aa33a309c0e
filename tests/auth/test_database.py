"""The tables of users: how they are made and brought up to date, and what happens where they cannot be asked."""

from __future__ import annotations

import os
import pwd
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

import sessions
from auth import database, hashes
from auth.accounts import Accounts
from auth.database import AccountsUnavailable, Database, users
from services.postgresql import Postgresql
from tests.support.application import logged
from tests.support.backends import postgresql, table_of
from tests.support.hashing import CHEAP, DEARER, line
from tests.support.pgbouncer import PgBouncer
from tests.support.process import folder
from tests.support.users import DATABASES, impatient, url_of
from web.settings import StartError

FIRST, SECOND = "three blind mice run", "a staple and a battery"
NO_ANSWER = "The accounts do not answer. Please try again in a moment."


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashes, "CURRENT_PARAMETERS", CHEAP)


@pytest.fixture(params=DATABASES)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return url_of(request.param, tmp_path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "var" / "users.sqlite"


def opened(url: str | Path) -> Accounts:
    """The accounts there, of which one is ada's."""
    accounts = Accounts(Database(url if isinstance(url, str) else f"sqlite:///{url}"))
    if accounts.is_empty():
        accounts.insert("ada", line(FIRST), valid_since=0.0)
    return accounts


def change(accounts: Accounts, old: str, new: str) -> bool:
    """Change ada's password as its owner does."""
    proof = accounts.verify("ada", old)
    assert proof
    return accounts.change_password(proof, new)


def unavailable(call: Callable[..., object], *args: object) -> str:
    """Return what a visitor reads when this is not possible."""
    with pytest.raises(sessions.Unavailable) as caught:
        call(*args)
    return caught.value.public


# --- versions ---------------------------------------------------------------------------------------------------------


def test_of_processes_that_start_together_one_makes_the_tables(url: str) -> None:
    together = threading.Barrier(8)

    def start(_: int) -> bool:
        together.wait(10)
        return Accounts(Database(url)).is_empty()

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(start, range(8)))


def test_a_start_brings_older_tables_up_to_date_once(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where several start together: each of these statements would fail a second time."""
    opened(url)
    steps = (("ALTER TABLE users ADD COLUMN phone TEXT", "UPDATE users SET phone = '112'"),
             ("ALTER TABLE users ADD COLUMN fax TEXT",))  # fmt: skip
    monkeypatch.setattr(database, "MIGRATIONS", steps[:1])
    Database(url)
    monkeypatch.setattr(database, "MIGRATIONS", steps)
    with ThreadPoolExecutor(4) as pool:
        all_of_them = list(pool.map(lambda _: Database(url), range(4)))
    [row] = all_of_them[0].rows(sa.text("SELECT name, phone, fax FROM users"))
    assert tuple(row) == ("ada", "112", None)


def test_a_migration_that_fails_changes_nothing(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(url)
    with monkeypatch.context() as patch:
        patch.setattr(database, "MIGRATIONS", (("ALTER TABLE users ADD COLUMN phone TEXT", "no statement"),))
        with pytest.raises(AccountsUnavailable, match="cannot be"):
            Database(url)
    with pytest.raises(AccountsUnavailable, match="phone"):
        opened(url).database.rows(sa.text("SELECT phone FROM users"))


def test_tables_of_a_later_version_are_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(database, "MIGRATIONS", ((),) * 6)
        opened(url)
    with pytest.raises(StartError, match="of version 7, and this site knows 1") as refused:
        Database(url)
    assert "\n" not in str(refused.value)


def test_a_table_of_something_else_is_not_taken_for_that_of_users(url: str, tmp_path: Path) -> None:
    mine = opened(url)
    with mine.database.begin() as connection:
        connection.execute(sa.text("DROP TABLE users_version"))
    with pytest.raises(AccountsUnavailable, match="users.* already exists"):
        Database(url)
    assert mine.verify("ada", FIRST)


@pytest.mark.parametrize("url", ["mysql://ada:secret@host/users", "secret", "host=host password='secret"])
def test_what_is_no_address_of_a_database_is_refused_without_quoting_it(url: str) -> None:
    with pytest.raises(StartError, match="users.url is neither sqlite:///PATH nor postgresql://") as refused:
        Database(url)
    assert "secret" not in str(refused.value)


# --- what is kept, and what is not ------------------------------------------------------------------------------------


def test_no_password_and_no_older_hash_is_in_the_file(path: Path) -> None:
    accounts = opened(path)
    change(accounts, FIRST, SECOND)
    kept = path.read_bytes()
    assert SECOND.encode() not in kept and kept.count(b"$argon2id$") == 1


def test_asking_writes_nothing(path: Path) -> None:
    accounts = opened(path)
    accounts.revoke("ada")
    before = (path.stat().st_mtime_ns, path.read_bytes())
    assert accounts.valid_since("ada") and accounts.verify("ada", FIRST) and opened(path)
    assert (path.stat().st_mtime_ns, path.read_bytes()) == before
    assert [path] == list(path.parent.iterdir())


def test_an_open_database_has_no_connection_that_a_fork_would_copy_and_keeps_its_first(url: str) -> None:
    database = Database(url)
    kept: sa.QueuePool = database._engine.pool  # type: ignore[assignment]
    assert kept.checkedin() == 0
    for _ in range(3):
        assert database.rows(sa.select(users)) == [] and kept.checkedin() == 1


def test_the_file_is_made_for_its_owner_alone(path: Path) -> None:
    before = os.umask(0)
    try:
        opened(path)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600 and path.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files for others")
def test_what_root_makes_in_the_folder_of_another_account_is_that_accounts() -> None:
    """Or the site could not read what `user add` has made."""
    place = folder()
    nobody = pwd.getpwnam("nobody")
    os.chown(place, nobody.pw_uid, nobody.pw_gid)
    try:
        opened(place / "var" / "users.sqlite")
        made = [place / "var", place / "var" / "users.sqlite"]
        assert [(one.stat().st_uid, one.stat().st_gid) for one in made] == [(nobody.pw_uid, nobody.pw_gid)] * 2
    finally:
        shutil.rmtree(place)


def test_where_no_file_can_be_made_the_start_says_so() -> None:
    with pytest.raises(AccountsUnavailable, match="the users in /proc/none/users.sqlite cannot be made: No such"):
        Database("sqlite:////proc/none/users.sqlite")


# --- what cannot be asked ---------------------------------------------------------------------------------------------


def freeze(accounts: Accounts) -> None:
    """Let nothing be written any more: root may write any file, so SQLite is told."""
    statement = "PRAGMA query_only = ON" if accounts.database.path else "SET default_transaction_read_only = on"
    sa.event.listen(accounts.database._engine, "checkout", lambda connection, *_: connection.execute(statement))


def test_where_nothing_can_be_written_the_old_password_holds(url: str) -> None:
    accounts = opened(url)
    proof = accounts.verify("ada", FIRST)
    freeze(accounts)
    said = unavailable(accounts.change_password, proof, SECOND)
    assert said == "New passwords cannot be kept here just now. Nothing was changed: your old password still holds."
    with pytest.raises(sessions.Unavailable, match="cannot be written"):
        accounts.revoke("ada")
    assert opened(url).verify("ada", FIRST) and accounts.valid_since("ada") == 0.0


def test_where_nothing_can_be_written_an_old_hash_still_signs_in(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accounts = opened(path)
    monkeypatch.setattr(hashes, "CURRENT_PARAMETERS", DEARER)
    freeze(accounts)
    sessions.install()
    with logged() as lines:
        assert accounts.verify("ada", FIRST)
    assert len(lines) == 1 and lines[0].startswith("a password hash was not renewed account=ada reason=")


@pytest.fixture
def locked(url: str, tmp_path: Path) -> Iterator[Callable[[], Any]]:
    """A function that locks the table of users until the end."""
    opened(url)
    if url.startswith("sqlite"):
        other: Any = sqlite3.connect(tmp_path / "var" / "users.sqlite", isolation_level=None)
        lock = "BEGIN EXCLUSIVE"
    else:
        other = psycopg.connect(postgresql().dsn)
        lock = f'LOCK TABLE "{table_of(tmp_path)}".users IN ACCESS EXCLUSIVE MODE'
    with closing(other):
        yield lambda: other.execute(lock)
        other.rollback()


def test_a_locked_table_tells_nobody_which_accounts_exist(
    url: str, locked: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient(monkeypatch)
    accounts = opened(url)
    locked()
    for name in ("ada", "eve"):
        assert unavailable(accounts.verify, name, FIRST) == NO_ANSWER
    with pytest.raises(sessions.Unavailable, match="cannot be read"):
        accounts.valid_since("ada")


def spoiled(path: Path) -> None:
    path.write_bytes(b"no database at all" * 5000)


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def replaced_by_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("harm", [spoiled, emptied, replaced_by_a_folder, Path.unlink])
def test_a_file_that_cannot_be_read_any_more_is_not_an_empty_one(path: Path, harm: Callable[[Path], None]) -> None:
    """Else everybody's name would be free, and nobody's session revoked."""
    accounts = opened(path)
    assert accounts.valid_since("ada") == 0.0
    harm(path)
    with pytest.raises(sessions.Unavailable):
        accounts.valid_since("ada")
    assert unavailable(accounts.verify, "ada", FIRST) == NO_ANSWER
    for write in (lambda: accounts.revoke("ada"), lambda: accounts.add("ada", SECOND)):
        with pytest.raises(sessions.Unavailable):
            write()


def test_a_backup_put_in_the_place_of_the_file_is_read(path: Path) -> None:
    accounts = opened(path)
    shutil.copy(path, path.with_name("backup"))
    change(accounts, FIRST, SECOND)
    assert accounts.verify("ada", SECOND)
    path.with_name("backup").replace(path)
    assert accounts.verify("ada", FIRST) and not accounts.verify("ada", SECOND)


# --- a server ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def server() -> Iterator[Postgresql]:
    """A server that a test may stop."""
    place = folder()
    server = Postgresql(place / "server")
    server.start()
    yield server
    server.stop()
    shutil.rmtree(place)


def test_a_server_that_is_down_is_unavailable_and_nobody_notices_once_it_is_back(
    server: Postgresql, monkeypatch: pytest.MonkeyPatch
) -> None:
    accounts = opened(server.dsn)
    with ThreadPoolExecutor(4) as pool:  # connections that a restart leaves dead
        assert list(pool.map(accounts.valid_since, ["ada"] * 8)) == [0.0] * 8
    server.stop()
    for call in (accounts.valid_since, accounts.revoke, accounts.registered, lambda name: accounts.verify(name, FIRST)):
        assert unavailable(call, "ada") == NO_ANSWER
    with pytest.raises(AccountsUnavailable, match="the users in PostgreSQL at 127.0.0.1 cannot be made"):
        Database(server.dsn)
    server.start()
    assert accounts.valid_since("ada") == 0.0 and accounts.verify("ada", FIRST)
    server.restart()
    accounts.revoke("ada")
    assert accounts.valid_since("ada")


def test_a_server_that_hangs_is_unavailable(server: Postgresql, monkeypatch: pytest.MonkeyPatch) -> None:
    """No request waits for it for ever; and nothing that arrived late is taken for the answer to something else."""
    monkeypatch.setattr("sessions.backends.postgresql.connection.CONNECT_TIMEOUT", 1)
    impatient(monkeypatch)
    accounts = opened(server.dsn)
    accounts.insert("bob", line(SECOND), valid_since=1.0)
    assert accounts.valid_since("ada") == 0.0
    server.pause()
    try:
        assert unavailable(accounts.valid_since, "ada") == NO_ANSWER
        assert unavailable(accounts.set_password, "ada", SECOND) == NO_ANSWER
    finally:
        server.resume()
    assert accounts.valid_since("bob") == 1.0 and accounts.valid_since("ada") == 0.0
    assert accounts.verify("ada", FIRST)


def test_a_pooler_in_between_is_enough() -> None:
    """Transactions of PgBouncer: no statement is prepared, and no setting kept by a connection."""
    place = folder()
    with PgBouncer(place, postgresql().port) as bouncer:
        accounts = opened(bouncer.dsn)
        with ThreadPoolExecutor(4) as pool:
            for _ in range(8):
                assert all(pool.map(lambda _: accounts.verify("ada", FIRST), range(4)))
        assert change(accounts, FIRST, FIRST) and accounts.set_password("ada", FIRST)
        accounts.remove("ada")
    shutil.rmtree(place)
