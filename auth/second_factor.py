"""The second factor: a code from an app that shares a secret with the site (TOTP, RFC 6238), or a recovery code."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable

import pyotp
from sqlalchemy import Connection, delete, func, insert, select, update

from auth.database import Database, recovery_codes, users

RECOVERY_CODES = 10

_INTERVAL = 30  # seconds of a step; with SHA-1 and six digits it is what every app knows (RFC 6238 section 4)
_RECOVERY_BYTES = 15  # 120 random bits


class SecondFactor:
    """Turns the second factor of an account on and off, and checks its codes; no code is right twice.

    The secret is stored as it is, for the server computes the codes from it. Of recovery codes there is the SHA-256
    only. A fast hash is right for them: a slow one makes it dear to guess what people have chosen, and nobody guesses
    120 random bits (OWASP ASVS 5.0, 6.5.2, wants a slow one below 112).

    Each method raises sessions.Unavailable if the database does not answer.
    """

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        """Take the database, and the clock, in epoch seconds: it may differ by half a minute from the telephone's."""
        self._database, self._clock = database, clock

    def codes_left(self, user: str) -> int | None:
        """Return how many recovery codes an account has; None if its second factor is off."""
        codes = select(func.count(recovery_codes.c.hash)).select_from(users.outerjoin(recovery_codes))
        mine = codes.where(users.c.name == user, users.c.totp_secret.is_not(None)).group_by(users.c.name)
        found = self._database.rows(mine)
        return int(found[0][0]) if found else None

    def turn_on(self, user: str, secret: str, typed: str) -> list[str] | None:
        """Turn it on, if the code shows that the app has the secret, and return the recovery codes. None: the code is
        wrong, or the second factor is on already."""
        step = self._step(secret, _plain(typed))
        if step is None:
            return None
        off = users.c.name == user, users.c.totp_secret.is_(None)
        with self._database.begin() as connection:
            turned = connection.execute(update(users).where(*off).values(totp_secret=secret, totp_step=step)).rowcount
            return _new_codes(connection, user) if turned else None

    def renew_codes(self, user: str) -> list[str]:
        """Replace all recovery codes, and return the new ones."""
        with self._database.begin() as connection:
            return _new_codes(connection, user)

    def turn_off(self, user: str) -> None:
        """Turn it off, if it is on."""
        with self._database.begin() as connection:
            connection.execute(update(users).where(users.c.name == user).values(totp_secret=None, totp_step=None))
            connection.execute(delete(recovery_codes).where(recovery_codes.c.user == user))

    def check(self, user: str, typed: str) -> bool:
        """Tell whether this is the code of now, or of the step before or after. Of two requests with one code only one
        is told so, and no older code is right after it (RFC 6238 section 5.2; OWASP ASVS 5.0, 6.5.1)."""
        found = self._database.rows(select(users.c.totp_secret).where(users.c.name == user))
        secret = found[0].totp_secret if found else None
        step = self._step(secret, _plain(typed)) if secret else None
        if step is None:
            return False
        fresh = users.c.name == user, users.c.totp_secret == secret, users.c.totp_step < step
        with self._database.begin() as connection:
            return connection.execute(update(users).where(*fresh).values(totp_step=step)).rowcount > 0

    def recover(self, user: str, typed: str) -> bool:
        """Tell whether this is one of the recovery codes, and take it away: each is right once."""
        mine = recovery_codes.c.user == user, recovery_codes.c.hash == _hashed(_plain(typed))
        with self._database.begin() as connection:
            return connection.execute(delete(recovery_codes).where(*mine)).rowcount > 0

    def _step(self, secret: str, code: str) -> int | None:
        """The step whose code this is; a step lasts 30 seconds, and they count from 1970."""
        now, totp = int(self._clock() // _INTERVAL), pyotp.TOTP(secret)
        steps = [step for step in (now - 1, now, now + 1) if hmac.compare_digest(totp.generate_otp(step), code)]
        return max(steps, default=None)


def _new_codes(connection: Connection, user: str) -> list[str]:
    connection.execute(delete(recovery_codes).where(recovery_codes.c.user == user))
    plain = [base64.b32encode(secrets.token_bytes(_RECOVERY_BYTES)).decode().lower() for _ in range(RECOVERY_CODES)]
    connection.execute(insert(recovery_codes), [{"user": user, "hash": _hashed(code)} for code in plain])
    return [grouped(code, "-") for code in plain]


def grouped(text: str, between: str = " ") -> str:
    """Return a code or a secret as people can read and type it."""
    return between.join(re.findall(".{1,4}", text))


def _plain(typed: str) -> str:
    """What was typed, without the spaces and hyphens that make it readable, and in small letters."""
    return "".join(re.findall("[a-z0-9]", typed.lower()))


def _hashed(code: str) -> str:
    return hashlib.sha256(code.encode()).hexdigest()
