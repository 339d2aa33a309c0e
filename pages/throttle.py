"""How often a password may be tried: by one address, for one account, and by one address for one account."""

from __future__ import annotations

import hashlib
import ipaddress
import itertools
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple


class Rule(NamedTuple):
    """When tries have to wait.

    Attributes:
        free: tries that may follow each other at once.
        cap: seconds that the longest wait takes. The first one takes two, and each one after it twice as long.
        leak: seconds after which one try is forgotten.
    """

    free: int
    cap: float
    leak: float

    def wait(self, tries: int) -> float:
        """Return the seconds to wait after so many tries."""
        return 0.0 if tries < self.free else min(2.0 ** (tries - self.free + 1), self.cap)

    @property
    def most(self) -> int:
        """How many tries are counted: with more, the wait would not be longer, but last for days."""
        return self.free + math.ceil(math.log2(self.cap)) - 1


HOUR = 3600.0
PAIR = Rule(free=5, cap=HOUR / 4, leak=6 * HOUR)  # one address, one account
ADDRESS = Rule(free=20, cap=HOUR / 4, leak=HOUR / 4)  # an office or a school may be behind one
# After 100 failures NIST SP 800-63B (revision 3, section 5.2.2) would stop. Then anybody could lock out an owner; here
# guesses only become slow, and not very slow, since the owner may have to wait too.
ACCOUNT = Rule(free=100, cap=60, leak=HOUR / 4)
ENTRIES = 10_000  # in each table
_OLDEST = 8  # of which the one with the fewest tries has to go


@dataclass(slots=True)
class _Entry:
    until: float  # when the next one is let through
    since: float  # what was due until then has leaked
    tries: int = 0

    def leak(self, every: float, now: float) -> int:
        """Forget what is due; how many tries are left."""
        due = int((now - self.since) // every)
        self.since += due * every
        self.tries -= min(due, self.tries)
        return self.tries


class _Table:
    """The entries of one kind, those used least recently first; as many as ENTRIES, however many names are tried."""

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: bytes, now: float) -> _Entry | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        if not entry.leak(self._rule.leak, now):
            del self._entries[key]
            return None
        self._entries.move_to_end(key)  # a refused try too: asking on and on keeps the entry that refuses
        return entry

    def count(self, key: bytes, entry: _Entry | None, now: float) -> None:
        """Count a try. A wait that is running goes on as it is: tries from elsewhere must not prolong it for ever."""
        if entry is None:
            self._make_room(now)
            entry = self._entries[key] = _Entry(until=now, since=now)
        entry.tries = min(entry.tries + 1, self._rule.most)
        if entry.until <= now:
            entry.until = now + self._rule.wait(entry.tries)

    def give_back(self, key: bytes, now: float, *, end_wait: bool) -> None:
        """Take one try back, and the wait that it began."""
        entry = self.get(key, now)
        if entry is None:
            return
        if entry.tries <= 1:
            del self._entries[key]
        else:
            entry.tries -= 1
            entry.until = now if end_wait else entry.until

    def forgive(self, key: bytes) -> None:
        self._entries.pop(key, None)

    def _make_room(self, now: float) -> None:
        """Let one entry go when there are too many.

        If it were always the oldest, thousands of made-up names would push out the account that is under attack.
        """
        if len(self._entries) < ENTRIES:
            return
        least, gone = math.inf, b""
        for key, entry in itertools.islice(self._entries.items(), _OLDEST):
            tries = entry.leak(self._rule.leak, now)
            if tries < least:
                least, gone = tries, key
            if tries <= 1:
                break
        del self._entries[gone]


class Throttle:
    """Lets guesses of passwords wait, longer and longer (OWASP ASVS 5.0, 6.3.1). Nobody is ever locked out.

    Three counts, and the longest wait of them holds:

      * One address for one account: five tries at once, then waits of 2, 4, 8... seconds, up to 15 minutes. One try is
        forgotten every six hours, and all with the right password.
      * One address for all accounts: 20 tries at once, then the same. One is forgotten every 15 minutes, which is for
        the mistakes of a whole office. In IPv6 an address is a network of /64, which one customer has as a whole.
      * One account from everywhere: 100 tries at once, then 2, 4, 8... seconds up to a minute; one is forgotten every
        15 minutes. An address that has not failed for this account is let through all the same, once: its owner with
        the right password gets in while others guess.

    A try is counted before the password is checked, so that many at the same time do not slip through. It is in the
    memory of this process: a restart forgets it, and each further process has counts of its own.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Take the clock, in seconds."""
        self._clock = clock
        self._lock = threading.Lock()
        self._pairs, self._addresses, self._accounts = _Table(PAIR), _Table(ADDRESS), _Table(ACCOUNT)

    def attempt(self, account: str, address: str) -> float:
        """Ask to try a password. 0.0: go on, the try is counted. Otherwise the seconds to wait; asking costs nothing.

        Args:
            account: the name as it was typed. It is kept as a hash only: some people type their password there.
            address: of the visitor.
        """
        pair, network, name = _keys(account, address)
        with self._lock:
            now = self._clock()
            ours, here, there = (
                self._pairs.get(pair, now), self._addresses.get(network, now), self._accounts.get(name, now)
            )  # fmt: skip
            asked = (ours, here, there) if ours else (here,)
            wait = max(entry.until - now if entry else 0.0 for entry in asked)
            if wait > 0.0:
                return wait
            self._pairs.count(pair, ours, now)
            self._addresses.count(network, here, now)
            self._accounts.count(name, there, now)
            return 0.0

    def succeeded(self, account: str, address: str) -> None:
        """Forgive what this address did to this account, after a right password.

        Address and account only get this one try back. If all were forgiven, an attacker with an account of his own
        would start afresh by signing in to it, and every sign-in of the owner would let off those who guess.
        """
        self._give_back(account, address, all_of_pair=True)

    def withdrawn(self, account: str, address: str) -> None:
        """Take back a try whose password was not checked after all."""
        self._give_back(account, address, all_of_pair=False)

    def _give_back(self, account: str, address: str, *, all_of_pair: bool) -> None:
        pair, network, name = _keys(account, address)
        with self._lock:
            now = self._clock()
            if all_of_pair:
                self._pairs.forgive(pair)
            else:
                self._pairs.give_back(pair, now, end_wait=True)
            self._addresses.give_back(network, now, end_wait=True)
            # The wait of the account may have been begun by others, before this address was let through all the same.
            self._accounts.give_back(name, now, end_wait=False)


def _keys(account: str, address: str) -> tuple[bytes, bytes, bytes]:
    """The keys of the pair, the address and the account; short, whatever was typed."""
    name = hashlib.sha256(account.encode("utf-8", "surrogatepass")).digest()
    network = _network(address)
    return name + network, network, name


def _network(address: str) -> bytes:
    """What counts as one address: all of IPv4, the first 64 bits of IPv6."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:  # a socket file has none
        return hashlib.sha256(address.encode("utf-8", "surrogatepass")).digest()
    if isinstance(ip, ipaddress.IPv6Address):
        return ip.ipv4_mapped.packed if ip.ipv4_mapped else ip.packed[:8]
    return ip.packed
