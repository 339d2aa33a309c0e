"""The second factor: which codes are right, and how often; each rule in SQLite and in PostgreSQL."""

from __future__ import annotations

import base64
import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyotp
import pytest
import sqlalchemy as sa

from auth.accounts import Accounts, Proof
from auth.database import Database, recovery_codes, users
from auth.demo import DemoAccounts
from auth.second_factor import RECOVERY_CODES, SecondFactor
from tests.support.hashing import line
from tests.support.users import DATABASES, url_of

PASSWORD = "three blind mice run"  # noqa: S105 - made up here
SECRET = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"  # noqa: S105 - that of RFC 6238, appendix B
INTERVAL = 30
REQUESTS = 8


class Clock:
    """Stands still until it is told otherwise, at a moment of RFC 6238, appendix B."""

    now = 1_111_111_109.0

    def __call__(self) -> float:
        return self.now

    def code(self, later: int = 0) -> str:
        """Return the code of now, or of so many steps later."""
        return pyotp.TOTP(SECRET).at(int(self.now) + later * INTERVAL)


@pytest.fixture(params=DATABASES)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return url_of(request.param, tmp_path)


@pytest.fixture
def accounts(url: str) -> Accounts:
    """The accounts of a site with two, ada's and eve's."""
    accounts = Accounts(Database(url))
    for name in ("ada", "eve"):
        accounts.insert(name, line(PASSWORD))
    return accounts


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def factor(accounts: Accounts, clock: Clock) -> SecondFactor:
    """The second factors of that site, all off."""
    return SecondFactor(accounts.database, clock)


@pytest.fixture
def codes(factor: SecondFactor, clock: Clock) -> list[str]:
    """The recovery codes of ada, whose second factor was turned on a while ago."""
    clock.now -= 10 * INTERVAL
    codes = factor.turn_on("ada", SECRET, clock.code())
    clock.now += 10 * INTERVAL
    assert codes
    return codes


# --- codes of the app -------------------------------------------------------------------------------------------------


def test_a_code_is_that_of_rfc_6238(factor: SecondFactor, codes: list[str]) -> None:
    assert factor.check("ada", "081804"), "the last six digits of the row of 2005-03-18 01:58:29"


@pytest.mark.parametrize(("later", "right"), [(-2, False), (-1, True), (0, True), (1, True), (2, False)])
def test_a_code_is_right_one_step_before_and_after_its_own(
    factor: SecondFactor, codes: list[str], clock: Clock, later: int, right: bool
) -> None:
    assert factor.check("ada", clock.code(later)) is right


def test_no_code_is_right_twice_nor_after_a_later_one(factor: SecondFactor, codes: list[str], clock: Clock) -> None:
    """RFC 6238 section 5.2; ASVS 6.5.1."""
    before = clock.code(-1)
    assert [factor.check("ada", code) for code in (clock.code(), clock.code(), before)] == [True, False, False]
    clock.now += INTERVAL
    assert factor.check("ada", clock.code()), "the next one is right again"


def test_a_code_is_right_however_it_is_spaced(factor: SecondFactor, codes: list[str]) -> None:
    assert factor.check("ada", " 081 804\n")


@pytest.mark.parametrize(
    "typed", ["", "081805", "81804", "0081804", "\u0660\u0668\u0661\u0668\u0660\u0664", "x" * 10_000]
)
def test_what_is_not_the_code_is_wrong(factor: SecondFactor, codes: list[str], typed: str) -> None:
    assert not factor.check("ada", typed)


def test_a_code_is_right_for_its_own_account_alone(factor: SecondFactor, codes: list[str], clock: Clock) -> None:
    assert not factor.check("eve", clock.code()) and not factor.check("nobody", clock.code())
    assert not factor.recover("eve", codes[0]) and factor.recover("ada", codes[0])


