"""Sessions in the browser: the cookie holds the values, encrypted and authenticated. Nothing is stored on the server.

The cookie is ID.TOKEN: the session's id, and a Fernet token (AES-128-CBC, HMAC-SHA256) of a serial number and the
packed record. The record's checksum takes in the id, so that no token fits another id.

While requests of a session are under way, this process keeps what they share: the newest state among the cookies
that came in, and what was written since. That is what the locks of the process guard, and why two requests at once
count two. When the last of them is over it is forgotten.
"""

from __future__ import annotations

import base64
import contextlib
import re
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..errors import ConfigError, TooLarge, Unreadable
from ..facts import Facts
from ..record import Record, reference
from ..store import Store, log

if TYPE_CHECKING:
    from cryptography.fernet import Fernet

_COOKIE = re.compile(r"([A-Za-z0-9_-]{20,200})\.([A-Za-z0-9_-]{100,4096})")
_LONGEST = 4096  # bytes of name and value together that every browser takes (RFC 6265bis section 5.7)
_ID_AND_DOT = 44
_SECRET_LENGTH = 32
_MOST_UNREAD = 16  # tokens kept unread while one request of their session takes its time
_MAKE_ONE = "make one with: python -c 'import secrets; print(secrets.token_urlsafe(48))'"


@dataclass
class _Session:
    """A session that requests of this process are using.

    Attributes:
        users: how many requests.
        unread: tokens that came in and were not looked into yet: a page that does not use its session decrypts nothing.
        serial: of the newest state.
        record: the newest state; None if there is none, or if it was deleted.
        token: the newest state as the browser is to keep it.
    """

    users: int = 0
    unread: list[str] = field(default_factory=list)
    serial: int = 0
    record: Record | None = None
    token: str = ""
    dead: bool = False


