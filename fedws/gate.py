"""The callers of a node that have not proved anything yet: a bounded number at once."""

import logging
import math
import time
from collections import Counter
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from random import Random, SystemRandom
from typing import Protocol

log = logging.getLogger("fedws")
MOST = 64
"""Handshakes in flight. A member's takes little time, and members do not come in crowds from one address."""
BURST = 20
"""Log lines of one kind that members may cause at once, as of runs that begin and end."""
PREFIX = 64
"""Bits of an IPv6 address that count: one host has all addresses that share them (RFC 6177)."""


class Caller(Protocol):
    """What the gate compares of two callers."""

    @property
    def received(self) -> int:
        """Bytes received."""

    @property
    def greeted(self) -> bool:
        """Whether a whole message has been received, which is a ``hello``: any other ends the link."""


class Gate:
    """Admits whoever comes. When it is full, each further caller costs one of those that wait its place.

    That one is drawn from the address with the most callers: at random, among the half of them that comes last by
    having sent a whole ``hello``, and then by bytes sent. A caller is thus never certain to lose its place, whatever
    the others send, unless it shares an address with more callers than others do.
    """

    def __init__(self, most: int = MOST, random: Random | None = None) -> None:
        self._most = most
        self._random = random or SystemRandom()
        self._waiting: dict[int, tuple[Caller, str, Callable[[], object]]] = {}

    def __len__(self) -> int:
        """Return how many are waiting."""
        return len(self._waiting)

    def enter(self, caller: Caller, drop: Callable[[], object], address: str = "") -> None:
        """Let ``caller`` wait until :meth:`leave`; one that waits already keeps its place. ``drop`` ends its link."""
        if id(caller) not in self._waiting and len(self._waiting) >= self._most:
            self._waiting.pop(self._last())[2]()
        self._waiting[id(caller)] = caller, group(address), drop

    def leave(self, caller: Caller) -> None:
        """Forget a caller that has been admitted or is gone; do nothing if it is not waiting."""
        self._waiting.pop(id(caller), None)

    def _last(self) -> int:
        """Return the key of the one to be dropped."""
        sizes = Counter(where for _, where, _ in self._waiting.values())
        most = max(sizes.values())
        crowd = sorted(
            (caller.greeted, caller.received, self._random.random(), key)
            for key, (caller, where, _) in self._waiting.items()
            if sizes[where] == most
        )
        return self._random.choice(crowd[: -(-len(crowd) // 2)])[-1]


def group(address: str) -> str:
    """Return what one host's addresses have in common: an IPv4 address, or the first 64 bits of an IPv6 address.

    >>> group("2001:db8::1"), group("::ffff:192.0.2.7"), group("192.0.2.7"), group("")
    ('2001:db8::/64', '192.0.2.7', '192.0.2.7', '')
    """
    try:
        found: IPv4Address | IPv6Address = ip_address(address.partition("%")[0])
    except ValueError:  # of a transport that has others
        return address
    if isinstance(found, IPv6Address):
        return str(found.ipv4_mapped or IPv6Network((found, PREFIX), strict=False))
    return str(found)


class Complaints:
    """Log lines that a peer causes: some at once, then one in ten seconds with the number of those left out."""

    APART = 10.0
    """Seconds between two lines, on average."""

    def __init__(self, node: str, burst: int = 1) -> None:
        """Make the lines of ``node``, of which ``burst`` may come at once."""
        self._node = node
        self._burst = burst
        self._due = -math.inf  # when all lines so far are paid for, at one in so many seconds
        self._unsaid = 0

    def hear(self, what: str, level: int = logging.WARNING, error: BaseException | None = None) -> bool:
        """Log a line, and the traceback of ``error`` for who debugs, or count it; return whether it was logged."""
        now = time.monotonic()
        if self._due - now > (self._burst - 1) * self.APART:
            self._unsaid += 1
            return False
        more = f" ({self._unsaid} more since the last such line)" if self._unsaid else ""
        log.log(level, "%s: %s%s", self._node, what, more)
        if error is not None:
            log.debug("%s: the traceback of this error", self._node, exc_info=error)
        self._due, self._unsaid = max(self._due, now) + self.APART, 0
        return True
