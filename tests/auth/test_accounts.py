"""The accounts: whose password is right, and what changes; each in SQLite and in PostgreSQL."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import argon2
import pytest
import sqlalchemy as sa

import sessions
from auth import hashes
from auth.accounts import Accounts, Taken, check_hashes
from auth.database import Database, recovery_codes, tokens, users
from auth.demo import DemoAccounts
from tests.support.application import logged
from tests.support.hashing import CHEAP, DEARER, DEAREST, computed, line
from tests.support.users import DATABASES, impatient, url_of
from web.settings import ROOT, StartError

FIRST, SECOND = "three blind mice run", "a staple and a battery"
HASH = line(FIRST)

Open = Callable[..., Accounts]


@pytest.fixture(params=DATABASES)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return url_of(request.param, tmp_path)


@pytest.fixture
def open_accounts(url: str, monkeypatch: pytest.MonkeyPatch) -> Open:
    """Return a function that opens the accounts as a start of the site does, each time with connections of its own."""
    monkeypatch.setattr(hashes, "CURRENT_PARAMETERS", CHEAP)
    return lambda **options: Accounts(Database(url), **options)


@pytest.fixture
def open_demo(url: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], DemoAccounts]:
    """Return a function that opens them as a site in development does; who asks is on this machine."""
    monkeypatch.setattr(hashes, "CURRENT_PARAMETERS", CHEAP)
    monkeypatch.setattr("web.csrf.from_this_machine", lambda: True)
    return lambda password: DemoAccounts(Database(url), password)


@pytest.fixture
def accounts(open_accounts: Open) -> Accounts:
    """The accounts of a site with one, ada's."""
    accounts = open_accounts()
    accounts.insert("ada", line(FIRST), valid_since=0.0)
    return accounts


def in_another_process(url: str, then: str) -> str:
    """Run Python with the accounts at this url; return what it prints."""
    code = "import sys; from auth import accounts, database; a = accounts.Accounts(database.Database(sys.argv[1])); "
    command = [sys.executable, "-c", code + then, url]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=True).stdout.strip()


def change(accounts: Accounts, old: str, new: str) -> bool:
    """Change ada's password as its owner does."""
    proof = accounts.verify("ada", old)
    assert proof
    return accounts.change_password(proof, new)


def cheap_hash(accounts: Accounts) -> None:
    """Give ada a hash that is cheaper than DEARER's."""
    with accounts.database.begin() as connection:
        connection.execute(sa.update(users).values(hash=line(FIRST, CHEAP)))


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
    accounts = open_accounts()
    accounts.insert(name, line(FIRST))
    for written in (name, *typed):
        proof = accounts.verify(written, FIRST)
        assert proof and proof.user == name, ascii(written)
        assert accounts.registered(written) == name
    assert not accounts.verify(typed[0], SECOND)


@pytest.mark.parametrize(("name", "typed"), OTHER_NAMES)
def test_another_name_is_not_the_accounts(open_accounts: Open, name: str, typed: list[str]) -> None:
    """Accents and letters of other alphabets count. So does the dot of the Turkish i, which only Turkish capitals keep
    apart from the other one."""
    accounts = open_accounts()
    accounts.insert(name, line(FIRST))
    assert [accounts.verify(written, FIRST) for written in typed] == [None] * len(typed)


@pytest.mark.parametrize(("one", "other"), SAME_ACCOUNTS)
def test_two_accounts_cannot_have_one_name_however_it_is_written(open_accounts: Open, one: str, other: str) -> None:
    accounts = open_accounts()
    accounts.insert(one, HASH)
    for name in (one, other):
        with pytest.raises(Taken) as refused:
            accounts.insert(name, line(SECOND), email="email@example.org")
        assert refused.value.field == "name"
    assert [row.name for row in accounts.everybody()] == [one] and accounts.verify(other, FIRST)


