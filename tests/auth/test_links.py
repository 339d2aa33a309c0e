"""The table of links, in SQLite and in PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from auth import hashes
from auth.accounts import Accounts, Taken
from auth.database import Database, tokens
from auth.links import LIVES, Links, Spent, digest
from tests.support.hashing import CHEAP, line
from tests.support.users import DATABASES, url_of

OLD, NEW = "three blind mice run", "a staple and a battery"
ADA = "ada@example.org"


class Clock:
    """Epoch seconds, as the test sets them."""

    now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=DATABASES)
def accounts(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock) -> Accounts:
    """Accounts of which one is ada's."""
    monkeypatch.setattr(hashes, "CURRENT_PARAMETERS", CHEAP)
    found = Accounts(Database(url_of(request.param, tmp_path)), clock)
    found.insert("ada", line(OLD), ADA)
    return found


@pytest.fixture
def links(accounts: Accounts, clock: Clock) -> Links:
    return Links(accounts.database, clock)


def made(links: Links, kind: str = "reset", email: str | None = ADA, user: str | None = "ada") -> str:
    """Return what is stored of a new link."""
    token = links.make(kind, email, user)
    assert token and len(token) == 43
    return digest(token)


@pytest.mark.parametrize(("kind", "seconds"), [("reset", 30 * 60), ("sign-up", 24 * 3600), ("invite", 7 * 24 * 3600)])
def test_a_link_works_for_its_time(links: Links, clock: Clock, kind: str, seconds: int) -> None:
    assert LIVES[kind] == seconds
    hash = made(links, kind)
    clock.now += seconds - 1
    link = links.find(hash, kind)
    assert link and (link.user, link.email) == ("ada", ADA)
    assert not links.find(hash, *(LIVES.keys() - {kind}))
    clock.now += 1
    assert not links.find(hash, kind)


def test_what_is_over_is_removed_with_the_next_link(links: Links, clock: Clock, accounts: Accounts) -> None:
    made(links)
    clock.now += LIVES["reset"]
    kept = made(links)
    assert [row.hash for row in accounts.database.rows(sa.select(tokens))] == [kept]


def test_a_link_is_spent_with_what_it_is_for_or_not_at_all(links: Links, accounts: Accounts) -> None:
    hash = made(links, "sign-up", "bob@example.org", None)
    link = links.find(hash, "sign-up")
    assert link
    with pytest.raises(Taken):
        accounts.insert("ADA", line(OLD), link.email, also=links.spend(link))
    assert links.find(hash, "sign-up"), "the account was not made"
    accounts.insert("bob", line(OLD), link.email, also=links.spend(link))
    with pytest.raises(Spent):
        accounts.insert("carol", line(OLD), also=links.spend(link))
    assert [row.name for row in accounts.everybody()] == ["ada", "bob"]


def by_its_owner(accounts: Accounts) -> object:
    proof = accounts.verify("ada", OLD)
    return proof and accounts.change_password(proof, NEW)


ENDS: dict[str, Callable[[Accounts], object]] = {
    "its owner changes the password": by_its_owner,
    "an operator does": lambda accounts: accounts.set_password("ada", NEW),
    "the account is removed": lambda accounts: accounts.remove("ada"),
}


@pytest.mark.parametrize("when", ENDS)
def test_all_links_to_an_account_are_void_when(when: str, links: Links, accounts: Accounts) -> None:
    accounts.insert("bob", line(OLD))
    hashes = [made(links), made(links)]
    others = made(links, user="bob", email="bob@example.org")
    assert ENDS[when](accounts)
    assert [bool(links.find(hash, "reset")) for hash in (*hashes, others)] == [False, False, True]


def test_a_link_stays_when_the_sessions_of_its_account_are_ended(links: Links, accounts: Accounts) -> None:
    hash = made(links)
    accounts.revoke("ada")
    assert links.find(hash, "reset")
