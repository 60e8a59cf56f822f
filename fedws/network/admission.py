"""Peers that are not authenticated yet: a bounded number at once, each with one handshake."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from random import Random, SystemRandom
from typing import Protocol, TypeVar

from fedws.core.addresses import format_peer_address
from fedws.core.errors import BodyUnavailable, LinkError, LinkLost, LinkRefused, ProtocolError
from fedws.core.rate_limited_log import RateLimitedLog
from fedws.network.base import MAX_HANDSHAKE_MESSAGE_BYTES, Channel
from fedws.protocol.close_codes import CloseCode
from fedws.protocol.messages import Refusal

T = TypeVar("T")


@dataclass(frozen=True)
class UnauthenticatedAllowance:
    """What a peer may send before it is authenticated."""

    max_bytes: int
    """Bytes in any frames, with the HTTP request of a websocket."""
    max_frames: int
    """Frames, with empty ones."""

    def permits(self, num_bytes: int, num_frames: int) -> bool:
        """Return whether a peer may have sent as much."""
        return num_bytes <= self.max_bytes and num_frames <= self.max_frames


WEBSOCKET_ALLOWANCE = UnauthenticatedAllowance(2 * MAX_HANDSHAKE_MESSAGE_BYTES + 2**14, 64)
"""Of a websocket: an HTTP request, a hello and a proof."""
MQTT_ALLOWANCE = UnauthenticatedAllowance(2 * MAX_HANDSHAKE_MESSAGE_BYTES, 32)
"""Of a link over a broker: a hello and a proof; pings do not count."""
MAX_PENDING_CONNECTIONS = 64
"""Handshakes in flight. A member's takes little time, and members do not come in crowds from one address."""
IPV6_PREFIX_BITS = 64
"""Bits of an IPv6 address that count: one host has all addresses that share them (RFC 6177)."""


async def admit(
    channel: Channel, handshake: Callable[[], Awaitable[T]], max_seconds: float, warning_log: RateLimitedLog, peer: str
) -> T | None:
    """Return the result of ``handshake`` with the peer on ``channel``; close the link and return None when it fails.

    ``peer`` is what the log calls a peer that is refused, as "a node".
    """
    try:
        async with asyncio.timeout(max_seconds):
            return await handshake()
    except TimeoutError:
        await channel.close("no hello in time")
    except LinkRefused as refused:
        warning_log.log(f"{peer}{format_peer_address(channel.address)} was refused: {refused}")
        with contextlib.suppress(LinkError):
            await channel.send(Refusal(kind=refused.kind, reason=str(refused)))
        await channel.close()
    except (ProtocolError, BodyUnavailable) as error:
        warning_log.log(f"a caller{format_peer_address(channel.address)} was refused: {error}")
        await channel.close(str(error), CloseCode.MESSAGE_REJECTED)
    except LinkLost:
        pass
    return None


class TrackedConnection(Protocol):
    """What :class:`BoundedConnectionSet` compares of two callers."""

    @property
    def bytes_received(self) -> int:
        """Bytes received."""

    @property
    def has_received_message(self) -> bool:
        """Whether a whole message has been received, which is a ``hello``: any other ends the link."""


class BoundedConnectionSet:
    """Admits every caller. When it is full, each further caller costs one of those that wait its place.

    That one is drawn from the address with the most callers: at random, among the half of them that comes last by
    having sent a whole ``hello``, and then by bytes sent. A caller is thus never certain to lose its place, whatever
    the others send, unless it shares an address with more callers than others do.
    """

    def __init__(self, max_size: int = MAX_PENDING_CONNECTIONS, random: Random | None = None) -> None:
        self._max_size = max_size
        self._random = random or SystemRandom()
        self._entries: dict[int, tuple[TrackedConnection, str, Callable[[], object]]] = {}

    def __len__(self) -> int:
        """Return how many are waiting."""
        return len(self._entries)

    def add(self, connection: TrackedConnection, drop: Callable[[], object], address: str = "") -> None:
        """Let ``connection`` wait until :meth:`discard`; one that waits already keeps its place. ``drop`` ends its
        link."""
        if id(connection) not in self._entries and len(self._entries) >= self._max_size:
            self._entries.pop(self._choose_eviction())[2]()
        self._entries[id(connection)] = connection, source_network(address), drop

    def discard(self, connection: TrackedConnection) -> None:
        """Forget a caller that has been admitted or is gone; do nothing if it is not waiting."""
        self._entries.pop(id(connection), None)

    def _choose_eviction(self) -> int:
        """Return the key of the one to be dropped."""
        sizes = Counter(where for _, where, _ in self._entries.values())
        most = max(sizes.values())
        crowd = sorted(
            (connection.has_received_message, connection.bytes_received, self._random.random(), key)
            for key, (connection, where, _) in self._entries.items()
            if sizes[where] == most
        )
        return self._random.choice(crowd[: -(-len(crowd) // 2)])[-1]


def source_network(address: str) -> str:
    """Return what one host's addresses have in common: an IPv4 address, or the first 64 bits of an IPv6 address.

    >>> [source_network(address) for address in ("2001:db8::1", "::ffff:192.0.2.7", "192.0.2.7", "")]
    ['2001:db8::/64', '192.0.2.7', '192.0.2.7', '']
    """
    try:
        found: IPv4Address | IPv6Address = ip_address(address.partition("%")[0])
    except ValueError:  # of a transport that has others
        return address
    if isinstance(found, IPv6Address):
        return str(found.ipv4_mapped or IPv6Network((found, IPV6_PREFIX_BITS), strict=False))
    return str(found)