def test_two_accounts_cannot_have_one_address_however_it_is_written(accounts: Accounts) -> None:
    accounts.insert("bob", HASH, email="Bob@Example.org")
    with pytest.raises(Taken) as refused:
        accounts.insert("eve", HASH, email="bob@example.ORG")
    assert refused.value.field == "email" and accounts.registered("eve") is None
    accounts.insert("eve", HASH)
    assert accounts.registered("eve"), "many may have none"


def test_a_mail_goes_to_the_address_that_was_registered(accounts: Accounts) -> None:
    accounts.insert("bob", HASH, email="Bob@Example.org")
    found = accounts.by_email("bob@example.org")
    assert found and (found.name, found.email) == ("bob", "Bob@Example.org")
    assert accounts.by_email("") is None and accounts.by_email("eve@example.org") is None
    accounts.disable("bob")
    assert accounts.by_email("bob@example.org") is None


@pytest.mark.parametrize(
    "email", ["bob", "@", "a b@example.org", "a@b@c", "a@b\r\nBcc: eve@example.org", "a" * 250 + "@b.org"]
)
def test_what_cannot_be_an_address_is_refused(open_accounts: Open, email: str) -> None:
    with pytest.raises(StartError, match="no e-mail address"):
        open_accounts().insert("bob", HASH, email=email)


def test_a_name_of_any_length_is_looked_up_at_once(accounts: Accounts) -> None:
    """To sort the accents of a letter takes a time that grows with the square of their number."""
    for name in ("\u0301\u0323" * 250_000, " " * 10**6 + "ada"):
        assert accounts.registered(name) is None


@pytest.mark.parametrize("name", ["ada\0", "\0", "\ud800", "ada\udfff", ""])
def test_what_no_database_keeps_is_an_unknown_name(accounts: Accounts, name: str) -> None:
    assert accounts.registered(name) is None and accounts.verify(name, FIRST) is None


def test_unknown_name_wrong_password_and_right_one_cost_the_same_one_computation(accounts: Accounts) -> None:
    asked = [("ada", FIRST), ("ada", SECOND), ("eve", FIRST), ("ada", "x" * 1025), ("eve", "x" * 10**6)]
    for name, password in [*asked, ("ada", "\ud800")]:
        with computed() as costs:
            assert bool(accounts.verify(name, password)) == ((name, password) == ("ada", FIRST))
        assert costs == [(CHEAP.memory_cost, CHEAP.time_cost)], f"{name} with {password[:20]!r}"


