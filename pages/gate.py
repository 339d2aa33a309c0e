"""The one place where a password is checked: for signing in, and for every step that asks for it once more."""

from __future__ import annotations

import logging
import math

import cherrypy

import sessions
from pages.accounts import Accounts
from pages.throttle import Throttle


class TooManyTries(cherrypy.HTTPError):
    """429 with Retry-After (RFC 6585 section 4).

    Attributes:
        retry_after: whole seconds.
    """

    def __init__(self, wait: float) -> None:
        """Take the seconds to wait."""
        self.retry_after = math.ceil(wait)
        super().__init__(429, f"There were too many tries. Please wait {_in_words(self.retry_after)}, then try again.")

    def set_response(self) -> None:
        """Make the response that error."""
        super().set_response()  # removes Retry-After, as CherryPy does from every error
        cherrypy.serving.response.headers["Retry-After"] = str(self.retry_after)


class Gate:
    """Checks passwords, no more often than the throttle lets through, and notes those that were refused."""

    def __init__(self, accounts: Accounts, throttle: Throttle) -> None:
        """Take the accounts, and what slows down guessing."""
        self._accounts, self._throttle = accounts, throttle

    def check(self, name: str, password: str) -> bool:
        """Tell whether the password is that of the account (OWASP ASVS 5.0, 6.3.1, 16.3.1).

        Raises:
            TooManyTries: 429, nothing was checked.
            cherrypy.HTTPError: 503, the accounts do not answer; it does not count as a try.
        """
        address = cherrypy.serving.request.remote.ip
        # People type their password as the name at times: only a name that exists may stand in the log.
        account = name if name in self._accounts else "(unknown)"
        wait = self._throttle.attempt(name, address)
        if wait:
            sessions.note("sign-in refused: too many tries", level=logging.WARNING, account=account)
            raise TooManyTries(wait)
        try:
            right = self._accounts.verify(name, password)
        except BaseException:
            self._throttle.withdrawn(name, address)
            raise
        if right:
            self._throttle.succeeded(name, address)
        else:
            sessions.note("sign-in refused: wrong name or password", level=logging.WARNING, account=account)
        return right


def _in_words(seconds: int) -> str:
    if seconds == 1:
        return "a second"
    return f"{seconds} seconds" if seconds < 90 else f"{math.ceil(seconds / 60)} minutes"
