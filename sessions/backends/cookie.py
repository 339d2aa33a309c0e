"""Sessions in the browser: the cookie holds the values, encrypted and authenticated. Nothing is stored on the server.

The cookie is ID.TOKEN: the session's id, and base64url of

    key id (4 bytes)   nonce (12)   ciphertext and tag of the packed record (AES-256-GCM-SIV, RFC 8452)

AES-GCM-SIV forgives a nonce that was drawn twice, as 96 random bits are in the end. The hash of the id, the cookie's
name and the format are the associated data, so that no token fits another id or cookie. The key id names one of the
secrets, so that rotating them costs no second try.

The key of such a session holds the token, and so changes with each save: what a store loads elsewhere, this one opens.
Nothing is locked or merged. Of two requests at once the last answer wins, in one process as between many.
"""

from __future__ import annotations

import base64
import re
import secrets
from typing import Any

from ..errors import ConfigError, CorruptRecord, TooLarge
from ..record import SESSION, Record
from ..session import Session
from ..store import Capabilities, Hold, Store

_COOKIE = re.compile(r"([A-Za-z0-9_-]{20,200})\.([A-Za-z0-9_-]{60,4096})")
_LONGEST = 4096  # bytes of name and value together that every browser takes (RFC 6265bis section 5.7)
_KEY_ID, _NONCE = 4, 12  # bytes
_OVERHEAD = _KEY_ID + _NONCE + 16  # bytes, the tag included
_ID = 43  # characters
_SECRET_LENGTH = 32
_MAKE_ONE = "make one with: python -c 'import secrets; print(secrets.token_urlsafe(48))'"


class CookieHold(Hold):
    """A session that was read from its cookie. It keeps nobody away; saving makes the next cookie."""

    __slots__ = ()
    _store: CookieStore

    def _commit(self, record: Record) -> bool:
        if record.kind == SESSION:  # a tombstone would have to be left in the browser
            self.key = self._store.seal(self.key, record)
        return True

    def release(self) -> None:
        self._released = True


