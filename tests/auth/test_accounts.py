"""The accounts: whose password is right, and what is kept of changes."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import argon2
import pytest

import sessions
from auth import hashes, users_table
from auth.accounts import Accounts, Proof
from auth.demo import demo_account
from tests.support.application import logged
from tests.support.hashing import CHEAP, DEARER, DEAREST, computed, line
from web.settings import ROOT, StartError

FIRST, SECOND = "three blind mice run", "a staple and a battery"
HASH = line(FIRST)
NO_ANSWER = "The accounts do not answer. Please try again in a moment."

Open = Callable[..., Accounts]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "var" / "accounts.sqlite"


@pytest.fixture
def open_accounts(path: Path, monkeypatch: pytest.MonkeyPatch) -> Open:
    """Return a function that opens the accounts as a start of the site does: ada's, unless `users` says otherwise."""
    monkeypatch.setattr(hashes, "CURRENT_PARAMETERS", CHEAP)
    configured = line(FIRST)

    def open(users: dict[str, Any] | None = None, at: Path = path, **options: Any) -> Accounts:
        return Accounts({"ada": configured} if users is None else users, at, **options)

    return open


@pytest.fixture
def accounts(open_accounts: Open) -> Accounts:
    return open_accounts()


def in_another_process(path: Path, then: str) -> str:
    """Run Python with the accounts of a site that has none configured, at this path; return what it prints."""
    code = f"import sys; from auth.accounts import Accounts; accounts = Accounts({{}}, sys.argv[1]); {then}"
    command = [sys.executable, "-c", code, str(path)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=True).stdout.strip()


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


# --- who may sign in --------------------------------------------------------------------------------------------------


def test_one_password_is_right_and_no_other(accounts: Accounts) -> None:
    assert accounts.verify("ada", FIRST)
    wrong = [("ada", SECOND), ("ada", ""), ("ada", FIRST + " "), ("ada", FIRST.upper()), ("", ""), ("eve", FIRST)]
    assert [accounts.verify(*given) for given in wrong] == [None] * len(wrong)


# How a name is typed: by a phone that adds a space or a capital, by a keyboard that sends accents apart, pasted from a
# document with what cannot be seen in it.
SAME_NAMES = [
    ("ada", ["ada ", " ada", "Ada", "ADA", "ada\u00a0", "\u2003ada\t", "ada\n", "\u200bada", "a\u00adda\u2060",
             "\ufeffada", "\u200eada\u200f", "\uff41\uff44\uff41", "ad\u1d43"]),
    ("José Müller", ["jose\u0301 mu\u0308ller", "JOSE\u0301 MU\u0308LLER", "josé\u00a0müller", " JOSÉ\u3000MÜLLER "]),
    ("Jose\u0301", ["josé", "JOSÉ "]),
    ("Strauß", ["strauss", "STRAUSS", "STRAUẞ"]),
    ("STRAUSS", ["strauß"]),
    ("İnci", ["i\u0307nci", "I\u0307NCI", "İNCI"]),
    ("ılgın", ["ılgın "]),
    ("ΣΊΣΥΦΟΣ", ["σίσυφος", "σι\u0301συφοσ"]),
    ("\u1fb7", ["\u1fbc\u0342", "\u0391\u0342\u0399"]),  # alpha with two marks, and its capitals
    ("\u212bsa", ["\u00e5sa", "A\u030asa"]),  # angstrom
    ("한글", ["\u1112\u1161\u11ab\u1100\u1173\u11af"]),
]  # fmt: skip
OTHER_NAMES = [("ada", ["a da", "ädä", "ada.", "\u0430da", "ada\u0301"]), ("josé", ["jose"]),
               ("inci", ["İnci", "ınci"]), ("ılgın", ["ILGIN", "ilgin"])]  # fmt: skip
SAME_ACCOUNTS = [(name, typed[0]) for name, typed in SAME_NAMES if typed[0].isprintable() and " " not in typed[0]]


@pytest.mark.parametrize(("name", "typed"), SAME_NAMES)
def test_a_name_is_the_accounts_however_it_was_typed_and_stays_as_it_is_registered(
    open_accounts: Open, name: str, typed: list[str]
) -> None:
    accounts = open_accounts({name: line(FIRST)})
    for written in (name, *typed):
        proof = accounts.verify(written, FIRST)
        assert proof and proof.user == name, ascii(written)
        assert accounts.registered(written) == name
    assert not accounts.verify(typed[0], SECOND)