def test_of_two_requests_at_once_with_one_code_one_gets_in(
    url: str, codes: list[str], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All have found the code right before the first of them takes it."""
    barrier, step = threading.Barrier(REQUESTS), SecondFactor._step

    def together(*args: str) -> int | None:
        barrier.wait(30)
        return step(*args)

    monkeypatch.setattr(SecondFactor, "_step", together)
    processes = [SecondFactor(Database(url), clock) for _ in range(2)]
    with ThreadPoolExecutor(REQUESTS) as pool:
        asked = [pool.submit(processes[n % 2].check, "ada", clock.code()) for n in range(REQUESTS)]
        assert sorted(one.result(30) for one in asked) == [False] * (REQUESTS - 1) + [True]


# --- recovery codes ---------------------------------------------------------------------------------------------------


def test_each_recovery_code_is_right_once(factor: SecondFactor, codes: list[str]) -> None:
    assert len(codes) == RECOVERY_CODES == factor.codes_left("ada")
    for left, code in enumerate(reversed(codes)):
        assert factor.recover("ada", code) and not factor.recover("ada", code)
        assert factor.codes_left("ada") == RECOVERY_CODES - left - 1


def test_of_two_requests_at_once_with_one_recovery_code_one_gets_in(url: str, codes: list[str]) -> None:
    processes, barrier = [SecondFactor(Database(url)) for _ in range(2)], threading.Barrier(REQUESTS)

    def use(process: SecondFactor) -> bool:
        barrier.wait(30)
        return process.recover("ada", codes[0])

    with ThreadPoolExecutor(REQUESTS) as pool:
        asked = [pool.submit(use, processes[n % 2]) for n in range(REQUESTS)]
        assert sorted(one.result(30) for one in asked) == [False] * (REQUESTS - 1) + [True]


def test_a_recovery_code_is_right_however_it_is_typed(factor: SecondFactor, codes: list[str]) -> None:
    assert factor.recover("ada", codes[0].upper()) and factor.recover("ada", codes[1].replace("-", ""))
    assert factor.recover("ada", f" {codes[2].replace('-', ' ')}\n") and not factor.recover("ada", codes[3][:-1])


def test_recovery_codes_have_120_random_bits_and_only_their_hashes_are_stored(
    factor: SecondFactor, accounts: Accounts, codes: list[str]
) -> None:
    """ASVS 6.5.2 and 6.5.3: with less than 112 bits a fast hash would be too little."""
    plain = [code.replace("-", "") for code in codes]
    assert {len(base64.b32decode(code.upper())) * 8 for code in plain} == {120} and len(set(plain)) == RECOVERY_CODES
    stored = {row.hash for row in accounts.database.rows(sa.select(recovery_codes))}
    assert stored == {hashlib.sha256(code.encode()).hexdigest() for code in plain}


def test_new_recovery_codes_end_the_old_ones(factor: SecondFactor, codes: list[str]) -> None:
    new = factor.renew_codes("ada")
    assert not factor.recover("ada", codes[0]) and factor.recover("ada", new[0])


# --- on and off -------------------------------------------------------------------------------------------------------


def test_it_is_on_after_a_right_code_and_not_before(factor: SecondFactor, accounts: Accounts, clock: Clock) -> None:
    assert factor.codes_left("ada") is None
    assert factor.turn_on("ada", SECRET, "000000") is None and factor.codes_left("ada") is None
    assert not proof_of(accounts).second_factor
    assert factor.turn_on("ada", SECRET, clock.code()) and factor.codes_left("ada") == RECOVERY_CODES
    assert proof_of(accounts).second_factor and factor.codes_left("eve") is None


def test_the_code_that_turned_it_on_signs_nobody_in(factor: SecondFactor, clock: Clock) -> None:
    factor.turn_on("ada", SECRET, clock.code())
    assert not factor.check("ada", clock.code()) and factor.check("ada", clock.code(1))


def test_another_secret_does_not_replace_the_one_that_is_on(factor: SecondFactor, codes: list[str]) -> None:
    other = pyotp.random_base32()
    assert factor.turn_on("ada", other, pyotp.TOTP(other).at(Clock.now)) is None
    assert factor.check("ada", "081804") and factor.recover("ada", codes[0])


def test_nothing_is_left_of_it_when_it_is_off(factor: SecondFactor, accounts: Accounts, codes: list[str]) -> None:
    factor.turn_off("ada")
    assert (
        factor.codes_left("ada") is None and not factor.check("ada", "081804") and not factor.recover("ada", codes[0])
    )
    assert [tuple(row) for row in accounts.database.rows(sa.select(users.c.totp_secret, users.c.totp_step))] == [
        (None, None)
    ] * 2
    assert accounts.database.rows(sa.select(recovery_codes)) == []


def test_the_demo_account_with_a_new_password_has_no_second_factor(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A start without DEMO_PASSWORD makes one, and nobody could take the second factor of another start off."""
    monkeypatch.setattr("web.csrf.from_this_machine", lambda: True)
    secret = pyotp.random_base32()
    assert DemoAccounts(Database(url), PASSWORD).verify("ada", PASSWORD)
    assert SecondFactor(Database(url)).turn_on("ada", secret, pyotp.TOTP(secret).now())
    again, new = DemoAccounts(Database(url), PASSWORD), DemoAccounts(Database(url), PASSWORD * 2)
    before, after = again.verify("ada", PASSWORD), new.verify("ada", PASSWORD * 2)
    assert before and before.second_factor and after and not after.second_factor


# --- the password that was right a while ago --------------------------------------------------------------------------


def proof_of(accounts: Accounts) -> Proof:
    proof = accounts.verify("ada", PASSWORD)
    assert proof
    return proof


def test_a_proof_is_recalled_as_it_was(accounts: Accounts) -> None:
    proof = proof_of(accounts)
    assert accounts.recall("ada", proof.moment, proof.mark) == proof


def test_a_proof_is_void_after_a_new_password_a_revocation_or_the_end_of_the_account(accounts: Accounts) -> None:
    ends = [accounts.revoke, accounts.disable, accounts.remove, lambda user: accounts.set_password(user, "another one")]
    for end in [lambda user: accounts.change_password(proof_of(accounts), "another one"), *ends]:
        accounts.remove("ada")
        accounts.insert("ada", line(PASSWORD))
        proof = proof_of(accounts)
        assert accounts.recall("ada", proof.moment, proof.mark)
        end("ada")
        assert accounts.recall("ada", proof.moment, proof.mark) is None


def test_the_mark_of_a_proof_is_neither_the_hash_nor_a_part_of_it(accounts: Accounts) -> None:
    proof = proof_of(accounts)
    assert proof.mark and proof.mark not in proof.hash
