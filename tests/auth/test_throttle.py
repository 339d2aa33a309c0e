"""Guessing is limited, and nobody is locked out by it (OWASP ASVS 5.0, 6.3.1)."""

from __future__ import annotations

import bisect
import itertools
import random
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import cherrypy
import pytest
import redis

import sessions
from auth import counters, hashes, throttle
from auth.accounts import Accounts
from auth.authenticator import Authenticator
from auth.database import Database
from auth.throttle import Attempt, Throttle
from services.memcached import Memcached
from services.redis import Redis
from tests.support.application import application, logged
from tests.support.backends import options_of
from tests.support.backends import redis as redis_server
from tests.support.client import Response, WsgiClient
from tests.support.hashing import CHEAP, computed, line
from web import csrf

HERE = "192.0.2.1"
HOUR, DAY = 3600, 86_400
PASSWORD = "three blind mice run"  # noqa: S105 - made up here
AT_ONE_ACCOUNT = throttle.PAIR.amount + throttle.ACCOUNT["password"].amount  # passwords that one address tries at once
BACKENDS_PAGE = Path(__file__).parents[2] / "docs" / "backends.md"


class Clock:
    """Stands still until it is told otherwise; a whole day begins with it, which is where Memcached counts anew."""

    now = 20_000.0 * DAY

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The time of everything in this process, that of the library included."""
    clock = Clock()
    monkeypatch.setattr(time, "time", clock)
    return clock


def options(profile: str, number: int = 0) -> dict[str, Any]:
    """Return the options of a site of this profile, of which no other one has this number."""
    given = options_of(profile, Path("/nowhere")) | {"name": f"test_{number}"}
    return {f"tools.sessions.{name}": value for name, value in given.items()}


NUMBERS = itertools.count(1)
every_storage = pytest.mark.parametrize("profile", ["ram", "memcached", "redis"])
every_shared_storage = pytest.mark.parametrize("profile", ["memcached", "redis"])


@pytest.fixture
def profile() -> str:
    """Where tries are counted; a test may ask for others."""
    return "ram"


@pytest.fixture
def opened(profile: str) -> Callable[[], Throttle]:
    """Opens the throttle of one more process of the same site."""
    given = options(profile, next(NUMBERS))
    return lambda: Throttle(given)


@pytest.fixture
def slow(opened: Callable[[], Throttle]) -> Throttle:
    return opened()


def attempt(slow: Throttle, account: str = "ada", address: str = HERE, purpose: str = "password") -> Attempt:
    return slow.attempt(purpose, account, csrf.address_of(address))


def let(slow: Throttle, tries: int, **of: str) -> int:
    """Return how many of so many tries are let through at once."""
    return [attempt(slow, **of).wait for _ in range(tries)].count(0.0)


def addresses() -> Iterator[str]:
    """Yield addresses that are all different."""
    return (str(IPv4Address("10.0.0.0") + n) for n in itertools.count())


def windows(slow: Throttle) -> dict[str, list[float]]:
    """Return what is kept in the memory of this process."""
    return slow._counters._memory.storage._windows


# --- the limits -------------------------------------------------------------------------------------------------------


@every_storage
def test_one_address_tries_one_account_so_often_and_again_when_it_is_told_to(
    slow: Throttle, clock: Clock, profile: str
) -> None:
    for _ in range(AT_ONE_ACCOUNT):
        assert attempt(slow).wait == 0.0
        clock.now += 1
    left = attempt(slow).wait
    # The oldest try that counts for the account was its sixth, ten seconds ago; Memcached does not know which.
    assert left == pytest.approx(HOUR - 10, abs=0.01) or profile == "memcached"
    clock.now += left - 1
    assert attempt(slow).wait == pytest.approx(1.0, abs=0.01)
    clock.now += 1.01
    assert attempt(slow).wait == 0.0
    assert attempt(slow).wait > 0.0


@every_storage
def test_one_address_tries_only_so_often_whatever_accounts_it_tries(slow: Throttle, clock: Clock) -> None:
    assert [attempt(slow, f"user{n}").wait == 0.0 for n in range(25)] == [True] * 20 + [False] * 5
    clock.now += HOUR + 1 + HOUR * (3 / 4)  # in Memcached the hour before counts still, by a quarter
    assert let(slow, 1, account="one more") == 1


@every_storage
def test_asking_while_one_has_to_wait_costs_nothing(slow: Throttle, clock: Clock) -> None:
    let(slow, AT_ONE_ACCOUNT)
    left = attempt(slow).wait
    assert {attempt(slow).wait for _ in range(100)} == {left}
    assert let(slow, 10, account="bob") == 5, "the address has made 15 tries"


@every_storage
def test_many_tries_at_the_same_time_do_not_slip_through(opened: Callable[[], Throttle]) -> None:
    together, processes = threading.Barrier(40), [opened(), opened()]

    def one(n: int) -> float:
        together.wait(10)
        return attempt(processes[n % 2] if processes[0]._counters._shared else processes[0]).wait

    with ThreadPoolExecutor(40) as threads:
        answers = list(threads.map(one, range(40)))
    assert 1 <= answers.count(0.0) <= AT_ONE_ACCOUNT and all(wait >= 0.0 for wait in answers)


def test_in_the_memory_just_as_many_come_through_at_the_same_time_as_one_by_one(
    slow: Throttle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def now() -> float:
        time.sleep(0)  # in the middle of everything it is another thread's turn
        return Clock.now

    monkeypatch.setattr(time, "time", now)
    with ThreadPoolExecutor(40) as threads:
        assert list(threads.map(lambda _: attempt(slow).wait, range(200))).count(0.0) == AT_ONE_ACCOUNT


def test_whoever_comes_too_late_for_the_last_try_waits_a_second_and_has_taken_nothing(
    slow: Throttle, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(throttle, "_wait", lambda *_: 0.0)  # as it was before others took it
        assert [attempt(slow).wait for _ in range(20)] == [0.0] * AT_ONE_ACCOUNT + [1.0] * 5
    assert let(slow, 10, account="bob") == 5, "the address has made 15 tries"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8:0:1::1", "2001:db8:0:1:ffff::9", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
    ],
)
def test_an_address_is_all_of_ipv4_and_a_network_of_ipv6(slow: Throttle, one: str, other: str, same: bool) -> None:
    for n in range(20):
        assert attempt(slow, f"user{n}", one).wait == 0.0
    assert (attempt(slow, "ada", other).wait > 0.0) is same


@pytest.mark.parametrize(("step", "most"), [(1, 40), (256, 100)], ids=["a /56", "a /48"])
def test_fresh_networks_of_one_customer_are_no_fresh_tries(slow: Throttle, step: int, most: int) -> None:
    """Each guess comes from a /64 that was never seen before."""
    networks = [f"2001:db8:0:{n * step:x}::1" for n in range(150)]
    assert [attempt(slow, f"user{n}", address).wait for n, address in enumerate(networks)].count(0.0) == most


def test_whoever_has_no_address_is_limited_by_the_account_alone(slow: Throttle) -> None:
    assert [slow.attempt("password", "ada", None).wait == 0.0 for _ in range(11)] == [True] * 10 + [False]
    assert slow.attempt("password", "bob", None).wait == 0.0
    assert attempt(slow).wait == 0.0


@pytest.mark.parametrize("purpose", ["code", "reset", "sign-up"])
def test_only_for_a_password_has_each_address_tries_of_its_own(slow: Throttle, purpose: str) -> None:
    """Whoever knows the password would have as many codes as addresses, and an owner as many mails."""
    most = throttle.ACCOUNT[purpose].amount
    waits = [attempt(slow, address=one, purpose=purpose).wait for one, _ in zip(addresses(), range(20), strict=False)]
    assert waits.count(0.0) == most and waits[most:] == [pytest.approx(DAY, abs=1)] * (20 - most)


def test_each_purpose_has_counts_of_its_own(slow: Throttle) -> None:
    for purpose in throttle.ACCOUNT:
        assert let(slow, 30, purpose=purpose) in (AT_ONE_ACCOUNT, throttle.ACCOUNT[purpose].amount)


# --- right passwords --------------------------------------------------------------------------------------------------


@every_storage
def test_a_right_password_gives_the_try_back_and_forgives_this_address_at_this_account(
    slow: Throttle, clock: Clock
) -> None:
    let(slow, throttle.PAIR.amount - 1)
    attempt(slow).succeeded()
    assert let(slow, 30) == AT_ONE_ACCOUNT


@every_storage
def test_whoever_signs_in_often_never_waits(slow: Throttle, clock: Clock) -> None:
    for address in itertools.islice(itertools.cycle((HERE, "2001:db8::1")), 200):
        right = attempt(slow, address=address)
        assert right.wait == 0.0
        right.succeeded()
    assert not windows(slow), "and nothing is kept"


@every_storage
def test_a_try_that_was_not_checked_does_not_count(slow: Throttle, clock: Clock) -> None:
    let(slow, AT_ONE_ACCOUNT - 1)
    for _ in range(50):
        unchecked = attempt(slow)
        assert unchecked.wait == 0.0
        unchecked.withdrawn()
    assert let(slow, 2) == 1


def test_a_try_that_is_refused_gives_nothing_back(slow: Throttle) -> None:
    let(slow, AT_ONE_ACCOUNT)
    refused = attempt(slow)
    refused.withdrawn()
    assert attempt(slow).wait > 0.0


def test_signing_in_to_an_own_account_does_not_let_off_an_attacker(slow: Throttle) -> None:
    guesses = 0
    for n in range(100):
        own = attempt(slow, "mallory")
        if own.wait == 0.0:
            own.succeeded()
        guesses += attempt(slow, f"user{n}").wait == 0.0
    assert guesses == 20


def test_an_owner_signing_in_does_not_let_off_the_attackers(slow: Throttle, clock: Clock) -> None:
    assert let(slow, 20, address="10.0.0.0") == AT_ONE_ACCOUNT
    for _ in range(20):
        attempt(slow).succeeded()
    assert let(slow, 20, address="10.0.0.0") == 0


# --- one account, guessed at from everywhere --------------------------------------------------------------------------


@every_storage
def test_an_owner_gets_in_while_others_guess_also_after_slips(slow: Throttle, clock: Clock) -> None:
    """The attackers take whatever comes free, on a whole day."""
    crowd = addresses()
    for hour in range(24):
        clock.now += HOUR
        attackers = [next(crowd) for _ in range(4)]
        assert sum(let(slow, 20, address=one) for one in attackers) <= 4 * 5 + 10 * 2
        assert attempt(slow, address=attackers[0]).wait > 0.0, "the account is full"
        own = HERE if hour % 2 else "2001:db8:1:2::3"
        assert let(slow, throttle.PAIR.amount - 1, address=own) == throttle.PAIR.amount - 1, "slips"
        right = attempt(slow, address=own)
        assert right.wait == 0.0
        right.succeeded()


def test_an_owner_who_has_used_up_her_own_tries_waits_no_longer_than_an_hour(slow: Throttle) -> None:
    for address in itertools.islice(addresses(), 3):
        let(slow, 20, address=address)
    assert let(slow, 10) == throttle.PAIR.amount
    assert 0.0 < attempt(slow).wait <= HOUR
    assert attempt(slow, "bob").wait == 0.0, "other accounts are not concerned"


def test_a_new_network_of_a_48_from_which_somebody_guessed_has_no_tries_of_its_own(slow: Throttle) -> None:
    assert let(slow, 20, address="10.0.0.0") == AT_ONE_ACCOUNT
    assert [attempt(slow, address=f"2001:db8:1:{n}::1").wait == 0.0 for n in range(6)] == [True] * 5 + [False]
    assert attempt(slow, address="2001:db8:2::1").wait == 0.0


# --- what that leaves an attacker -------------------------------------------------------------------------------------


def tried(
    slow: Throttle, clock: Clock, crowd: list[str], purpose: str = "password", names: Iterator[str] | None = None
) -> int:
    """Return how often a crowd tries in a day, at ada or at these names, when each tries whenever it may."""
    found, end = 0, clock.now + DAY
    while clock.now < end:
        waits = []
        for address in crowd:
            while not (wait := attempt(slow, next(names) if names else "ada", address, purpose).wait):
                found += 1
            waits.append(wait)
        clock.now += min(waits) + 0.001
    return found


def of_ipv4(number: int) -> list[str]:
    return list(itertools.islice(addresses(), number))


def of_ipv6(step: int) -> list[str]:
    """Return networks of one customer."""
    return [f"2001:db8:0:{n * step:x}::1" for n in range(16)]


@pytest.mark.parametrize(
    ("crowd", "who"),
    [
        (of_ipv4(1), "passwords from one address,"),
        (of_ipv6(1), "from a /56 of IPv6,"),
        (of_ipv6(256), "from a /48;"),
    ],
    ids=["address", "56", "48"],
)
def test_the_documented_number_of_passwords_in_a_day_is_that_of_the_rules(
    slow: Throttle, clock: Clock, crowd: list[str], who: str
) -> None:
    found = tried(slow, clock, crowd, names=map(str, itertools.count()))
    assert f"{found:,} {who}" in str(throttle.__doc__)


def test_the_documented_number_of_passwords_for_one_account_in_a_day_is_that_of_the_rules(
    opened: Callable[[], Throttle], clock: Clock
) -> None:
    one, ten, twenty = (tried(opened(), clock, of_ipv4(number)) for number in (1, 10, 20))
    assert tried(opened(), clock, of_ipv6(256)) == one, "a /48 has no more"
    each = (twenty - ten) // 10
    assert one + 9 * each == ten and twenty == ten + 10 * each
    text = f"{one} passwords for one account from one address; {one - each} from everywhere, and {each} more from each"
    assert text in str(throttle.__doc__)


@pytest.mark.parametrize(("purpose", "what"), [("code", "codes for one account"), ("reset", "mails to one account")])
def test_the_documented_number_of_codes_and_mails_in_a_day_is_that_of_the_rules(
    slow: Throttle, clock: Clock, purpose: str, what: str
) -> None:
    assert f"{tried(slow, clock, of_ipv4(20), purpose)} {what}" in str(throttle.__doc__)


@pytest.mark.parametrize("profile", ["memcached"])
def test_memcached_lets_through_an_hours_more_in_a_day_and_twice_as_many_in_an_hour(
    slow: Throttle, clock: Clock
) -> None:
    clock.now += HOUR - 1
    assert let(slow, 10, account="bob") + let(slow, 20, account="eve") == 20
    clock.now += HOUR - 1
    assert let(slow, 10, account="bob") + let(slow, 20, account="eve") <= 20
    clock.now += DAY - 2 * HOUR + 2
    assert 240 <= tried(slow, clock, [HERE]) <= 5 * 2 + 10 * 25


def test_the_order_of_tries_never_lets_more_through_than_the_rules(slow: Throttle, clock: Clock) -> None:
    """Six hours of tries at random, from three addresses at two accounts."""
    chance = random.Random(4)  # noqa: S311 - no secret
    passed: dict[tuple[str, str], list[float]] = {}
    for _ in range(20_000):
        clock.now += chance.random() * 2
        account, address = chance.choice(["ada", "bob"]), chance.choice(of_ipv4(3))
        if attempt(slow, account, address).wait == 0.0:
            passed.setdefault(("address", address), []).append(clock.now)
            passed.setdefault(("account", account), []).append(clock.now)
    assert clock.now > Clock.now + 5 * HOUR
    for (kind, _), times in passed.items():
        most = max(bisect.bisect(times, moment + HOUR) - n for n, moment in enumerate(times))
        assert most <= (20 if kind == "address" else 3 * 5 + 10)


# --- memory -----------------------------------------------------------------------------------------------------------


def test_however_many_names_are_tried_memory_is_bounded(slow: Throttle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counters, "ENTRIES", 1000)
    for n, address in zip(range(3000), addresses(), strict=False):
        assert attempt(slow, f"user{n}", address).wait == attempt(slow, f"user{n}", f"2001:{n:x}::1").wait == 0.0
    assert len(windows(slow)) == 1000


def test_what_is_over_goes(slow: Throttle, clock: Clock) -> None:
    let(slow, 30)
    clock.now += DAY + 1
    assert let(slow, 1) == 1
    assert sum(map(len, windows(slow).values())) == 2, "of the address, and of the pair"


def test_nothing_runs_beside_it_in_a_server_that_forks_or_ends(slow: Throttle) -> None:
    """The library's own memory starts a thread after each try."""
    before = threading.active_count()
    for n in range(100):
        attempt(slow, f"user{n}")
        assert threading.active_count() == before


