"""What can go wrong, told apart. "Missing" is not an error: a store answers None for a key it does not know."""

from __future__ import annotations


class SessionError(Exception):
    """Base of everything this package raises on its own account."""


class StoreError(SessionError):
    """A store could not do what was asked; nothing was changed. A page answers 503.

    Attributes:
        status: what a page answers.
        public: a sentence that may be shown to a visitor; the exception's own text is for the log.
        retry_after: seconds after which trying again makes sense (RFC 9110 section 10.2.3).
    """

    status = 503
    public = "The session store does not answer. Please try again in a moment."
    retry_after = 5


class Unavailable(StoreError):
    """The store did not answer, or not in bounded time. Never to be taken for "the session is missing"."""


class LockTimeout(StoreError):
    """Another request held the session for longer than `lock_timeout`, or too many were waiting for it already."""

    public = "Another request of yours is still using your session. Please try again in a moment."
    retry_after = 1


class TooLarge(StoreError):
    """The values of a session are more than the backend can keep. The stored session stays as it was.

    Args:
        size: bytes they would take.
        limit: bytes there is room for.
        what: what is limited.
    """

    status = 413
    public = "This is more than your session can keep. Nothing was changed: please send less."

    def __init__(self, size: int, limit: int, what: str) -> None:
        super().__init__(f"{what} of {size} bytes is more than the {limit} bytes there is room for")


class Unreadable(SessionError, ValueError):
    """A stored record is torn, flipped or foreign. The store sets it aside; the visitor gets a fresh session."""


class UnstorableValue(SessionError, TypeError):
    """A session holds a value that cannot be stored as it is; the message names its key."""


class SessionClosed(SessionError, RuntimeError):
    """A write after the session was saved, for instance in a streamed body, outside `session_lock()`."""


class ConfigError(SessionError, ValueError):
    """An option is unknown, missing or has a value it cannot have. One line that names it and what to do."""


class CannotList(SessionError, NotImplementedError):
    """The backend cannot list the sessions of a user, or of all; the message says why. Never "there are none"."""


class CannotCount(NotImplementedError, TypeError):
    """The backend cannot count its sessions. It is a TypeError too, because `list(cherrypy.session)` asks for the
    length as a hint, and goes on without one only after a TypeError."""
