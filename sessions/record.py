"""A session as it is stored, and as one line of text."""

from __future__ import annotations

import zlib
from typing import NamedTuple
from urllib.parse import quote, unquote

from .errors import Unreadable

_NOBODY = b"="  # quote() never makes this, nor a plus sign
_REMEMBERED = b"+"


class Record(NamedTuple):
    """A session as it is stored. Times are epoch seconds in UTC.

    Attributes:
        data: the session's values as `codec.encode` made them: one line of ASCII.
            Empty for a session that has moved to another key (see `Session.regenerate`).
        created: when the session began, or when its user signed in; the absolute limit counts from here.
        deadline: when it ends if nobody renews it.
        user: the account it belongs to; empty for a visitor who has not signed in.
        remembered: the user asked to stay signed in.
    """

    data: bytes
    created: float
    deadline: float
    user: str = ""
    remembered: bool = False

    def pack(self, key: str) -> bytes:
        """The whole record as one line of ASCII, for stores that keep a text or some bytes under a key.

        It begins with a checksum that takes in the key, so that a torn, flipped or misplaced record is noticed. The
        checksum is no signature: who can write to the store can write sessions.
        """
        whose = quote(self.user, safe="").encode() if self.user else _NOBODY
        whose += _REMEMBERED if self.remembered else b""
        body = b"%r %r %b %b" % (self.created, self.deadline, whose, self.data)
        return b"%08x %b" % (zlib.crc32(body, zlib.crc32(key.encode())), body)

    @classmethod
    def unpack(cls, key: str, line: bytes) -> Record:
        """The record that `pack` made a line of.

        Raises:
            Unreadable: the line is not whole, or not of this key.
        """
        try:
            checksum, body = line.split(b" ", 1)
            if int(checksum, 16) != zlib.crc32(body, zlib.crc32(key.encode())):
                raise Unreadable("the checksum does not match")
            created, deadline, whose, data = body.split(b" ", 3)
            user = whose.removesuffix(_REMEMBERED)
            name = "" if user == _NOBODY else unquote(user.decode("ascii"), errors="strict")
            return cls(data, float(created), float(deadline), name, whose != user)
        except Unreadable:
            raise
        except ValueError as error:
            raise Unreadable("not a session record") from error


def reference(key: str) -> str:
    """A short name of a session for logs and pages. It is taken from the hash, so nobody can make the id of it."""
    return key[-64:][:8]