def test_where_there_is_no_memory_for_a_hash_the_accounts_are_unavailable(
    accounts: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:

    def fail(*args: object, **options: object) -> bytes:
        raise argon2.exceptions.HashingError("Memory allocation error")

    with monkeypatch.context() as patch:
        patch.setattr("argon2._password_hasher.hash_secret", fail)
        with pytest.raises(sessions.Unavailable):
            accounts.add("bob", SECOND)
    assert accounts.add("bob", SECOND)


@pytest.mark.parametrize(("letter", "same"), [("a\u0308", True), ("ä", True), ("\uff41\u0308", True), ("a", False)])
def test_the_same_letters_from_another_keyboard_are_the_same_password(
    accounts: Accounts, letter: str, same: bool
) -> None:
    change(accounts, FIRST, "ä" * 20)
    assert bool(accounts.verify("ada", letter * 20)) is same


def test_1024_characters_are_read_to_the_last_one(accounts: Accounts) -> None:
    long = "three blind mice run " * 48 + "sixteen letters."
    assert len(long) == 1024
    change(accounts, FIRST, long)
    assert accounts.verify("ada", long)
    assert not accounts.verify("ada", long[:-1]) and not accounts.verify("ada", long + ".")
    with pytest.raises(ValueError, match="1024"):
        change(accounts, long, long + ".")


@pytest.mark.parametrize("name", ["", " ada", "ada\n", "a\x00b", "a" * 101, "a\u202eb", 5])
def test_what_cannot_be_the_name_of_an_account_is_refused(open_accounts: Open, name: Any) -> None:
    with pytest.raises(StartError, match="cannot be called"):
        open_accounts().insert(name, HASH)


def test_whoever_is_added_can_sign_in_at_once(open_accounts: Open) -> None:
    accounts = open_accounts()
    proof = accounts.add("Ada", FIRST)
    since = accounts.valid_since("Ada")
    assert proof.user == "Ada" and since == proof.moment and proof.hash.startswith("$argon2id$")
    assert accounts.verify("ada", FIRST)


def test_sessions_of_a_removed_account_are_not_those_of_a_new_one_with_its_name(accounts: Accounts) -> None:
    before = accounts.verify("ada", FIRST)
    accounts.remove("ada")
    assert accounts.valid_since("ada") is None and not accounts.verify("ada", FIRST)
    accounts.add("ada", SECOND)
    since = accounts.valid_since("ada")
    assert before and since and before.moment < since


def test_with_an_account_goes_all_that_belongs_to_it(accounts: Accounts) -> None:
    accounts.insert("bob", HASH)
    with accounts.database.begin() as connection:
        for user in ("ada", "bob"):
            connection.execute(sa.insert(recovery_codes).values(user=user, hash="one"))
            connection.execute(sa.insert(tokens).values(user=user, hash=user, kind="reset", expires=1.0))
    assert accounts.remove("ada") and not accounts.remove("ada")
    left = [row.user for table in (recovery_codes, tokens) for row in accounts.database.rows(sa.select(table))]
    assert left == ["bob", "bob"]


# --- disabled ---------------------------------------------------------------------------------------------------------


def test_a_disabled_account_costs_and_says_what_a_wrong_password_does(accounts: Accounts) -> None:
    accounts.disable("ada")
    for name, password in [("ada", FIRST), ("ada", SECOND), ("eve", FIRST)]:
        with computed() as costs:
            assert accounts.verify(name, password) is None
        assert costs == [(CHEAP.memory_cost, CHEAP.time_cost)]


def test_the_sessions_of_a_disabled_account_end_for_good(accounts: Accounts, open_accounts: Open) -> None:
    proof = accounts.verify("ada", FIRST)
    accounts.disable("ada")
    assert open_accounts().valid_since("ada") is None
    assert proof and not accounts.change_password(proof, SECOND)
    accounts.enable("ada")
    since = accounts.valid_since("ada")
    assert since and proof.moment < since, "a cookie from before is still nobody's"
    assert accounts.verify("ada", FIRST)


def test_an_account_disabled_while_its_password_is_looked_at_is_not_let_in(
    accounts: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    meanwhile(monkeypatch, lambda: accounts.disable("ada"))
    assert not accounts.verify("ada", FIRST)


@pytest.mark.parametrize("what", ["disable", "enable", "remove", "revoke", "set_password"])
def test_what_is_done_to_an_account_that_does_not_exist_is_nothing(accounts: Accounts, what: str) -> None:
    before = accounts.everybody()
    assert not getattr(accounts, what)("eve", *([SECOND] if what == "set_password" else []))
    assert accounts.everybody() == before


# --- the demo account -------------------------------------------------------------------------------------------------

OpenDemo = Callable[[str], DemoAccounts]


def test_a_start_computes_no_hash_and_the_first_sign_in_that_of_the_demo_account_whoever_it_is(
    open_demo: OpenDemo,
) -> None:
    for first in ("ada", "eve"):
        with computed() as costs:
            accounts = open_demo("a password")
            assert costs == []
            for after in (2, 3):
                assert bool(accounts.verify(first, "a password")) == (first == "ada")
                assert len(costs) == after


def test_the_password_of_the_demo_account_is_hashed_once_however_many_sign_in_at_once(open_demo: OpenDemo) -> None:
    accounts = open_demo("a password")
    with computed() as costs, ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda _: accounts.verify("ada", "a password"), range(8)))
    assert len(costs) == 1 + 8