class CookieStore(Store):
    """Keeps each session in its own cookie.

    Args:
        secret: one or more texts of at least 32 characters, separated by commas, the newest first. The first encrypts;
            a cookie under another one is read, and written anew under the first. All processes need the same.

    Raises:
        ConfigError: a secret is missing or too short, or the package `cryptography` is.
    """

    capabilities = Capabilities(
        survives_restart=True,
        shared=True,
        locks_threads=False,
        locks_processes=False,
        revokes=False,
        counts=False,
        lists=False,
        purges=False,
        max_bytes=2800,
        keeps="In the browser's cookie, encrypted. The server keeps nothing.",
        sharing="All processes, on any number of machines, that have the same secret.",
        locking="None: of two requests at once the last answer wins, in one process as between many.",
        cleaning="There is nothing to clean: both limits are checked whenever a cookie comes in.",
        outage="It is never down while the site is up. Without the secret all sessions are lost.",
        needs="A secret, and the package cryptography.",
        limitations="CookieSession cannot lock or revoke, cannot list the sessions of a user, and cannot resist "
        "replay: a copy of an old cookie works until it expires.",
    )

    def __init__(self, *, secret: str = "") -> None:
        super().__init__()
        self._keys = dict(map(_derive, _split(secret)))
        self._newest = next(iter(self._keys))

    def find(self, cookie: str) -> tuple[str, str] | None:
        found = _COOKIE.fullmatch(cookie)
        return (found[1], f"{found[2]}.{self.key_of(found[1])}") if found else None

    def cookie_value(self, id: str, key: str) -> str:
        return f"{id}.{key.partition('.')[0]}"

    def seal(self, key: str, record: Record) -> str:
        """Return the key that holds `record`, for the session of `key`.

        Raises:
            TooLarge: no browser would take the cookie.
        """
        hashed = key.rpartition(".")[2]
        line, nonce = record.pack(hashed), secrets.token_bytes(_NONCE)
        line += b" " * (-(len(line) + _OVERHEAD) % 3)  # else bits of the last character would be nobody's, and free
        size = len(self.cookie_name) + _ID + 1 + 4 * (len(line) + _OVERHEAD) // 3
        if size > _LONGEST:
            raise TooLarge(size, _LONGEST, "a session cookie")
        sealed = self._keys[self._newest].encrypt(nonce, line, self._bound_to(hashed))
        return f"{base64.urlsafe_b64encode(self._newest + nonce + sealed).decode()}.{hashed}"

    def load(self, key: str) -> Record | None:
        token, _, hashed = key.rpartition(".")
        return self._open(token, hashed)[1] if token else None

    def acquire(self, key: str, timeout: float) -> Hold:
        token, _, hashed = key.rpartition(".")
        hold = CookieHold(self, key)
        key_id, hold.record = self._open(token, hashed) if token else (b"", None)
        if hold.record and key_id != self._newest:
            try:
                hold.key = self.seal(key, hold.record)
            except TooLarge:
                pass  # it was made for a shorter cookie name, and stays as it is
        return hold

    def create(self, key: str, record: Record) -> str:
        return self.seal(key, record)

    # There is nowhere to do these: `CookieHold` gives the browser what is to be kept, a copy of the cookie that comes
    # in later is unknown, and an index has no place.

    def save(self, key: str, record: Record) -> None:
        pass

    def remove(self, key: str) -> None:
        pass

    def enter(self, key: str, record: Record, *, new: bool = False) -> None:
        pass

    def leave(self, key: str, user: str) -> None:
        pass

    def purge(self, limit: int) -> int:
        return 0

    def describe_location(self, key: str) -> str:
        return f"the browser's cookie {self.cookie_name}, encrypted; on the server, nowhere"

    def describe_record(self, key: str, record: Record) -> str:
        return record.pack(key.rpartition(".")[2]).decode()

    def _bound_to(self, hashed: str) -> bytes:
        return f"1 {self.cookie_name} {hashed}".encode()

    def _open(self, token: str, hashed: str) -> tuple[bytes, Record | None]:
        """Return which secret has sealed a token, and its record; None for what is cut off, forged, or another's."""
        from cryptography.exceptions import InvalidTag

        try:
            content = base64.urlsafe_b64decode(token)
        except ValueError:
            return b"", None
        key_id, nonce, sealed = content[:_KEY_ID], content[_KEY_ID : _KEY_ID + _NONCE], content[_KEY_ID + _NONCE :]
        key = self._keys.get(key_id)
        if key is None:
            return b"", None
        try:
            return key_id, Record.unpack(hashed, key.decrypt(nonce, sealed, self._bound_to(hashed)).rstrip())
        except (InvalidTag, CorruptRecord, ValueError):
            return b"", None


class CookieSession(Session):
    """A session in the browser's cookie, encrypted. What it cannot do stands in the limitations of its store."""

    __slots__ = ()
    store_class = CookieStore


def _split(secret: str) -> list[str]:
    texts = [text.strip() for text in secret.split(",")] if isinstance(secret, str) else []
    for number, text in enumerate(texts or [""], 1):
        if len(text) < _SECRET_LENGTH:
            what = f"number {number} has {len(text)} characters and needs" if any(texts) else "is missing: it needs"
            raise ConfigError(f"secret {what} at least {_SECRET_LENGTH} characters; {_MAKE_ONE}")
    return texts


def _derive(secret: str) -> tuple[bytes, Any]:
    """Return the key of a secret with its id, by HKDF (RFC 5869): any long text will do, and no other use of it yields
    the same key."""
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF
    except ImportError:
        raise ConfigError("CookieSession needs the package cryptography: pip install cryptography") from None
    derived = HKDF(SHA256(), 32 + _KEY_ID, salt=None, info=b"sessions.CookieStore format 1").derive(secret.encode())
    try:
        return derived[32:], AESGCMSIV(derived[:32])
    except UnsupportedAlgorithm:
        raise ConfigError("CookieSession needs cryptography with OpenSSL 3.2: pip install -U cryptography") from None