@every_storage
def test_names_are_not_kept(slow: Throttle, profile: str) -> None:
    for name in ("hunter2", "x" * 1_000_000, "\ud800", "a b\r\nc"):
        assert attempt(slow, name).wait == 0.0
    keys: list[Any] = list(windows(slow))
    if profile == "redis":
        with redis.Redis.from_url(redis_server().url) as client:
            keys = client.keys("sessions:throttle:*")
    assert keys or profile == "memcached"
    assert all(
        re.fullmatch(
            r"(sessions:throttle:)?LIMITER/[0-9a-f]{64}/\d+/1/\w+", str(key, "ascii") if isinstance(key, bytes) else key
        )
        for key in keys
    )


def test_an_attacker_cannot_push_out_what_makes_him_wait(slow: Throttle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names from one address are refused without an entry; helpers elsewhere push out only each other."""
    monkeypatch.setattr(counters, "ENTRIES", 100)
    assert let(slow, 20, address="10.0.0.0") == AT_ONE_ACCOUNT
    assert let(slow, 10, account="bob") == 5 + 5
    for n, address in zip(range(1000), of_ipv4(1001)[1:], strict=False):
        attempt(slow, f"user{n}", address)
        attempt(slow, f"user{n}")
    assert let(slow, 10, address="10.0.0.0") == 0, "the account is full, and so is the pair"


def test_asking_on_and_on_keeps_the_window_that_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counters, "ENTRIES", 10)
    memory = counters.Memory()
    for n in range(50):
        memory.acquire_entry(f"{n}", 1, HOUR)
        memory.get_moving_window("0", 1, HOUR)
    assert not memory.acquire_entry("0", 1, HOUR) and memory.acquire_entry("1", 1, HOUR)


# --- several processes ------------------------------------------------------------------------------------------------


@every_shared_storage
def test_processes_count_together(opened: Callable[[], Throttle]) -> None:
    first, second = opened(), opened()
    assert let(first, 10) + let(second, 10) == AT_ONE_ACCOUNT
    assert not windows(first) and not windows(second)


@every_shared_storage
def test_sites_that_share_a_server_do_not_count_together(profile: str) -> None:
    """Whoever has an account ada here would else have fresh tries at the ada of the other site."""
    one, other = Throttle(options(profile, next(NUMBERS))), Throttle(options(profile, next(NUMBERS)))
    assert let(one, 20) == let(other, 20) == AT_ONE_ACCOUNT


def test_processes_that_share_no_server_count_apart(opened: Callable[[], Throttle]) -> None:
    assert let(opened(), 20) == let(opened(), 20) == AT_ONE_ACCOUNT


@pytest.fixture
def server(profile: str) -> Iterator[Memcached | Redis]:
    """A server of this test alone."""
    place = Path(tempfile.mkdtemp(prefix="throttle-"))
    place.chmod(0o777)  # noqa: S103 -- of the test alone, and the server has an account of its own
    server = Redis(place) if profile == "redis" else Memcached(place)
    server.start()
    yield server
    server.kill()
    shutil.rmtree(place)


@pytest.fixture
def dependent(profile: str, server: Memcached | Redis) -> Throttle:
    """Counts in that server."""
    where = {"url": server.url} if isinstance(server, Redis) else {"servers": ["zzz.invalid:1", server.address]}
    return Throttle({"tools.sessions.storage_type": profile, **{f"tools.sessions.{k}": v for k, v in where.items()}})


@every_shared_storage
@pytest.mark.parametrize("fault", ["pause", "kill"])
def test_while_the_server_does_not_answer_the_memory_of_the_process_counts(
    dependent: Throttle, server: Memcached | Redis, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert let(dependent, 20) == AT_ONE_ACCOUNT
    with logged() as lines:
        getattr(server, fault)()
        assert let(dependent, 20) == AT_ONE_ACCOUNT, "neither nothing nor everything"
        server.resume() if fault == "pause" else server.start()
        assert let(dependent, 20) == 0, "it is not asked again at once: each try would wait for one that hangs"
    [line] = lines
    assert line.startswith("tries are counted in this process alone")
    monkeypatch.setattr(dependent._counters, "_down_until", 0.001)
    assert let(dependent, 20) == (0 if fault == "pause" else AT_ONE_ACCOUNT), "it has forgotten, if it was restarted"
    assert dependent._counters._down_until == 0.0


@every_shared_storage
def test_one_try_at_a_time_finds_out_whether_the_server_is_back(
    dependent: Throttle, server: Memcached | Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.kill()
    asked: list[bool] = []

    def question(limiter: Any) -> int:
        asked.append(limiter is not dependent._counters._memory)
        return dependent._counters.ask(question) if len(asked) == 1 else len(asked)

    with logged() as lines:
        attempt(dependent)
        monkeypatch.setattr(dependent._counters, "_down_until", 0.001)
        assert dependent._counters.ask(question) == 2
        assert asked == [True, False], "whoever comes meanwhile does not wait for it"
        monkeypatch.setattr(dependent._counters, "_down_until", 0.001)
        attempt(dependent)
    assert len(lines) == 1, "an outage is one line"


@pytest.mark.parametrize("more", [{"url": "redis://one:6379,two:6379"}, {"url": "redis://one", "cluster": True}])
def test_of_a_site_with_a_cluster_of_redis_each_process_counts(more: dict[str, Any]) -> None:
    named = {f"tools.sessions.{option}": value for option, value in more.items()}
    with logged() as lines:
        assert let(Throttle({"tools.sessions.storage_type": "redis", **named}), 20) == AT_ONE_ACCOUNT
    assert lines == []


@every_shared_storage
def test_a_try_that_cannot_be_given_back_fails_nobodys_sign_in(dependent: Throttle, server: Memcached | Redis) -> None:
    right = attempt(dependent)
    assert right.wait == 0.0
    server.kill()
    right.succeeded()  # raises nothing
    right.withdrawn()
    assert attempt(dependent).wait == 0.0, "and the memory of the process goes on"


@pytest.mark.skipif(not BACKENDS_PAGE.is_file(), reason="it was deleted")
@pytest.mark.parametrize("profile", ["redis"])
def test_the_user_of_redis_in_the_documents_may_count(server: Redis) -> None:
    rule = re.search(r"^(ACL SETUSER .*)$", BACKENDS_PAGE.read_text(), re.M)
    assert rule
    with redis.Redis.from_url(server.url) as client:
        client.execute_command(*rule[1].split())
    url = server.url.replace("//", "//sessions:PASSWORD@")
    slow = Throttle({"tools.sessions.storage_type": "redis", "tools.sessions.url": url})
    with logged() as lines:
        assert let(slow, 20) == AT_ONE_ACCOUNT
        right = attempt(slow, address="198.51.100.1")
        right.succeeded()
    assert lines == [] and not windows(slow)


@pytest.mark.parametrize("profile", ["redis"])
def test_the_url_of_redis_cannot_lengthen_the_waits(server: Redis) -> None:
    url = f"{server.url}?socket_timeout=99&socket_connect_timeout=99&retry_on_timeout=yes"
    slow = Throttle({"tools.sessions.storage_type": "redis", "tools.sessions.url": url})
    bounds = slow._counters._shared.storage.storage.connection_pool.connection_kwargs
    assert bounds["socket_timeout"] + bounds["socket_connect_timeout"] < 2 and bounds["retry"].get_retries() == 0


# --- the authenticator ------------------------------------------------------------------------------------------------


class Door:
    """Pages that ask the authenticator: /NAME/right or /NAME/wrong, and /code?name=NAME for another purpose."""

    def __init__(self, gate: Authenticator) -> None:
        self.gate = gate

    @cherrypy.expose
    def default(self, name: str, password: str) -> str:
        proof = self.gate.check(name, PASSWORD if password == "right" else "x")  # noqa: S105 - that it is not
        assert proof is None or proof.user == name
        return "welcome" if proof else "no"

    @cherrypy.expose
    def code(self, name: str) -> str:
        self.gate.attempt("code", name)
        raise cherrypy.HTTPError(403, "a wrong code")


@pytest.fixture
def client(tmp_path: Path, slow: Throttle, monkeypatch: pytest.MonkeyPatch) -> WsgiClient:
    monkeypatch.setattr(hashes, "CURRENT_PARAMETERS", CHEAP)
    accounts = Accounts(Database(f"sqlite:///{tmp_path}/users.sqlite"))
    accounts.insert("ada", line(PASSWORD))
    return WsgiClient(application(Door(Authenticator(accounts, slow)), storage_type="ram"))


@pytest.fixture
def ask(client: WsgiClient) -> Callable[..., Response]:
    """Return a function that tries a password over WSGI."""
    return lambda name, password: client.get(f"/{name}/{'right' if password == PASSWORD else 'wrong'}")


def test_too_many_tries_are_429_with_a_time_to_come_back(ask: Callable[..., Response], clock: Clock) -> None:
    assert [ask("ada", "x").text for _ in range(AT_ONE_ACCOUNT)] == ["no"] * AT_ONE_ACCOUNT
    refused = ask("ada", "x")
    assert (refused.status, refused.headers["retry-after"]) == (429, "3600")
    assert "There were too many tries. Please wait 60 minutes, then try again." in refused.text
    clock.now += HOUR - 80.5
    assert ask("ada", "x").headers["retry-after"] == "81", "rounded up"
    assert "wait 81 seconds" in ask("ada", "x").text
    clock.now += 80
    assert "wait a second" in ask("ada", "x").text
    clock.now += 1
    assert ask("ada", PASSWORD).text == "welcome"


def test_a_code_is_counted_before_it_is_looked_at_and_stays_counted_whatever_the_page_raises(
    client: WsgiClient, clock: Clock
) -> None:
    answers = [client.get("/code?name=ada") for _ in range(12)]
    assert [answer.status for answer in answers] == [403] * 10 + [429] * 2
    assert answers[-1].headers["retry-after"] == str(DAY) and "wait 24 hours" in answers[-1].text
    with logged() as lines:
        client.get("/code?name=ada")
    assert lines == ["too many tries account=ada address=127.0.0.1 purpose=code"]


def test_while_one_has_to_wait_no_hash_is_computed_and_a_right_password_waits_too(
    ask: Callable[..., Response],
) -> None:
    for _ in range(AT_ONE_ACCOUNT):
        ask("ada", "x")
    with computed() as costs:
        assert ask("ada", PASSWORD).status == ask("ada", "x").status == 429
    assert costs == []


@pytest.mark.parametrize("name", ["ada", "eve"])
def test_unknown_and_known_names_are_limited_alike(ask: Callable[..., Response], name: str) -> None:
    assert [ask(name, "x").status for _ in range(17)] == [200] * AT_ONE_ACCOUNT + [429] * 2


def test_each_refusal_is_noted_without_what_was_typed(ask: Callable[..., Response]) -> None:
    with logged() as lines:
        for name, password in [("ada", "hunter2"), ("hunter2", "x"), ("ada", PASSWORD)]:
            ask(name, password)
        for _ in range(AT_ONE_ACCOUNT):
            ask("hunter2", "x")
    wrong = "sign-in refused: wrong name or password"
    assert lines == [
        f"{wrong} account=ada address=127.0.0.1",
        *[f'{wrong} account="(unknown)" address=127.0.0.1'] * AT_ONE_ACCOUNT,
        'too many tries account="(unknown)" address=127.0.0.1 purpose=password',
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
