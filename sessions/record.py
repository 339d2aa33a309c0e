"""A session as it is stored: its fields, its line of text, and when it ends.

Record format 1, frozen: every later release reads it. A record is one line of ASCII,

    1 CHECKSUM KIND CREATED DEADLINE TIMEOUT USER DATA

with one space between two fields. CHECKSUM is the CRC-32 of the record's key, a space, and what follows it, so that a
torn, flipped or misplaced record is noticed. It is no signature: who can write to the store can write sessions.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import quote, unquote

from .errors import CorruptRecord

FORMAT = "1"
SESSION, TOMBSTONE, INDEX = "session", "moved", "index"
_KINDS = frozenset({SESSION, TOMBSTONE, INDEX})
_NONE = "-"  # no user, no timeout; quote() makes neither this nor a plus sign of a name
_REMEMBERED = "+"
TOMBSTONE_SECONDS = 60.0  # how long the old key of a session says that it has moved, to requests that were under way


class Record(NamedTuple):
    """What a store keeps under a key. Times are epoch seconds in UTC."""

    data: str  # the values as `codec.encode` made them; of a tombstone, the key moved to; of an index, a user's keys
    created: float  # when it began, or its user signed in: the absolute limit counts from here
    deadline: float  # when it ends if nobody renews it
    user: str = ""  # the account that is signed in; empty for a visitor who is not
    remembered: bool = False  # whether the user asked to stay signed in
    timeout: float | None = None  # minutes it lives without being used, where that is not as in the settings
    kind: str = SESSION

    @classmethod
    def tombstone(cls, moved_to: str, now: float) -> Record:
        """Return what a session leaves under its old key when it moves to another (rule 9)."""
        return cls(moved_to, now, now + TOMBSTONE_SECONDS, kind=TOMBSTONE)

    def pack(self, key: str) -> bytes:
        """Return the record as one line, for stores that keep a text or some bytes under a key."""
        data, created, deadline, user, remembered, timeout, kind = self
        if user:
            user = quote_user(user)
        whose = f"{user or _NONE}{_REMEMBERED if remembered else ''}"
        body = f"{kind} {created!r} {deadline!r} {_NONE if timeout is None else timeout} {whose} {data}"
        return f"{FORMAT} {zlib.crc32(f'{key} {body}'.encode()):08x} {body}".encode()

    @classmethod
    def unpack(cls, key: str, line: bytes) -> Record:
        """Return the record of a line that `pack` made, or raise CorruptRecord if it is not whole, not of this key, or
        of a later format."""
        try:
            version, checksum, body = line.decode("ascii").split(" ", 2)
            if version != FORMAT:
                raise CorruptRecord(f"record format {version[:20]!r} is unknown: a later release may have written it")
            if int(checksum, 16) != zlib.crc32(f"{key} {body}".encode()):
                raise CorruptRecord("the checksum does not match")
            kind, created, deadline, timeout, user, data = body.split(" ", 5)
            if kind not in _KINDS:
                raise CorruptRecord(f"{kind!r} is no kind of record")
            remembered = user[-1:] == _REMEMBERED
            if remembered:
                user = user[:-1]
            user = "" if user == _NONE else unquote_user(user)
            own = None if timeout == _NONE else float(timeout)
            return cls(data, float(created), float(deadline), user, remembered, own, kind)
        except CorruptRecord:
            raise
        except ValueError as error:
            raise CorruptRecord("not a session record") from error


def quote_user(user: str) -> str:
    """Return the name of an account as one word of ASCII: a name may hold anything."""
    return "%2D" if user == _NONE else quote(user, safe="")


def unquote_user(word: str) -> str:
    """Return the name that `quote_user` made a word of, or raise CorruptRecord."""
    try:
        return unquote(word, errors="strict")
    except UnicodeDecodeError as error:
        raise CorruptRecord("its user is not percent-quoted UTF-8") from error


def reference(key: str) -> str:
    """Return a short name of a session for logs and pages, taken from its hash: nobody can make the id of it."""
    return key[-64:][:8]


@dataclass(frozen=True, slots=True)
class Limits:
    """When a session ends (rules 7 and 16), whatever the browser does with its cookie (ASVS 7.3.1 and 7.3.2)."""

    timeout: float  # minutes it lives without being used
    lifetime: float | None  # minutes it lives at most since it began

    def deadline(self, created: float, now: float) -> float:
        """Return when a session used now ends, if it is not used again."""
        idle = now + self.timeout * 60
        return idle if self.lifetime is None else min(idle, created + self.lifetime * 60)

    def expired(self, record: Record, now: float) -> bool:
        """Return whether a stored session has ended, by the lifetime of today's settings."""
        return now >= record.deadline or (self.lifetime is not None and now >= record.created + self.lifetime * 60)

    def last_used(self, record: Record) -> float:
        """Return when the session was last used, as far as its deadline tells: to a tenth of the timeout. For one whose
        deadline is that of its lifetime, which does not move, it is the earliest moment it can have been."""
        return max(record.created, record.deadline - self.timeout * 60)

    def renewed(self, record: Record, now: float) -> float:
        """Return the deadline of a session used now: a new one if a tenth of the timeout has passed since it was set.
        When that was is counted back from the deadline, so that nothing else has to be stored."""
        since = now - (record.deadline - self.timeout * 60)
        if -self.timeout * 6 < since < self.timeout * 6:
            return record.deadline
        new = self.deadline(record.created, now)
        return new if abs(new - record.deadline) > 0.001 else record.deadline  # it stands at the lifetime already