@pytest.mark.parametrize(("name", "typed"), OTHER_NAMES)
def test_another_name_is_not_the_accounts(open_accounts: Open, name: str, typed: list[str]) -> None:
    """Accents and letters of other alphabets count. So does the dot of the Turkish i, which only Turkish capitals keep
    apart from the other one."""
    accounts = open_accounts({name: line(FIRST)})
    assert [accounts.verify(written, FIRST) for written in typed] == [None] * len(typed)


@pytest.mark.parametrize(("one", "other"), SAME_ACCOUNTS)
def test_two_accounts_of_one_name_stop_the_start(path: Path, one: str, other: str) -> None:
    with pytest.raises(StartError) as refused:
        Accounts({one: HASH, "eve": HASH, other: HASH}, path)
    told = str(refused.value)
    assert repr(one) in told and repr(other) in told and "rename one" in told and "\n" not in told


def test_there_is_no_demo_account_beside_one_of_its_name_in_capitals() -> None:
    assert demo_account({"Ada": HASH}, {"DEMO_PASSWORD": FIRST}) == ({}, None, "")


def test_a_name_of_any_length_is_looked_up_at_once(accounts: Accounts) -> None:
    """To sort the accents of a letter takes a time that grows with the square of their number."""
    for name in ("\u0301\u0323" * 250_000, " " * 10**6 + "ada"):
        assert accounts.registered(name) is None


def test_unknown_name_wrong_password_and_right_one_cost_the_same_one_computation(accounts: Accounts) -> None:
    asked = [("ada", FIRST), ("ada", SECOND), ("eve", FIRST), ("ada", "x" * 1025), ("eve", "x" * 10**6)]
    for name, password in [*asked, ("ada", "\ud800")]:
        with computed() as costs:
            assert bool(accounts.verify(name, password)) == ((name, password) == ("ada", FIRST))
        assert costs == [(CHEAP.memory_cost, CHEAP.time_cost)], f"{name} with {password[:20]!r}"


def test_a_start_computes_no_hash_and_the_first_sign_in_those_of_demo_accounts_whoever_it_is(
    open_accounts: Open,
) -> None:
    for first in ("bob", "ada", "eve"):
        with computed() as costs:
            accounts = open_accounts(demo={"bob": "b"})
            assert costs == [] and "bob" in accounts and accounts.valid_since("bob") == 0.0
            for after in (2, 3):
                assert bool(accounts.verify(first, "b")) == (first == "bob")
                assert len(costs) == after


def test_the_password_of_a_demo_account_is_hashed_once_however_many_sign_in_at_once(open_accounts: Open) -> None:
    accounts = open_accounts(demo={"bob": "b"})
    with computed() as costs, ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda _: accounts.verify("bob", "b"), range(8)))
    assert len(costs) == 1 + 8


