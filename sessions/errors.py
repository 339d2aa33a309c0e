"""What can go wrong, told apart. "Missing" is not an error: a store answers None for a key it does not know."""

from __future__ import annotations


class SessionError(Exception):
    """Base of everything this package raises on its own account."""


class StoreError(SessionError):
    """What was asked of the store could not be done, and nothing was changed."""

    status = 503  # of the answer
    public = "The session store does not answer. Please try again in a moment."  # the exception's text is for the log
    retry_after = 5  # seconds (RFC 9110 section 10.2.3)


class Unavailable(StoreError):
    """The store did not answer in bounded time. Never to be taken for "the session is missing"."""


class NoRoom(Unavailable):
    """The disk of the store is full. What is there can still be read and removed."""


class LockTimeout(StoreError):
    """Another request held the session for longer than `lock_timeout`."""

    public = "Another request of yours is still using your session. Please try again in a moment."
    retry_after = 1


class TooManyWaiting(LockTimeout):
    """The session is in use, and more requests than `max_waiting` allows would wait for one."""

    public = "Too many requests are waiting for your session or others. Please try again in a moment."


class TooLarge(StoreError):
    """The values of a session are more than the backend can keep. The stored session stays as it was."""

    status = 413
    public = "This is more than your session can keep. Nothing was changed: please send less."

    def __init__(self, size: int, limit: int, what: str) -> None:
        super().__init__(f"{what} of {size} bytes is more than the {limit} bytes there is room for")


class CrossSiteRequest(StoreError):
    """A form of another site wrote to a session. Browsers send no SameSite cookie with it, so the visitor may have a
    session all the same, and the cookie of a new one would replace it (RFC 6265bis section 8.8)."""

    status = 403
    public = "Your browser sent this from another site, without your session. Please do it on a page of this site."

    def __init__(self) -> None:
        super().__init__(
            "a cross-site request of an unsafe method came without a session and may not begin one. Answer it with a "
            "303 to a page of the site, which gets the cookie, or allow it there with tools.sessions.cross_site = True"
        )


class CorruptRecord(SessionError, ValueError):
    """A stored record is torn, flipped or foreign. It is quarantined; the visitor gets a fresh session."""


class UnreadableValue(SessionError, ValueError):
    """A stored value is whole, but this machine cannot make it: a time zone whose data is missing here, for one."""


class UnstorableValue(SessionError, TypeError):
    """A session holds a value that cannot be stored as it is; the message names its key."""


class SessionClosed(SessionError, RuntimeError):
    """A write after the session was saved, for instance in a streamed body, outside `session_lock()`."""


class ConfigError(SessionError, ValueError):
    """An option is unknown, missing or malformed. One line that names it and what to do."""


class CannotList(SessionError, NotImplementedError):
    """The backend cannot list the sessions of a user, or of everybody. Never to be taken for "there are none"."""


class CannotCount(SessionError, NotImplementedError):
    """The backend cannot count its sessions."""
