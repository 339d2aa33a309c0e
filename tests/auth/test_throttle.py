"""Guessing passwords is slowed down, and nobody is locked out by it (OWASP ASVS 5.0, 6.3.1)."""

from __future__ import annotations

import heapq
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cherrypy
import pytest

import sessions
from auth import hashes, throttle
from auth.accounts import Accounts
from auth.authenticator import Authenticator
from auth.database import Database
from auth.throttle import Throttle
from tests.support.application import application, logged
from tests.support.client import Response, WsgiClient
from tests.support.hashing import CHEAP, computed, line

HERE, THERE = "192.0.2.1", "198.51.100.1"
DAY = 86_400.0
PASSWORD = "three blind mice run"  # noqa: S105 - made up here


class Clock:
    """Stands still until it is told otherwise."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def slow(clock: Clock) -> Throttle:
    return Throttle(clock)


def waits(slow: Throttle, clock: Clock, tries: int, account: str = "ada", address: str = HERE) -> list[float]:
    """Return how long each try had to wait, when each is made as soon as it may be."""
    found = []
    for _ in range(tries):
        found.append(slow.attempt(account, address))
        clock.now += found[-1]
        assert found[-1] == 0.0 or slow.attempt(account, address) == 0.0
    return found


def addresses() -> Iterator[str]:
    """Return addresses that are all different."""
    return (f"10.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}" for n in range(1 << 24))


def tables(slow: Throttle) -> list[throttle._Table]:
    return [slow._pairs, slow._site_pairs, slow._accounts, *slow._addresses]


# --- the delays -------------------------------------------------------------------------------------------------------


def test_one_address_waits_longer_each_time_for_one_account(slow: Throttle, clock: Clock) -> None:
    doubling = [2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0]
    assert waits(slow, clock, 16) == [0.0] * 5 + doubling + [900.0, 900.0]


def test_one_address_waits_longer_each_time_whatever_accounts_it_tries(slow: Throttle, clock: Clock) -> None:
    """After 15 and 30 minutes one try is forgotten: 512 comes twice."""
    found = [waits(slow, clock, 1, f"user{n}")[0] for n in range(33)]
    assert found == [0.0] * 20 + [2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 512.0, 900.0, 900.0, 900.0]


def test_asking_while_a_wait_runs_does_not_prolong_it(slow: Throttle, clock: Clock) -> None:
    waits(slow, clock, 8)
    left = slow.attempt("ada", HERE)
    assert left == 16.0
    for _ in range(100):
        assert slow.attempt("ada", HERE) == left
    clock.now += 15.5
    assert slow.attempt("ada", HERE) == 0.5
    clock.now += 0.5
    assert slow.attempt("ada", HERE) == 0.0


def test_many_tries_at_the_same_time_do_not_slip_through(slow: Throttle) -> None:
    together = threading.Barrier(20)

    def attempt(_: int) -> float:
        together.wait(10)
        return slow.attempt("ada", HERE)

    with ThreadPoolExecutor(20) as threads:
        assert list(threads.map(attempt, range(20))).count(0.0) == throttle.PAIR.free


def test_one_try_is_forgotten_after_the_other(slow: Throttle, clock: Clock) -> None:
    waits(slow, clock, 10)
    clock.now = 1000 + 6 * 3600 - 1
    assert slow.attempt("ada", HERE) == 0.0
    assert slow.attempt("ada", HERE) == 128.0, "11 tries"
    clock.now = 1000 + 3 * 6 * 3600
    assert slow.attempt("ada", HERE) == 0.0
    assert slow.attempt("ada", HERE) == 32.0, "three less and one more"
    clock.now = 1000 + 12 * 6 * 3600
    assert waits(slow, clock, 6) == [0.0] * 5 + [2.0]


def test_after_very_many_tries_the_waits_last_no_longer_than_after_a_few(slow: Throttle, clock: Clock) -> None:
    waits(slow, clock, 200)
    clock.now += 4 * 6 * 3600
    assert slow.attempt("ada", HERE) == 0.0
    assert slow.attempt("ada", HERE) <= 128.0, "ten more than the free ones, four less, one more"


def test_the_mistakes_of_an_office_over_a_day_make_nobody_wait(slow: Throttle, clock: Clock) -> None:
    for n in range(60):
        clock.now += 900
        assert slow.attempt(f"user{n}", HERE) == 0.0


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8:0:1::1", "2001:db8:0:1:ffff::9", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("", "", True),
        ("no address", "another one", False),
    ],
)
def test_an_address_is_all_of_ipv4_and_a_network_of_ipv6(
    slow: Throttle, clock: Clock, one: str, other: str, same: bool
) -> None:
    waits(slow, clock, 6, address=one)
    assert (slow.attempt("ada", other) > 0) is same


# --- right passwords --------------------------------------------------------------------------------------------------


def test_a_right_password_forgives_what_this_address_did_to_this_account(slow: Throttle, clock: Clock) -> None:
    waits(slow, clock, 7)
    slow.succeeded("ada", HERE)
    assert waits(slow, clock, 6) == [0.0] * 5 + [2.0]


@pytest.mark.parametrize("own", [0, 1, 3])
def test_signing_in_to_an_own_account_does_not_let_off_an_attacker(slow: Throttle, clock: Clock, own: int) -> None:
    """However many right passwords he sends between his guesses, 30 guesses take him as long."""
    for n in range(30):
        waits(slow, clock, 1, f"user{n}")
        for _ in range(own):
            waits(slow, clock, 1, "mallory")
            slow.succeeded("mallory", HERE)
    assert clock.now - 1000 >= 2 + 4 + 8 + 16 + 32 + 64 + 128 + 256 + 512 + 512


def test_whoever_signs_in_often_never_waits(slow: Throttle, clock: Clock) -> None:
    for _ in range(100):
        assert slow.attempt("ada", HERE) == 0.0
        slow.succeeded("ada", HERE)
    assert not any(map(len, tables(slow)))


def test_a_try_that_was_not_checked_does_not_count(slow: Throttle, clock: Clock) -> None:
    for _ in range(100):
        assert slow.attempt("ada", HERE) == 0.0
        slow.withdrawn("ada", HERE)
    waits(slow, clock, 5)
    clock.now += 2
    assert slow.attempt("ada", HERE) == 0.0
    slow.withdrawn("ada", HERE)
    assert slow.attempt("ada", HERE) == 0.0
    assert slow.attempt("ada", HERE) == 4.0


# --- one account, guessed at from everywhere --------------------------------------------------------------------------


@pytest.fixture
def attacked(slow: Throttle, clock: Clock) -> Throttle:
    """The account ada has been tried from a hundred addresses."""
    for address, _ in zip(addresses(), range(100), strict=False):
        assert slow.attempt("ada", address) == 0.0
    return slow


def test_an_account_under_attack_lets_a_new_address_try_as_often_as_any_other(attacked: Throttle) -> None:
    """So an owner who slips gets in at once; and guesses from there wait like those of one address, and then some."""
    assert [attacked.attempt("ada", HERE) for _ in range(6)] == [0.0] * 5 + [2.0]
    assert attacked.attempt("bob", HERE) == 0.0, "other accounts are not concerned"


@pytest.mark.parametrize("own", ["192.0.2.1", "2001:db8:1:2::3"])
def test_an_owner_with_one_slip_gets_in_at_once_while_others_guess(attacked: Throttle, clock: Clock, own: str) -> None:
    """The attackers take each place that comes free, on a whole day."""
    crowd = addresses()
    for hour in range(24):
        clock.now = 1000.0 + hour * 3600
        for _ in range(20):
            attacked.attempt("ada", next(crowd))
        entry = attacked._accounts.get(throttle.hashed("ada"), clock.now)
        assert entry and entry.until > clock.now, "the account waits"
        assert attacked.attempt("ada", own) == attacked.attempt("ada", own) == 0.0, "a slip, and the right one"
        attacked.succeeded("ada", own)


def test_a_new_network_of_a_customer_under_whose_48_somebody_guessed_waits_with_the_account(attacked: Throttle) -> None:
    for n in range(5):
        assert attacked.attempt("ada", f"2001:db8:1:{n}::1") == 0.0
    assert attacked.attempt("ada", "2001:db8:1:ff::1") > 0.0
    assert attacked.attempt("ada", "2001:db8:2::1") == 0.0


def guessed(clock: Clock, slow: Throttle, crowd: list[str], days: int) -> list[int]:
    """Return how often ada's password was tried on each day, when each of these addresses tries whenever it may."""
    found, began = [0] * days, clock.now
    turns = [(began, n) for n in range(len(crowd))]
    while turns[0][0] < began + days * DAY:
        clock.now, n = max(clock.now, turns[0][0]), turns[0][1]
        wait = slow.attempt("ada", crowd[n])
        if not wait:
            found[min(int((clock.now - began) // DAY), days - 1)] += 1
        heapq.heapreplace(turns, (clock.now + (wait or 0.001), n))
    return found


BOUNDS = {
    "an address": (["192.0.2.1"], 110, 96),
    "a /64": (["2001:db8::1"], 110, 96),
    "a /56": ([f"2001:db8:0:{n:x}::1" for n in range(16)], 150, 96),
    "a /48": ([f"2001:db8:0:{n * 256:x}::1" for n in range(16)], 400, 288),
    "30 addresses": ([f"192.0.2.{n}" for n in range(30)], 1540 + 30 * 9, 1440 + 30 * 4),
    "30 of /48": ([f"2001:db8:{n}::1" for n in range(30)], 1540 + 30 * 9, 1440 + 30 * 4),
}


@pytest.mark.parametrize("who", BOUNDS)
def test_the_guesses_of_a_day_are_bounded(slow: Throttle, clock: Clock, who: str) -> None:
    """By the numbers that the documentation of Throttle states, and near them: nobody is slowed down much more."""
    crowd, first, later = BOUNDS[who]
    days = guessed(clock, slow, crowd, 2)
    assert first * 0.85 <= days[0] <= first and later * 0.85 <= days[1] <= later + 1


def test_fresh_networks_of_one_customer_are_no_fresh_tries(slow: Throttle, clock: Clock) -> None:
    """Each guess comes from a /64 that was never seen before."""
    tried = 0
    for n in range(65_536):
        wait = slow.attempt(f"user{n}", f"2001:db8:0:{n * 257 & 0xFFFF:x}::1")
        clock.now += wait
        tried += not wait
        if clock.now >= 1000.0 + DAY:
            break
    assert clock.now >= 1000.0 + DAY and 340 <= tried <= 400


def test_the_owner_of_an_account_under_attack_gets_in_and_in_again(attacked: Throttle, clock: Clock) -> None:
    for _ in range(30):
        assert attacked.attempt("ada", HERE) == 0.0
        attacked.succeeded("ada", HERE)


def test_an_owner_signing_in_does_not_let_off_the_attackers(attacked: Throttle, clock: Clock) -> None:
    waits(attacked, clock, 5, address="10.0.0.0")
    before = attacked.attempt("ada", "10.0.0.0")
    assert before > 0
    attacked.attempt("ada", HERE)
    attacked.succeeded("ada", HERE)
    assert attacked.attempt("ada", "10.0.0.0") == before


def test_attackers_from_new_addresses_do_not_make_an_owner_wait_for_ever(attacked: Throttle, clock: Clock) -> None:
    """She has mistyped five times, so she waits with them: for the wait that runs, and a minute at most."""
    assert [attacked.attempt("ada", HERE) for _ in range(5)] == [0.0] * 5
    left = attacked.attempt("ada", HERE)
    assert 0 < left <= 60
    more = (f"203.0.113.{n}" for n in range(200))
    for address in more:
        clock.now += left / 201
        assert attacked.attempt("ada", address) == 0.0
    clock.now += left / 201
    assert attacked.attempt("ada", HERE) == 0.0


def test_the_wait_of_an_account_doubles_up_to_a_minute(slow: Throttle, clock: Clock) -> None:
    tried = [address for address, _ in zip(addresses(), range(20), strict=False)]
    for address in tried * 5:
        assert slow.attempt("ada", address) == 0.0
    found = []
    for address in tried[:6]:
        found.append(slow.attempt("ada", address))
        clock.now += found[-1]
        assert slow.attempt("ada", address) == 0.0
    assert found == [2.0, 4.0, 8.0, 16.0, 32.0, 60.0]


# --- memory -----------------------------------------------------------------------------------------------------------


def test_however_many_names_are_tried_memory_is_bounded(slow: Throttle) -> None:
    for n, address in zip(range(100_000), addresses(), strict=False):
        slow.attempt(f"{n}", address)
    for n in range(20_000):
        slow.attempt(f"{n}", f"2001:{n:x}::1")
    assert {len(table) for table in tables(slow)} == {throttle.ENTRIES}


def test_names_are_not_kept(slow: Throttle) -> None:
    for name in ("hunter2", "x" * 1_000_000, "\ud800"):
        slow.attempt(name, HERE)
    for table in (slow._pairs, slow._site_pairs, slow._accounts):
        assert {type(key) for key in table._entries} == {bytes}
        assert max(map(len, table._entries)) <= 64 and not [key for key in table._entries if b"hunter2" in key]


def test_an_attacker_cannot_push_out_the_entry_that_slows_him(
    slow: Throttle, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Millions of names from one address are refused without an entry; helpers elsewhere push out only each other."""
    monkeypatch.setattr(throttle, "ENTRIES", 100)
    for n in range(32):
        waits(slow, clock, 1, f"user{n}")
    left = slow.attempt("ada", HERE)
    assert left == 900.0
    for n in range(1000):
        assert slow.attempt(f"user{n}", HERE) > 0
    for n, address in zip(range(1000), addresses(), strict=False):
        slow.attempt(f"other{n}", address)
    assert slow.attempt("ada", HERE) == left
    assert len(slow._accounts) == 100


def test_an_account_under_attack_is_not_pushed_out_by_made_up_names(
    attacked: Throttle, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throttle, "ENTRIES", 100)
    for _ in range(5):
        assert attacked.attempt("ada", HERE) == 0.0
    left = attacked.attempt("ada", HERE)
    for n, address in zip(range(1000), addresses(), strict=False):
        attacked.attempt(f"user{n}", address)
    entry = attacked._accounts.get(throttle.hashed("ada"), clock.now)
    assert entry and entry.until - clock.now == left > 0


def test_the_order_of_tries_never_lets_more_through_than_the_rules(slow: Throttle, clock: Clock) -> None:
    """An hour of a thousand random tries each, from three addresses at two accounts."""
    chance = random.Random(4)  # noqa: S311 - no secret
    let: dict[tuple[str, str], int] = {}
    for _ in range(20_000):
        clock.now += chance.random() * 0.36
        pair = (chance.choice(["ada", "bob"]), chance.choice(["192.0.2.1", "192.0.2.2", "192.0.2.3"]))
        if slow.attempt(*pair) == 0.0:
            let[pair] = let.get(pair, 0) + 1
    assert clock.now - 1000 > 3000
    assert max(let.values()) <= 5 + 12, "five at once, and the waits of an hour add up to no more than twelve"


# --- the authenticator ------------------------------------------------------------------------------------------------


class Door:
    """A page that asks the authenticator: /NAME/right or /NAME/wrong."""

    def __init__(self, gate: Authenticator) -> None:
        self.gate = gate

    @cherrypy.expose
    def default(self, name: str, password: str) -> str:
        proof = self.gate.check(name, PASSWORD if password == "right" else "x")  # noqa: S105 - that it is not
        assert proof is None or proof.user == name
        return "welcome" if proof else "no"


@pytest.fixture
def ask(tmp_path: Path, slow: Throttle, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Response]:
    """Return a function that tries a password over WSGI."""
    monkeypatch.setattr(hashes, "CURRENT_PARAMETERS", CHEAP)
    accounts = Accounts(Database(f"sqlite:///{tmp_path}/users.sqlite"))
    accounts.insert("ada", line(PASSWORD))
    client = WsgiClient(application(Door(Authenticator(accounts, slow)), storage_type="ram"))
    return lambda name, password: client.get(f"/{name}/{'right' if password == PASSWORD else 'wrong'}")


def test_too_many_tries_are_429_with_a_time_to_come_back(ask: Callable[..., Response], clock: Clock) -> None:
    assert [ask("ada", "x").text for _ in range(5)] == ["no"] * 5
    refused = ask("ada", "x")
    assert (refused.status, refused.headers["retry-after"]) == (429, "2")
    assert "There were too many tries. Please wait 2 seconds, then try again." in refused.text
    clock.now += 0.7
    assert ask("ada", "x").headers["retry-after"] == "2", "rounded up"
    clock.now += 0.4
    assert "wait a second" in ask("ada", "x").text
    clock.now += 1
    assert ask("ada", PASSWORD).text == "welcome"


def test_a_long_wait_is_told_in_minutes(ask: Callable[..., Response], slow: Throttle, clock: Clock) -> None:
    waits(slow, clock, 16, address="127.0.0.1")
    refused = ask("ada", "x")
    assert refused.headers["retry-after"] == "900" and "Please wait 15 minutes" in refused.text


def test_while_a_wait_runs_no_hash_is_computed_and_a_right_password_waits_too(ask: Callable[..., Response]) -> None:
    for _ in range(5):
        ask("ada", "x")
    with computed() as costs:
        assert ask("ada", PASSWORD).status == ask("ada", "x").status == 429
    assert costs == []


@pytest.mark.parametrize("name", ["ada", "eve"])
def test_unknown_and_known_names_are_slowed_down_alike(ask: Callable[..., Response], name: str) -> None:
    assert [ask(name, "x").status for _ in range(7)] == [200] * 5 + [429] * 2


def test_each_refusal_is_noted_without_what_was_typed(ask: Callable[..., Response]) -> None:
    with logged() as lines:
        for name, password in [("ada", "hunter2"), ("hunter2", "x"), ("ada", PASSWORD)]:
            ask(name, password)
        for _ in range(6):
            ask("hunter2", "x")
    wrong, throttled = "sign-in refused: wrong name or password", "sign-in refused: too many tries"
    assert lines == [
        f"{wrong} account=ada address=127.0.0.1",
        *[f'{wrong} account="(unknown)" address=127.0.0.1'] * 5,
        *[f'{throttled} account="(unknown)" address=127.0.0.1'] * 2,
    ]


def test_accounts_that_do_not_answer_are_503_and_no_try(
    ask: Callable[..., Response], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*args: object) -> bool:
        raise sessions.Unavailable("no such disk")

    with monkeypatch.context() as patch:
        patch.setattr(hashes.Hasher, "verify", fails)
        for _ in range(30):
            answer = ask("ada", PASSWORD)
            assert (answer.status, answer.headers["retry-after"]) == (503, "5") and "no such disk" not in answer.text
    assert ask("ada", PASSWORD).text == "welcome"
