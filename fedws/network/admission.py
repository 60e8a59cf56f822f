"""The callers of a node that have not proved anything yet: a bounded number at once."""

from collections import Counter
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from random import Random, SystemRandom
from typing import Protocol

MOST = 64
"""Handshakes in flight. A member's takes little time, and members do not come in crowds from one address."""
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
    """Admits every caller. When it is full, each further caller costs one of those that wait its place.

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
