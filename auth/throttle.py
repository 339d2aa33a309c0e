"""How often something may be tried: from one address, at one account, and from one address at one account.

Nobody is locked out by those who guess a password: the first tries of an address at an account do not wait for those of
others. In 24 hours an attacker has at most

  * 480 passwords from one address, 960 from a /56 of IPv6, 2,400 from a /48;
  * 245 passwords for one account from one address; 240 from everywhere, and 5 more from each address or /48. What
    remains is a botnet, or a provider's /32, and against that stands what weakness() asks of a password;
  * 10 codes for one account from everywhere, and 5 mails to one account.

Memcached has no moving windows. Two counters estimate them: an hour may have twice as many, and a day an hour's more.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from limits import RateLimitItem, RateLimitItemPerDay, RateLimitItemPerHour
from limits.strategies import RateLimiter

from auth.counters import Counters

Count = tuple[RateLimitItem, str]  # a limit, and the key of those whose tries count together

# Of IPv4 or a /64, of a /56, and of a /48: an office may be behind one address, and has one of these as a whole.
ADDRESS = RateLimitItemPerHour(20), RateLimitItemPerHour(40), RateLimitItemPerHour(100)
PAIR = RateLimitItemPerDay(5)  # passwords from one address, or a /48, for one account; the next ones count below
# From everywhere. NIST SP 800-63B-4 (3.2.2) would end it after 100 failures in a row, and anybody could lock out an
# owner. A code is asked for after the password, and a mail goes to its owner whoever asks: no PAIR there.
ACCOUNT = {
    "password": RateLimitItemPerHour(10),
    "code": RateLimitItemPerDay(10),
    "reset": RateLimitItemPerDay(5),
    "sign-up": RateLimitItemPerDay(5),
}


@dataclass
class Attempt:
    """A try. `wait` is 0.0: go on, it is counted. Or else the seconds to wait, and asking has cost nothing."""

    wait: float
    _limiter: RateLimiter
    _pair: list[Count]
    _counted: list[Count] = field(default_factory=list)

    def succeeded(self) -> None:
        """Give the try back, and forgive what this address did to this account. If all were forgiven, an attacker would
        start afresh by signing in to an account of his own, and every sign-in of the owner would let off the others."""
        self.withdrawn()
        with suppress(OSError, self._limiter.storage.base_exceptions):
            for limit, key in self._pair:
                self._limiter.clear(limit, key)

    def withdrawn(self) -> None:
        """Give the try back: nothing was checked after all."""
        with suppress(OSError, self._limiter.storage.base_exceptions):  # then it stays counted
            for limit, key in self._counted:
                self._limiter.storage.give_back(limit.key_for(key), limit.get_expiry())


class Throttle:
    """Limits tries (OWASP ASVS 5.0, 6.3.1). The options of the session tool say where they are counted."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._counters, self._site = Counters(options), options.get("tools.sessions.name")

    def attempt(self, purpose: str, account: str, address: IPv4Address | IPv6Address | None) -> Attempt:
        """Ask for a try, before anything is checked: many at the same time do not slip through.

        Args:
            purpose: a key of ACCOUNT; each has counts of its own.
            account: its name, or what was typed for one, folded. It is kept as a hash only: some people type their
                password there.
            address: of the visitor; None where nobody knows it. Then only the account counts: visitors behind a proxy
                that does not name them, or a socket file, are not one.
        """

        def key(*of: object) -> str:  # another site may count in the same server
            return hashlib.sha256(repr((self._site, purpose, *of)).encode()).hexdigest()

        sizes = (8, 7, 6) if address and address.version == 6 else (4,)
        networks = [address.packed[:size] for size in sizes] if address else []
        pair = [(PAIR, key(account, networks[-1]))] if networks and purpose == "password" else []
        choices = [[(limit, key(network))] for limit, network in zip(ADDRESS, networks, strict=False)]
        choices.append([*pair, (ACCOUNT[purpose], key("account", account))])
        return self._counters.ask(lambda limiter: _take(limiter, pair, choices))


def _take(limiter: RateLimiter, pair: list[Count], choices: list[list[Count]]) -> Attempt:
    """Count a try once for each of the choices, if all have room."""
    attempt = Attempt(max(min(_wait(limiter, *one) for one in choice) for choice in choices), limiter, pair)
    for choice in choices if not attempt.wait else ():
        taken = next((one for one in choice if limiter.hit(*one)), None)
        if taken is None:  # somebody else has taken the last one since
            attempt.withdrawn()
            return Attempt(1.0, limiter, [])
        attempt._counted.append(taken)
    return attempt


def _wait(limiter: RateLimiter, limit: RateLimitItem, key: str) -> float:
    until, left = limiter.get_window_stats(limit, key)
    return 0.0 if left else max(until - time.time(), 0.001)
