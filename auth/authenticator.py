"""The one place where a password or a code is checked: to sign in, and for every step that asks for it once more."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import TypeVar

import cherrypy
from cherrypy.lib.httputil import parse_query_string

from auth.accounts import Accounts, Proof
from auth.names import folded
from auth.throttle import Attempt, Throttle
from sessions.events import log_event
from web import csrf

T = TypeVar("T")

_NO_ADDRESS = (
    "visitors have no address, so wrong passwords are counted for each account alone: let the proxy in front send "
    "X-Forwarded-For, and set tools.proxy.on = True. Where the site listens on a socket file, add 'unix:' to "
    "wsgi.proxy.trusted"
)
_NOT_IN_ADDRESSES = ("username", "password", "current", "new", "again", "code", "recovery")


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


class Authenticator:
    """Checks passwords, no more often than the throttle lets through, and notes those that were refused."""

    def __init__(self, accounts: Accounts, throttle: Throttle) -> None:
        """Take the accounts, and what slows down guessing."""
        self._accounts, self._throttle = accounts, throttle
        self._noted = False

    def attempt(self, purpose: str, name: str) -> Attempt:
        """Count what the visitor is about to try at an account, before it is checked (OWASP ASVS 5.0, 6.3.1). Call
        `succeeded()` of what is returned when it was right, which gives the try back.

        Args:
            purpose: "password", "code", "reset" or "sign-up", see auth.throttle.ACCOUNT.
            name: of the account, or an e-mail address, as it was typed; tries at it count together, however it was.

        Raises:
            TooManyTries: 429, and nothing is to be checked.
        """
        address = csrf.address_of(cherrypy.serving.request.remote.ip)
        if address is None and not self._noted:
            self._noted = True
            cherrypy.log(_NO_ADDRESS, "SITE", logging.WARNING)
        attempt = self._throttle.attempt(purpose, folded(name), address)
        if attempt.wait:
            log_event("too many tries", level=logging.WARNING, account=self._known(name), purpose=purpose)
            raise TooManyTries(attempt.wait)
        return attempt

    def check(self, name: str, password: str) -> Proof | None:
        """Return the proof that the password is that of the account, or None (OWASP ASVS 5.0, 16.3.1).

        Raises:
            TooManyTries: 429, nothing was checked.
            sessions.Unavailable: the accounts do not answer; it does not count as a try. The page is a 503.
        """
        proof = self._counted("password", name, lambda: self._accounts.verify(name, password))
        if not proof:
            log_event("sign-in refused: wrong name or password", level=logging.WARNING, account=self._known(name))
        return proof

    def check_code(self, user: str, check: Callable[[], bool], *, guessable: bool) -> bool:
        """Return what `check` finds of a code of this account; raises as check() does.

        Six digits are `guessable`. Recovery codes are not, and count as passwords do: the owner gets in by one while
        somebody who knows the password guesses digits.
        """
        right = self._counted("code" if guessable else "password", user, check)
        if not right:
            log_event("sign-in refused: wrong code", level=logging.WARNING, account=user)
        return right

    def _counted(self, purpose: str, name: str, check: Callable[[], T]) -> T:
        attempt = self.attempt(purpose, name)
        try:
            found = check()
        except BaseException:
            attempt.withdrawn()
            raise
        if found:
            attempt.succeeded()
        return found

    def _known(self, typed: str) -> str:
        """People type their password as the name at times: only a name that exists may stand in the log."""
        return self._accounts.registered(typed) or "(unknown)"


def refuse_passwords_in_address() -> None:
    """Refuse, with 400, a form that takes a password and was sent with such a field in its address (OWASP ASVS 5.0,
    14.2.1): addresses are kept in logs and histories. CherryPy makes no difference between them and the body."""
    request = cherrypy.serving.request
    sent = parse_query_string(request.query_string, encoding=request.query_string_encoding)
    for name in _NOT_IN_ADDRESSES:
        if name in sent:
            raise cherrypy.HTTPError(
                400,
                f"The field '{name}' was in the address, and logs keep addresses. Nothing was done. Send it in the "
                "body of a POST; a password that was in an address is better changed.",
            )


def _in_words(seconds: int) -> str:
    if seconds == 1:
        return "a second"
    if seconds < 90:
        return f"{seconds} seconds"
    return f"{math.ceil(seconds / 60)} minutes" if seconds < 90 * 60 else f"{math.ceil(seconds / 3600)} hours"
