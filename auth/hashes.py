"""The hashes of passwords."""

from __future__ import annotations

import contextlib
import threading
import unicodedata
from collections.abc import Iterator

import argon2

import sessions

MAX_LENGTH = 1024  # characters of a password; OWASP ASVS 5.0, 6.2.9 asks for 64 at least

# The second choice of RFC 9106 section 4: 64 MiB, three passes. The first needs 2 GiB for each sign-in. Named here, and
# not left to the library's default, so that a new version of it changes no hash unnoticed.
CURRENT_PARAMETERS = argon2.profiles.RFC_9106_LOW_MEMORY

# KiB and passes: OWASP's Password Storage Cheat Sheet takes any of these, with one lane or more.
_LEAST = ((47104, 1), (19456, 2), (12288, 3), (9216, 4), (7168, 5))

_AT_ONCE = 2
_TURN_SECONDS = 5.0


class Busy(sessions.Unavailable):
    """Too many passwords are being hashed just now."""

    public = "Many people are signing in just now. Please try again in a moment."


class Hasher:
    """Makes and checks argon2id hashes, two at a time: each takes 64 MiB and a core for a while, by design.

    Its methods raise Busy if it was not their turn for five seconds, and sessions.Unavailable if there is no memory.
    """

    def __init__(self) -> None:
        self._argon2 = argon2.PasswordHasher.from_parameters(CURRENT_PARAMETERS)
        self._turn = threading.BoundedSemaphore(_AT_ONCE)
        # Nobody's hash costs what one of today costs. It is written, not computed: a start does not wait for it.
        self.dummy_hash = f"{current()}{'A' * 22}${'A' * 43}"

    def hash(self, password: str, salt: bytes | None = None) -> str:
        """Return the hash of a password, with 16 bytes of salt, which are random unless given.

        Raises:
            ValueError: it is longer than MAX_LENGTH, or no Unicode text.
        """
        data = prepared(password)
        if data is None:
            raise ValueError(f"a password is text of at most {MAX_LENGTH} characters")
        with turn(self._turn):
            try:
                return self._argon2.hash(data, salt=salt)
            except argon2.exceptions.HashingError as error:
                raise sessions.Unavailable(f"a password cannot be hashed: {error}") from error

    def verify(self, hash: str, password: str) -> bool:
        """Tell whether a hash is that of a password. One computation, also for what cannot be a password.

        A wrong password for a hash that is cheaper than those of today costs one of today besides: else the time of
        the answer would tell that there is such an account. It still takes longer than an unknown name, by the cheap
        hash, until its owner signs in and the hash is renewed.
        """
        data = prepared(password)
        with turn(self._turn):
            if data is None:
                return self._fits(self.dummy_hash, b"")
            right = self._fits(hash, data)
            if not right and is_outdated(hash):
                self._fits(self.dummy_hash, data)
            return right

    def _fits(self, hash: str, data: bytes) -> bool:
        try:
            return self._argon2.verify(hash, data)
        except argon2.exceptions.VerifyMismatchError:
            return False
        except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError) as error:
            raise sessions.Unavailable(f"a password hash cannot be checked: {error}") from error


@contextlib.contextmanager
def turn(lock: threading.Lock | threading.Semaphore) -> Iterator[None]:
    """Hold a lock around the hashing of a password. Raises Busy if it is not free in five seconds."""
    if not lock.acquire(timeout=_TURN_SECONDS):
        raise Busy(f"no turn to hash a password in {_TURN_SECONDS:g} seconds")
    try:
        yield
    finally:
        lock.release()


def current() -> str:
    """Return what a hash of today begins with."""
    now = CURRENT_PARAMETERS
    return f"$argon2id$v={now.version}$m={now.memory_cost},t={now.time_cost},p={now.parallelism}$"


def is_outdated(hash: str) -> bool:
    """Tell whether a hash is cheaper to guess at than one of today (OWASP ASVS 5.0, 11.4.2).

    check_needs_rehash() says so of a dearer hash as well, which would then be replaced by a weaker one.
    """
    found, today = argon2.extract_parameters(hash), CURRENT_PARAMETERS
    return found.memory_cost * found.time_cost < today.memory_cost * today.time_cost


def is_weak(hash: str) -> bool:
    """Tell whether a whole argon2id hash is too cheap to guess at for any site: below the least that OWASP asks for,
    which is 19 MiB and two passes, or more of one and less of the other (OWASP ASVS 5.0, 11.4.2)."""
    found = argon2.extract_parameters(hash)
    return not any(found.memory_cost >= memory and found.time_cost >= passes for memory, passes in _LEAST)


def prepared(password: str) -> bytes | None:
    """The bytes that are hashed, or None for what is no password.

    The same letter may come from another keyboard as another sequence of characters, so the text is brought to one form
    (NFKC, NIST SP 800-63B). Nothing else is changed or cut off (OWASP ASVS 5.0, 6.2.8).
    """
    if len(password) > MAX_LENGTH:
        return None
    try:
        return unicodedata.normalize("NFKC", password).encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return None