def test_where_there_is_no_memory_for_a_hash_the_accounts_are_unavailable(
    open_accounts: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    accounts = open_accounts(demo={"bob": "b"})

    def fail(*args: object, **options: object) -> bytes:
        raise argon2.exceptions.HashingError("Memory allocation error")

    with monkeypatch.context() as patch:
        patch.setattr("argon2._password_hasher.hash_secret", fail)
        with pytest.raises(sessions.Unavailable):
            accounts.verify("bob", "b")
    assert accounts.verify("bob", "b")


@pytest.mark.parametrize(("letter", "same"), [("a\u0308", True), ("ä", True), ("\uff41\u0308", True), ("a", False)])
def test_the_same_letters_from_another_keyboard_are_the_same_password(
    open_accounts: Open, letter: str, same: bool
) -> None:
    change(open_accounts(), FIRST, "ä" * 20)
    assert bool(open_accounts().verify("ada", letter * 20)) is same


def test_1024_characters_are_read_to_the_last_one(accounts: Accounts) -> None:
    long = "three blind mice run " * 48 + "sixteen letters."
    assert len(long) == 1024
    change(accounts, FIRST, long)
    assert accounts.verify("ada", long)
    assert not accounts.verify("ada", long[:-1]) and not accounts.verify("ada", long + ".")
    with pytest.raises(ValueError, match="1024"):
        change(accounts, long, long + ".")


@pytest.mark.parametrize(
    "value",
    [
        "hunter2hunter2", "", None, 5, HASH[:-2], HASH[:-6], HASH + " ", HASH.replace("argon2id", "argon2i"),
        HASH.replace("v=19", "v=16"), HASH.replace("m=64", "m=0"), "$2b$12$0123456789012345678901",
        HASH.rpartition("$")[0],
    ],
    ids=range(12),
)  # fmt: skip
def test_an_account_without_a_whole_argon2id_hash_stops_the_start(path: Path, value: Any) -> None:
    with pytest.raises(StartError) as refused:
        Accounts({"bob": HASH, "ada": value}, path)
    told = str(refused.value)
    assert "'ada'" in told and "python app.py hash-password ada" in told and "\n" not in told
    assert not value or str(value) not in told, "it may be a password"


@pytest.mark.parametrize("name", ["", " ada", "ada\n", "a\x00b", "a" * 101, "a\u202eb", 5])
def test_what_cannot_be_the_name_of_an_account_stops_the_start(path: Path, name: Any) -> None:
    with pytest.raises(StartError, match="cannot be called"):
        Accounts({name: HASH}, path)


def test_an_account_is_configured_or_a_demo_not_both(path: Path) -> None:
    for name in ("ada", "Ada"):
        with pytest.raises(StartError, match=f"'{name}' of .users. is a demo account too"):
            Accounts({name: HASH}, path, {"ada": FIRST})


# --- hashes that are renewed ------------------------------------------------------------------------------------------


def test_a_hash_cheaper_than_todays_is_replaced_when_its_owner_signs_in(
    open_accounts: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    users = {"ada": line(FIRST, CHEAP)}
    monkeypatch.setattr(hashes, "CURRENT_PARAMETERS", DEARER)
    accounts = open_accounts(users)
    with computed() as costs:
        assert accounts.verify("ada", FIRST)
        assert costs == [(64, 1), (128, 1)]
        assert open_accounts(users).verify("ada", FIRST)
        assert costs[2:] == [(128, 1)]


def test_a_wrong_password_for_a_hash_cheaper_than_todays_costs_no_less_than_an_unknown_name(
    open_accounts: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hashes, "CURRENT_PARAMETERS", DEARER)
    accounts = open_accounts({"ada": line(FIRST, CHEAP)})
    for name, password, cost in [("eve", SECOND, [128]), ("ada", SECOND, [64, 128]), ("ada", "x" * 1025, [128])]:
        with computed() as costs:
            assert not accounts.verify(name, password)
        assert costs == [(memory, 1) for memory in cost]


def test_a_hash_dearer_than_todays_stays(open_accounts: Open, path: Path) -> None:
    assert open_accounts({"ada": line(FIRST, DEAREST)}).verify("ada", FIRST)
    assert not path.exists()


def test_renewing_a_hash_does_not_bring_back_a_password_changed_meanwhile(
    open_accounts: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The change comes between the check of the old password and its new hash."""
    monkeypatch.setattr(hashes, "CURRENT_PARAMETERS", DEARER)
    users = {"ada": line(FIRST, CHEAP)}
    accounts, other = open_accounts(users), open_accounts(users)
    renewed = accounts._renewed

    def changed_first(*args: str) -> str:
        change(other, FIRST, SECOND)
        return renewed(*args)

    monkeypatch.setattr(accounts, "_renewed", changed_first)
    assert not accounts.verify("ada", FIRST)
    assert accounts.verify("ada", SECOND) and not accounts.verify("ada", FIRST)


def test_two_who_renew_a_hash_at_the_same_time_both_get_in_and_can_change_the_password(
    open_accounts: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hashes, "CURRENT_PARAMETERS", DEARER)
    users = {"ada": line(FIRST, CHEAP)}
    accounts, other = open_accounts(users), open_accounts(users)
    renewed = accounts._renewed
    monkeypatch.setattr(accounts, "_renewed", lambda *args: other.verify("ada", FIRST) and renewed(*args))
    proof = accounts.verify("ada", FIRST)
    assert proof and accounts.change_password(proof, SECOND)


def test_where_nothing_can_be_written_an_old_hash_still_signs_in(
    open_accounts: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hashes, "CURRENT_PARAMETERS", DEARER)
    accounts = open_accounts({"ada": line(FIRST, CHEAP)}, at=Path("/proc/none/accounts.sqlite"))
    sessions.install()
    with logged() as lines:
        assert accounts.verify("ada", FIRST)
    assert len(lines) == 1 and lines[0].startswith("a password hash was not renewed account=ada reason=")


# --- changes ----------------------------------------------------------------------------------------------------------


def test_a_changed_password_holds_in_every_process_and_after_a_restart(open_accounts: Open) -> None:
    here, there = open_accounts(), open_accounts()
    assert there.verify("ada", FIRST)
    change(here, FIRST, SECOND)
    for accounts in (here, there, open_accounts()):
        assert accounts.verify("ada", SECOND) and not accounts.verify("ada", FIRST)


def test_a_line_changed_by_the_operator_wins_over_a_password_changed_before(open_accounts: Open) -> None:
    change(open_accounts(), FIRST, SECOND)
    reset = open_accounts({"ada": line("the operator says so")})
    assert reset.verify("ada", "the operator says so") and not reset.verify("ada", SECOND)
    assert change(reset, "the operator says so", FIRST + FIRST)
    assert reset.verify("ada", FIRST + FIRST)


def test_a_demo_password_changed_survives_a_restart_and_gives_way_to_another_demo_password(open_accounts: Open) -> None:
    """Every process makes the demo account's hash by itself, and a developer's site restarts at each changed file."""
    change(open_accounts({}, demo={"ada": "cloakroom"}), "cloakroom", SECOND)
    again = open_accounts({}, demo={"ada": "cloakroom"})
    assert again.verify("ada", SECOND) and not again.verify("ada", "cloakroom")
    assert open_accounts({}, demo={"ada": "another one"}).verify("ada", "another one")


def test_an_account_that_is_not_configured_has_no_password_to_change(accounts: Accounts, path: Path) -> None:
    with pytest.raises(KeyError):
        accounts.change_password(Proof("eve", 0.0, HASH), SECOND)
    assert not path.exists()


def test_sessions_are_valid_since_the_last_revocation_in_every_process(accounts: Accounts, path: Path) -> None:
    assert accounts.valid_since("ada") == 0.0
    before = time.time()
    accounts.revoke("ada")
    since = accounts.valid_since("ada")
    assert since is not None and before < since <= time.time() + 0.002
    assert in_another_process(path, "accounts.revoke('ada')") == ""
    later = accounts.valid_since("ada")
    assert later is not None and later > since


def test_a_revocation_outlives_a_changed_line(open_accounts: Open) -> None:
    accounts = open_accounts()
    accounts.revoke("ada")
    since = accounts.valid_since("ada")
    change(accounts, FIRST, SECOND)
    assert open_accounts({"ada": line(SECOND)}).valid_since("ada") == since


def test_a_removed_account_has_no_valid_session_and_no_password(open_accounts: Open) -> None:
    change(open_accounts(), FIRST, SECOND)
    removed = open_accounts({"bob": line(FIRST)})
    assert removed.valid_since("ada") is None
    assert not removed.verify("ada", SECOND) and not removed.verify("ada", FIRST)
    assert removed.valid_since("bob") == 0.0


def test_writers_at_the_same_time_all_get_through(open_accounts: Open) -> None:
    """Also the first ones, of which only one makes the table."""
    users = {f"user{n}": HASH for n in range(8)}
    writers = [open_accounts(users) for _ in users]
    together = threading.Barrier(len(users))

    def revoke(accounts: Accounts, name: str) -> None:
        together.wait(10)
        accounts.revoke(name)

    with ThreadPoolExecutor(len(users)) as threads:
        list(threads.map(revoke, writers, users))
    assert all(open_accounts(users).valid_since(name) for name in users)
    assert len(list(Path(writers[0]._users._path).parent.iterdir())) == 1, "something was left behind"


# --- what happens while a password is looked at -----------------------------------------------------------------------


class Clock:
    """Stands still until it is told otherwise."""

    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def meanwhile(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], object]) -> None:
    """Let something happen once, while the next password is being hashed."""
    fits = hashes.Hasher._fits

    def slow(self: hashes.Hasher, hash: str, data: bytes) -> bool:
        monkeypatch.setattr(hashes.Hasher, "_fits", fits)
        right = fits(self, hash, data)
        happens()
        return right

    monkeypatch.setattr(hashes.Hasher, "_fits", slow)


def test_an_old_password_looked_at_while_it_is_changed_proves_nothing(
    open_accounts: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    accounts, other = open_accounts(), open_accounts()
    meanwhile(monkeypatch, lambda: change(other, FIRST, SECOND))
    assert not accounts.verify("ada", FIRST)
    assert accounts.verify("ada", SECOND)


@pytest.mark.parametrize("ticks", [0.0, 5.0])
def test_a_proof_is_older_than_a_revocation_that_came_while_it_was_made(
    open_accounts: Open, monkeypatch: pytest.MonkeyPatch, ticks: float
) -> None:
    """Also in the same tick of the clock; and one that is made after it is not."""
    clock = Clock()
    accounts = open_accounts(clock=clock)

    def revoked() -> None:
        clock.now += ticks
        accounts.revoke("ada")

    meanwhile(monkeypatch, revoked)
    before, after = accounts.verify("ada", FIRST), accounts.verify("ada", FIRST)
    since = accounts.valid_since("ada")
    assert before and after and since
    assert before.moment < since <= after.moment


def test_a_revocation_that_waits_for_the_disk_is_later_than_a_proof_begun_meanwhile(
    open_accounts: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The revocation asks for the time when nobody can read the old row any more, and not when it is called."""
    clock = Clock()
    accounts = open_accounts(clock=clock)
    accounts.revoke("ada")
    proofs = []
    connect = users_table.UsersTable._connect

    def waits(path: Path) -> sqlite3.Connection:
        if not proofs:
            proofs.append(None)
            clock.now += 1.0
            proofs.append(open_accounts(clock=clock).verify("ada", FIRST))
        return connect(path)

    monkeypatch.setattr(users_table.UsersTable, "_connect", staticmethod(waits))
    accounts.revoke("ada")
    proof, since = proofs[1], accounts.valid_since("ada")
    assert proof and since and proof.moment < since


def test_a_clock_that_was_ahead_locks_nobody_out_and_is_noted(open_accounts: Open) -> None:
    clock = Clock()
    accounts = open_accounts(clock=clock)
    sessions.install()
    clock.now += 3600
    accounts.revoke("ada")
    clock.now -= 3600
    ahead = accounts.valid_since("ada")
    with logged() as lines:
        proof = accounts.verify("ada", FIRST)
    assert proof and proof.moment == ahead and lines == ["the last revocation is ahead of the clock account=ada"]
    accounts.revoke("ada")
    later = accounts.valid_since("ada")
    assert later and later > proof.moment, "the clock is still behind, and the proof is revoked all the same"
    clock.now += 3600 - 30
    with logged() as lines:
        assert accounts.verify("ada", FIRST)
    assert lines == [], "clocks differ by seconds"


@pytest.mark.parametrize("before", ["nothing", "revoked", "changed"])
def test_of_two_password_changes_at_once_the_second_changes_nothing(open_accounts: Open, before: str) -> None:
    accounts, other, first = open_accounts(), open_accounts(), FIRST
    if before == "revoked":
        accounts.revoke("ada")
    elif before == "changed":
        change(accounts, FIRST, first := "an apple a day keeps")
    proofs = accounts.verify("ada", first), other.verify("ada", first)
    assert proofs[0] and proofs[1]
    assert accounts.change_password(proofs[0], SECOND)
    assert not other.change_password(proofs[1], FIRST + FIRST)
    assert accounts.verify("ada", SECOND) and not accounts.verify("ada", FIRST + FIRST)


def test_a_proof_of_a_line_that_the_operator_has_replaced_changes_nothing(open_accounts: Open) -> None:
    proof = open_accounts().verify("ada", FIRST)
    reset = open_accounts({"ada": line("the operator says so")})
    assert proof and not reset.change_password(proof, SECOND)
    assert reset.verify("ada", "the operator says so")


# --- the file ---------------------------------------------------------------------------------------------------------


def test_the_file_is_made_by_the_first_change_and_for_its_owner_alone(accounts: Accounts, path: Path) -> None:
    assert accounts.verify("ada", FIRST) and accounts.valid_since("ada") == 0.0
    assert not path.parent.exists()
    before = os.umask(0)
    try:
        change(accounts, FIRST, SECOND)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600 and path.parent.stat().st_mode & 0o777 == 0o700


def test_no_password_and_no_older_hash_is_in_the_file(accounts: Accounts, path: Path) -> None:
    change(accounts, FIRST, SECOND)
    kept = path.read_bytes()
    assert SECOND.encode() not in kept and kept.count(b"$argon2id$") == 1


def test_asking_writes_nothing(accounts: Accounts, path: Path) -> None:
    accounts.revoke("ada")
    before = (path.stat().st_mtime_ns, path.read_bytes())
    assert accounts.valid_since("ada") and accounts.verify("ada", FIRST)
    assert (path.stat().st_mtime_ns, path.read_bytes()) == before
    assert [path] == list(path.parent.iterdir())


def test_where_nothing_can_be_written_one_signs_in_but_keeps_the_old_password(open_accounts: Open) -> None:
    accounts = open_accounts(at=Path("/proc/none/accounts.sqlite"))
    assert accounts.valid_since("ada") == 0.0
    said = unavailable(change, accounts, FIRST, SECOND)
    assert said == "New passwords cannot be kept here just now. Nothing was changed: your old password still holds."
    assert accounts.verify("ada", FIRST) and not accounts.verify("ada", SECOND)
    with pytest.raises(sessions.Unavailable, match="cannot be written"):
        accounts.revoke("ada")


def test_a_locked_table_tells_nobody_which_accounts_exist(
    accounts: Accounts, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(users_table, "_TIMEOUT", 0.01)
    accounts.revoke("ada")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        for name in ("ada", "eve"):
            assert unavailable(accounts.verify, name, FIRST) == NO_ANSWER
        with pytest.raises(sessions.Unavailable, match="locked"):
            accounts.valid_since("ada")
        other.execute("ROLLBACK")
    assert accounts.verify("ada", FIRST) and accounts.valid_since("ada")


def spoiled(path: Path) -> None:
    path.write_bytes(b"no database at all" * 1000)


def replaced_by_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("harm", [spoiled, replaced_by_a_folder, Path.unlink])
def test_a_file_that_cannot_be_read_any_more_is_not_an_empty_one(
    accounts: Accounts, path: Path, harm: Callable[[Path], None]
) -> None:
    """Else revoked sessions and old passwords would be good again."""
    change(accounts, FIRST, SECOND)
    assert accounts.valid_since("ada") == 0.0
    harm(path)
    with pytest.raises(sessions.Unavailable):
        accounts.valid_since("ada")
    assert unavailable(accounts.verify, "ada", FIRST) == NO_ANSWER
    with pytest.raises(sessions.Unavailable):
        accounts.revoke("ada")


def test_a_backup_put_in_the_place_of_the_file_is_read(accounts: Accounts, path: Path) -> None:
    change(accounts, FIRST, SECOND)
    shutil.copy(path, path.with_name("backup"))
    change(accounts, SECOND, FIRST + FIRST)
    assert accounts.verify("ada", FIRST + FIRST)
    path.with_name("backup").replace(path)
    assert accounts.verify("ada", SECOND) and not accounts.verify("ada", FIRST + FIRST)


def test_a_start_without_a_file_of_changes_says_so_where_accounts_are_configured(open_accounts: Open) -> None:
    """Old passwords and ended sessions are back if it was lost. A site with no account but the demo's has none."""
    sessions.install()
    with logged() as lines:
        accounts = open_accounts()
        open_accounts({}, demo={"ada": "cloakroom"})
        change(accounts, FIRST, SECOND)
        open_accounts()
    assert len(lines) == 1 and lines[0].startswith("no password was ever changed here, or that file is lost file=")


@pytest.mark.parametrize(
    ("memory", "passes", "weak"),
    [(19456, 2, False), (19455, 2, True), (19456, 1, True), (65536, 3, False), (47104, 1, False), (47103, 1, True),
     (7168, 5, False), (7167, 9, True), (64, 1, True)],
)  # fmt: skip
def test_a_hash_below_the_least_that_owasp_asks_for_is_weak(memory: int, passes: int, weak: bool) -> None:
    assert hashes.is_weak(HASH.replace("m=64,t=1", f"m={memory},t={passes}")) is weak


# --- many at once -----------------------------------------------------------------------------------------------------


def test_two_hashes_are_computed_at_a_time_and_who_waits_too_long_is_told(
    accounts: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hashes, "_TURN_SECONDS", 0.01)
    inside, go_on = threading.Semaphore(0), threading.Event()
    verify = argon2.PasswordHasher.verify

    def slow(hasher: argon2.PasswordHasher, *args: Any) -> Any:
        inside.release()
        assert go_on.wait(10)
        return verify(hasher, *args)

    monkeypatch.setattr(argon2.PasswordHasher, "verify", slow)
    with ThreadPoolExecutor(2) as threads:
        first = [threads.submit(accounts.verify, "ada", FIRST) for _ in range(2)]
        assert inside.acquire(timeout=10) and inside.acquire(timeout=10)
        try:
            said = unavailable(accounts.verify, "ada", FIRST)
        finally:
            go_on.set()
        assert said == "Many people are signing in just now. Please try again in a moment."
        assert all(answer.result(10) for answer in first)
    assert accounts.verify("ada", FIRST)