def test_a_demo_password_changed_survives_a_restart_and_gives_way_to_another_demo_password(open_demo: OpenDemo) -> None:
    """A developer's site restarts at each changed file."""
    change(open_demo("cloakroom"), "cloakroom", SECOND)
    again = open_demo("cloakroom")
    assert again.verify("ada", SECOND) and not again.verify("ada", "cloakroom")
    other = open_demo("another one")
    assert other.verify("ada", "another one") and not other.verify("ada", SECOND)


def test_a_demo_account_is_none_of_any_other_site_and_gives_way_to_a_real_one(
    open_demo: OpenDemo, open_accounts: Open
) -> None:
    demo, accounts = open_demo("cloakroom"), open_accounts()
    assert demo.verify("ada", "cloakroom") and demo.valid_since("ada") is not None
    assert accounts.is_empty() and accounts.everybody() == [] and accounts.registered("ada") is None
    assert accounts.valid_since("ada") is None and not accounts.verify("ada", "cloakroom")
    assert not accounts.disable("ada") and not accounts.remove("ada")
    accounts.add("Ada", SECOND)
    assert accounts.verify("ada", SECOND) and not demo.verify("ada", "cloakroom")
    later = open_demo("cloakroom")
    assert not later.verify("ada", "cloakroom") and later.verify("ada", SECOND)


# --- hashes that are renewed ------------------------------------------------------------------------------------------


@pytest.fixture
def outdated(accounts: Accounts, open_accounts: Open, monkeypatch: pytest.MonkeyPatch) -> Accounts:
    """The accounts of a site whose hashes have become cheaper than those of today."""
    monkeypatch.setattr(hashes, "CURRENT_PARAMETERS", DEARER)
    return open_accounts()


def test_a_hash_cheaper_than_todays_is_replaced_when_its_owner_signs_in(
    outdated: Accounts, open_accounts: Open
) -> None:
    with computed() as costs:
        assert outdated.verify("ada", FIRST)
        assert costs == [(64, 1), (128, 1)]
        assert open_accounts().verify("ada", FIRST)
        assert costs[2:] == [(128, 1)]


def test_a_wrong_password_for_a_hash_cheaper_than_todays_costs_no_less_than_an_unknown_name(outdated: Accounts) -> None:
    for name, password, cost in [("eve", SECOND, [128]), ("ada", SECOND, [64, 128]), ("ada", "x" * 1025, [128])]:
        with computed() as costs:
            assert not outdated.verify(name, password)
        assert costs == [(memory, 1) for memory in cost]


def test_a_hash_dearer_than_todays_stays(accounts: Accounts) -> None:
    dear = line(FIRST, DEAREST)
    accounts.insert("bob", dear)
    proof = accounts.verify("bob", FIRST)
    assert proof and proof.hash == dear


