"""How often a password may be tried: from one place, for one account, and from one place for one account."""

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
SITE_PAIR = Rule(free=20, cap=60, leak=6 * HOUR)  # one /48 of IPv6, one account: it may be all customers of a provider
# For all accounts. An office or a school may be behind one address, and has a /56 or a /48 as a whole.
ADDRESS = Rule(free=20, cap=HOUR / 4, leak=HOUR / 4)
CUSTOMER = Rule(free=40, cap=HOUR / 4, leak=HOUR / 4)
SITE = Rule(free=100, cap=HOUR / 12, leak=HOUR / 4)
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

    Three kinds of counts, and the longest wait of them holds:

      * One address for one account: five tries at once, then waits of 2, 4, 8... seconds, up to 15 minutes. One try is
        forgotten every six hours, and all with the right password. In IPv6 an address is a network of /64, which one
        customer has as a whole; a /48 has 20 tries and then waits up to a minute.
      * One address for all accounts: 20 tries at once, then waits up to 15 minutes. One is forgotten every 15 minutes,
        which is for the mistakes of a whole office. A customer may have 256 or 65,536 networks of /64, so their /56
        counts as well, with 40 tries, and their /48, with 100 and waits up to 5 minutes.
      * One account from everywhere: 100 tries at once, then 2, 4, 8... seconds up to a minute; one is forgotten every
        15 minutes. An address, or a /48, is let through all the same while its own first five tries for this account
        last: the owner gets in while others guess, also after a slip.

    So at one account an address has 110 guesses at most on the first day and 96 on each other one, a /48 400 and 288.
    What remains is a botnet, or a provider's /32 with 65,536 networks of /48: together they have 1,540 and 1,440, and
    each of them besides 9 on the first day and 4 on each other one; with more than 10,000 of them, which are as many as
    are kept, nothing holds them but the price of a hash. Against that stands what weakness() asks of a password.

    A try is counted before the password is checked, so that many at the same time do not slip through. It is in the
    memory of this process: a restart forgets it, and each further process has counts of its own.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Take the clock, in seconds."""
        self._clock = clock
        self._lock = threading.Lock()
        self._pairs, self._site_pairs, self._accounts = _Table(PAIR), _Table(SITE_PAIR), _Table(ACCOUNT)
        self._addresses = [_Table(ADDRESS), _Table(CUSTOMER), _Table(SITE)]

    def attempt(self, account: str, address: str | None) -> float:
        """Ask to try a password. 0.0: go on, the try is counted. Otherwise the seconds to wait; asking costs nothing.

        Args:
            account: its name, or what was typed for one, folded. It is kept as a hash only: some people type their
                password there.
            address: of the visitor; None where nobody knows it. Then only the account counts: visitors behind a proxy
                that does not name them, or a socket file, are not one.
        """
        counts = self._counts(account, address)
        with self._lock:
            now = self._clock()
            found = [(table, key, table.get(key, now)) for table, key in counts]
            ours = next((entry for table, _, entry in found if table is self._site_pairs), None)
            passes = address is not None and (ours is None or ours.tries < PAIR.free)
            asked = [entry for table, _, entry in found if entry and not (passes and table is self._accounts)]
            wait = max((entry.until - now for entry in asked), default=0.0)
            if wait > 0.0:
                return wait
            for table, key, entry in found:
                table.count(key, entry, now)
            return 0.0

    def succeeded(self, account: str, address: str | None) -> None:
        """Forgive what this address and its /48 did to this account, after a right password.

        Addresses and account only get this one try back. If all were forgiven, an attacker with an account of his own
        would start afresh by signing in to it, and every sign-in of the owner would let off those who guess.
        """
        self._give_back(account, address, all_of_pair=True)

    def withdrawn(self, account: str, address: str | None) -> None:
        """Take back a try whose password was not checked after all."""
        self._give_back(account, address, all_of_pair=False)

    def _give_back(self, account: str, address: str | None, *, all_of_pair: bool) -> None:
        with self._lock:
            now = self._clock()
            for table, key in self._counts(account, address):
                if all_of_pair and table in (self._pairs, self._site_pairs):
                    table.forgive(key)
                else:
                    # The wait of the account may be one begun by others, before this address was let through.
                    table.give_back(key, now, end_wait=table is not self._accounts)

    def _counts(self, account: str, address: str | None) -> list[tuple[_Table, bytes]]:
        """Where a try is counted. The keys are short, whatever was typed."""
        name = hashed(account)
        if address is None:
            return [(self._accounts, name)]
        networks = _networks(address)
        return [
            (self._pairs, name + networks[0]),
            (self._site_pairs, name + networks[-1]),
            (self._accounts, name),
            *zip(self._addresses, networks, strict=False),
        ]


def hashed(text: str) -> bytes:
    """Return what stands for a text in a key."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def _networks(address: str) -> tuple[bytes, ...]:
    """What counts as one address, the smallest first: all of IPv4; the first 64, 56 and 48 bits of IPv6."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return (hashed(address),)
    if isinstance(ip, ipaddress.IPv6Address) and not ip.ipv4_mapped:
        return ip.packed[:8], ip.packed[:7], ip.packed[:6]
    return ((getattr(ip, "ipv4_mapped", None) or ip).packed,)