class CookieStore(Store):
    """Keeps each session in its own cookie.

    Args:
        secret: one or more texts of at least 32 characters, separated by commas, the newest first. The first encrypts;
            a cookie under another one is read, and written anew under the first. All processes need the same.

    Raises:
        ConfigError: a secret is missing or too short, or the package `cryptography` is.
    """

    facts = Facts(
        survives_restart=True,
        shared=True,
        locks_processes=False,
        revokes=False,
        counts=False,
        lists=False,
        purges=False,
        max_bytes=2800,
        keeps="In the browser's cookie, encrypted. The server keeps nothing.",
        sharing="All processes, on any number of machines, that have the same secret.",
        locking="A fair queue among the threads of a process; between processes the last answer wins.",
        cleaning="There is nothing to clean: both limits are checked whenever a cookie comes in.",
        outage="It is never down while the site is up. Without the secret all sessions are lost.",
        needs="A secret, and the package cryptography.",
        cannot="CookieSession cannot revoke or lock across processes, cannot list the sessions of a user, and cannot "
        "resist replay: a copy of an old cookie works until it expires.",
    )

    finds_early = True  # what a request under way may still send is all that could be known of a session that moves

    def __init__(self, *, secret: str = "") -> None:
        super().__init__()
        self._fernets = [_fernet(text) for text in _split(secret)]
        self._mutex = threading.Lock()
        self._sessions: dict[str, _Session] = {}

    def is_well_formed(self, cookie: str) -> bool:
        return _COOKIE.fullmatch(cookie) is not None

    def find(self, cookie: str) -> tuple[str, str] | None:
        found = _COOKIE.fullmatch(cookie)
        if found is None:
            return None
        id, token = found.groups()
        key = self.key_of(id)
        with self._mutex:
            session = self._sessions.setdefault(key, _Session())
            session.users += 1
            session.unread.append(token)
            if len(session.unread) > _MOST_UNREAD:
                self._read_all(session, key)
        return id, key

    def cookie_value(self, id: str, key: str) -> str:
        return f"{id}.{self._sessions[key].token}"

    def leave(self, key: str) -> None:
        with self._mutex:
            session = self._sessions.get(key)
            if session:
                session.users -= 1
                if session.users <= 0:
                    del self._sessions[key]

    def load(self, key: str) -> Record | None:
        with self._mutex:
            session = self._sessions.get(key)
            if session is None:
                return None
            self._read_all(session, key)
            return session.record

    def create(self, key: str, record: Record) -> None:
        token = self._seal(key, 1, record)
        with self._mutex:
            self._sessions[key] = _Session(users=1, serial=1, record=record, token=token)

    def replace(self, key: str, record: Record) -> bool:
        before = self.load(key)
        if before is None or not before.data:
            return False
        with self._mutex:
            session = self._sessions.get(key)
            if session is None or session.record is None or not session.record.data:
                return False  # deleted or moved since we looked
            token = self._seal(key, session.serial + 1, record) if record.data else ""
            session.serial, session.record, session.token = session.serial + 1, record, token
        return True

    def delete(self, key: str) -> None:
        """End the session for the requests under way. A copy of its cookie that comes in later cannot be told."""
        with self._mutex:
            session = self._sessions.get(key)
            if session:
                session.dead, session.record = True, None

    def place(self, key: str) -> str:
        return f"the browser's cookie {self.cookie_name}, encrypted; on the server, nowhere"

    def purge(self, limit: int) -> int:
        return 0

    def _seal(self, key: str, serial: int, record: Record) -> str:
        token = self._fernets[0].encrypt(b"%d %b" % (serial, record.pack(key))).decode().rstrip("=")
        size = len(self.cookie_name) + _ID_AND_DOT + len(token)
        if size > _LONGEST:
            raise TooLarge(size, _LONGEST, "a session cookie")
        return token

    def _read_all(self, session: _Session, key: str) -> None:
        while session.unread:
            self._look_into(session, key, session.unread.pop())

    def _look_into(self, session: _Session, key: str, token: str) -> None:
        """Adopt a token that came in if it is ours, and newer than what is here."""
        opened = self._open(key, token)
        if opened is None or session.dead:
            return
        serial, record, newest_secret = opened
        if serial > session.serial:
            session.serial, session.record = serial, record
            session.token = token
            if not newest_secret:
                with contextlib.suppress(TooLarge):  # it was made for a shorter cookie name, and stays as it is
                    session.token = self._seal(key, serial, record)

    def _open(self, key: str, token: str) -> tuple[int, Record, bool] | None:
        """Serial number, record, and whether the newest secret opened it; None for what is not ours."""
        from cryptography.fernet import InvalidToken

        padded = token + "=" * (-len(token) % 4)  # which a cookie would have to be quoted for
        for fernet in self._fernets:
            try:
                serial, packed = fernet.decrypt(padded).split(b" ", 1)
                return int(serial), Record.unpack(key, packed), fernet is self._fernets[0]
            except InvalidToken:
                continue  # of another secret, cut off, or forged
            except Unreadable:
                break  # the token of another session
        log.info("session %s: its cookie is not one of ours", reference(key))
        return None


def _split(secret: str) -> list[str]:
    texts = [text.strip() for text in secret.split(",")] if isinstance(secret, str) else []
    if not any(texts):
        raise ConfigError(f"secret is missing: CookieSession needs {_SECRET_LENGTH} characters or more; {_MAKE_ONE}")
    for number, text in enumerate(texts, 1):
        if len(text) < _SECRET_LENGTH:
            raise ConfigError(
                f"secret number {number} has {len(text)} characters and needs at least {_SECRET_LENGTH}; {_MAKE_ONE}"
            )
    return texts


def _fernet(secret: str) -> Fernet:
    """The key of a secret, by HKDF (RFC 5869): any long text will do, and no other use of it yields the same key."""
    try:
        from cryptography.fernet import Fernet
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF
    except ImportError:
        raise ConfigError("CookieSession needs the package cryptography: pip install cryptography") from None
    key = HKDF(SHA256(), 32, salt=None, info=b"sessions.CookieStore 1").derive(secret.encode())
    return Fernet(base64.urlsafe_b64encode(key))
