"""The admission of peers: a bounded number of unauthenticated connections at a time, each with one handshake."""

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
    """The limits on what a peer may send before it is authenticated."""

    max_bytes: int
    """Largest number of bytes in frames of any kind, including the HTTP request of a WebSocket."""
    max_frames: int
    """Largest number of frames, including empty ones."""

    def permits(self, num_bytes: int, num_frames: int) -> bool:
        """Return whether a peer may have sent ``num_bytes`` bytes in ``num_frames`` frames."""
        return num_bytes <= self.max_bytes and num_frames <= self.max_frames


WEBSOCKET_ALLOWANCE = UnauthenticatedAllowance(2 * MAX_HANDSHAKE_MESSAGE_BYTES + 2**14, 64)
"""Allowance of a WebSocket: an HTTP request, a hello and a proof."""
MQTT_ALLOWANCE = UnauthenticatedAllowance(2 * MAX_HANDSHAKE_MESSAGE_BYTES, 32)
"""Allowance of a link over a broker: a hello and a proof. Pings do not count."""
MAX_PENDING_CONNECTIONS = 64
"""Largest number of handshakes at a time.

A member's handshake is short, and few members connect from one address at a time.
"""
IPV6_PREFIX_BITS = 64
"""Length in bits of the IPv6 prefix that identifies a host, which has all addresses under it (RFC 6177)."""


async def admit(
    channel: Channel, handshake: Callable[[], Awaitable[T]], max_seconds: float, warning_log: RateLimitedLog, peer: str
) -> T | None:
    """Return the result of ``handshake`` with the peer on ``channel``; close the link and return None if it fails.

    The handshake has ``max_seconds`` seconds. ``peer`` is the name of a rejected peer in the log, such as "a node".
    """
    try:
        async with asyncio.timeout(max_seconds):
            return await handshake()
    except TimeoutError:
        await channel.close("no hello in time")
    except LinkRefused as refused:
        warning_log.log(f"{peer}{format_peer_address(channel.address)} was rejected: {refused}")
        with contextlib.suppress(LinkError):
            await channel.send(Refusal(kind=refused.kind, reason=str(refused)))
        await channel.close()
    except (ProtocolError, BodyUnavailable) as error:
        warning_log.log(f"a peer{format_peer_address(channel.address)} was rejected: {error}")
        await channel.close(str(error), CloseCode.MESSAGE_REJECTED)
    except LinkLost:
        pass
    return None


class TrackedConnection(Protocol):
    """A connection with the properties by which ``BoundedConnectionSet`` compares two peers."""

    @property
    def bytes_received(self) -> int:
        """Number of bytes received."""

    @property
    def has_received_message(self) -> bool:
        """True if a whole message has been received, which is a ``hello``, since any other ends the link."""


class BoundedConnectionSet:
    """A set of connections with a maximum size that evicts one connection for each new one when it is full.

    The evicted connection is one from the address with the most connections. These are ordered by whether they have
    sent a whole ``hello``, and then by the number of bytes sent. The set draws at random from the half that has sent
    less. No peer can therefore force the eviction of another one, unless that one shares an address with more
    connections than other addresses have.
    """

    def __init__(self, max_size: int = MAX_PENDING_CONNECTIONS, random: Random | None = None) -> None:
        self._max_size = max_size
        self._random = random or SystemRandom()
        self._entries: dict[int, tuple[TrackedConnection, str, Callable[[], object]]] = {}

    def __len__(self) -> int:
        """Return the number of connections."""
        return len(self._entries)

    def add(self, connection: TrackedConnection, drop: Callable[[], object], address: str = "") -> None:
        """Add ``connection`` until ``discard``, and evict another one if the set is full.

        ``drop`` ends the link when the connection is evicted. Adding a connection again does not evict another one.
        """
        if id(connection) not in self._entries and len(self._entries) >= self._max_size:
            self._entries.pop(self._choose_eviction())[2]()
        self._entries[id(connection)] = connection, source_network(address), drop

    def discard(self, connection: TrackedConnection) -> None:
        """Remove a connection that is admitted or closed; do nothing if it is not in the set."""
        self._entries.pop(id(connection), None)

    def _choose_eviction(self) -> int:
        """Return the key of the connection to be evicted."""
        sizes = Counter(network for _, network, _ in self._entries.values())
        most = max(sizes.values())
        candidates = sorted(
            (connection.has_received_message, connection.bytes_received, self._random.random(), key)
            for key, (connection, network, _) in self._entries.items()
            if sizes[network] == most
        )
        return self._random.choice(candidates[: -(-len(candidates) // 2)])[-1]


def source_network(address: str) -> str:
    """Return the network of one host: the whole IPv4 address, or the first 64 bits of an IPv6 address.

    >>> [source_network(address) for address in ("2001:db8::1", "::ffff:192.0.2.7", "192.0.2.7", "")]
    ['2001:db8::/64', '192.0.2.7', '192.0.2.7', '']
    """
    try:
        found: IPv4Address | IPv6Address = ip_address(address.partition("%")[0])
    except ValueError:  # an address of a transport without IP addresses
        return address
    if isinstance(found, IPv6Address):
        return str(found.ipv4_mapped or IPv6Network((found, IPV6_PREFIX_BITS), strict=False))
    return str(found)