def test_renewing_a_hash_does_not_bring_back_a_password_changed_meanwhile(
    outdated: Accounts, open_accounts: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The change comes between the check of the old password and its new hash."""
    other, renewed = open_accounts(), outdated._renewed

    def changed_first(*args: Any) -> str:
        change(other, FIRST, SECOND)
        return renewed(*args)

    monkeypatch.setattr(outdated, "_renewed", changed_first)
    assert not outdated.verify("ada", FIRST)
    assert outdated.verify("ada", SECOND) and not outdated.verify("ada", FIRST)


def test_two_who_renew_a_hash_at_the_same_time_both_get_in_and_can_change_the_password(
    outdated: Accounts, open_accounts: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, renewed = open_accounts(), outdated._renewed
    monkeypatch.setattr(outdated, "_renewed", lambda *args: other.verify("ada", FIRST) and renewed(*args))
    proof = outdated.verify("ada", FIRST)
    assert proof and outdated.change_password(proof, SECOND)


@pytest.mark.parametrize(
    ("memory", "passes", "weak"),
    [(19456, 2, False), (19455, 2, True), (19456, 1, True), (65536, 3, False), (47104, 1, False), (47103, 1, True),
     (7168, 5, False), (7167, 9, True), (64, 1, True)],
)  # fmt: skip
def test_a_hash_below_the_least_that_owasp_asks_for_is_weak(memory: int, passes: int, weak: bool) -> None:
    assert hashes.is_weak(HASH.replace("m=64,t=1", f"m={memory},t={passes}")) is weak


def test_a_weak_hash_is_found_among_others_and_its_owner_named(
    open_accounts: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    accounts = open_accounts()
    monkeypatch.setattr(hashes, "CURRENT_PARAMETERS", argon2.profiles.RFC_9106_LOW_MEMORY)
    for name, parameters in (("bob", "m=65536,t=3,p=4"), ("dan", "m=19456,t=2,p=1")):
        accounts.insert(name, HASH.replace("m=64,t=1,p=1", parameters))
    check_hashes(accounts)
    accounts.insert("eve", HASH)
    with pytest.raises(StartError, match=r"'eve'.*user password eve"):
        check_hashes(accounts)


# --- changes ----------------------------------------------------------------------------------------------------------


def test_a_changed_password_holds_in_every_process_and_after_a_restart(accounts: Accounts, open_accounts: Open) -> None:
    there = open_accounts()
    assert there.verify("ada", FIRST)
    change(accounts, FIRST, SECOND)
    for each in (accounts, there, open_accounts()):
        assert each.verify("ada", SECOND) and not each.verify("ada", FIRST)


def test_a_password_set_by_the_operator_ends_all_sessions(accounts: Accounts) -> None:
    proof = accounts.verify("ada", FIRST)
    assert accounts.set_password("ada", SECOND)
    since = accounts.valid_since("ada")
    assert proof and since and proof.moment < since
    assert accounts.verify("ada", SECOND) and not accounts.verify("ada", FIRST)
    assert not accounts.change_password(proof, FIRST), "it was proved before"


def test_sessions_are_valid_since_the_last_revocation_in_every_process(accounts: Accounts, url: str) -> None:
    assert accounts.valid_since("ada") == 0.0
    before = time.time()
    accounts.revoke("ada")
    since = accounts.valid_since("ada")
    assert since is not None and before < since <= time.time() + 0.002
    assert in_another_process(url, "a.revoke('ada')") == ""
    later = accounts.valid_since("ada")
    assert later is not None and later > since


def test_a_revocation_outlives_a_changed_password(accounts: Accounts, open_accounts: Open) -> None:
    accounts.revoke("ada")
    since = accounts.valid_since("ada")
    change(accounts, FIRST, SECOND)
    assert open_accounts().valid_since("ada") == since


def test_writers_at_the_same_time_all_get_through(open_accounts: Open) -> None:
    writers = {f"user{n}": open_accounts() for n in range(8)}
    together = threading.Barrier(len(writers))

    def work(name: str) -> None:
        together.wait(10)
        writers[name].insert(name, HASH, valid_since=0.0)
        writers[name].revoke(name)

    with ThreadPoolExecutor(len(writers)) as threads:
        list(threads.map(work, writers))
    assert all(open_accounts().valid_since(name) for name in writers)


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
    accounts: Accounts, open_accounts: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = open_accounts()
    meanwhile(monkeypatch, lambda: change(other, FIRST, SECOND))
    assert not accounts.verify("ada", FIRST)
    assert accounts.verify("ada", SECOND)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def timed(accounts: Accounts, open_accounts: Open, clock: Clock) -> Accounts:
    """The accounts, with a clock that stands still."""
    return open_accounts(clock=clock)


@pytest.mark.parametrize("ticks", [0.0, 5.0])
def test_a_proof_is_older_than_a_revocation_that_came_while_it_was_made(
    timed: Accounts, clock: Clock, monkeypatch: pytest.MonkeyPatch, ticks: float
) -> None:
    """Also in the same tick of the clock; and one that is made after it is not."""

    def revoked() -> None:
        clock.now += ticks
        timed.revoke("ada")

    meanwhile(monkeypatch, revoked)
    before, after = timed.verify("ada", FIRST), timed.verify("ada", FIRST)
    since = timed.valid_since("ada")
    assert before and after and since
    assert before.moment < since <= after.moment


def test_a_revocation_that_waits_for_its_turn_is_later_than_a_proof_begun_meanwhile(
    timed: Accounts, open_accounts: Open, clock: Clock
) -> None:
    """It asks for the time when nobody can prove anything by the old row any more, and not when it is called."""
    asked, go_on, proofs = threading.Event(), threading.Event(), []
    begin = timed.database.begin

    def waits() -> Any:
        asked.set()
        assert go_on.wait(10)
        return begin()

    timed.database.begin = waits  # type: ignore[method-assign]
    with ThreadPoolExecutor(1) as pool:
        revoking = pool.submit(timed.revoke, "ada")
        assert asked.wait(10)
        clock.now += 1.0
        proofs.append(open_accounts(clock=clock).verify("ada", FIRST))
        go_on.set()
        revoking.result(10)
    since = timed.valid_since("ada")
    assert proofs[0] and since and proofs[0].moment < since


def test_a_proof_waits_for_a_revocation_that_has_read_its_clock(
    accounts: Accounts, open_accounts: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be later than the revocation, by a row from before it: PostgreSQL lets readers read on."""
    impatient(monkeypatch)
    prover, asked = open_accounts(), []

    def clock() -> float:
        now = time.time()
        with ThreadPoolExecutor(1) as pool, pytest.raises(sessions.Unavailable):
            asked.append("and waits")
            pool.submit(prover.verify, "ada", FIRST).result(10)
        return now

    assert open_accounts(clock=clock).set_password("ada", SECOND)
    assert asked and accounts.verify("ada", SECOND)


def test_a_clock_that_was_ahead_locks_nobody_out_and_is_noted(timed: Accounts, clock: Clock) -> None:
    sessions.install()
    clock.now += 3600
    timed.revoke("ada")
    clock.now -= 3600
    ahead = timed.valid_since("ada")
    with logged() as lines:
        proof = timed.verify("ada", FIRST)
    assert proof and proof.moment == ahead and lines == ["the last revocation is ahead of the clock account=ada"]
    timed.revoke("ada")
    later = timed.valid_since("ada")
    assert later and later > proof.moment, "the clock is still behind, and the proof is revoked all the same"
    clock.now += 3600 - 30
    with logged() as lines:
        assert timed.verify("ada", FIRST)
    assert lines == [], "clocks differ by seconds"


@pytest.mark.parametrize("revoked", [False, True])
def test_of_two_password_changes_at_once_the_second_changes_nothing(
    accounts: Accounts, open_accounts: Open, revoked: bool
) -> None:
    other = open_accounts()
    proofs = accounts.verify("ada", FIRST), other.verify("ada", FIRST)
    if revoked:
        accounts.revoke("ada")
    assert proofs[0] and proofs[1]
    assert accounts.change_password(proofs[0], SECOND)
    assert not other.change_password(proofs[1], FIRST + FIRST)
    assert accounts.verify("ada", SECOND) and not accounts.verify("ada", FIRST + FIRST)


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
            with pytest.raises(sessions.Unavailable) as refused:
                accounts.verify("ada", FIRST)
        finally:
            go_on.set()
        assert refused.value.public == "Many people are signing in just now. Please try again in a moment."
        assert all(answer.result(10) for answer in first)
    assert accounts.verify("ada", FIRST)
