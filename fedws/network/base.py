"""Protocols and bounds of a link."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from fedws.core.limits import DEFAULT_MAX_MESSAGE_BYTES
from fedws.network.liveness import CHECKS_PER_TIMEOUT
from fedws.protocol.close_codes import CloseCode
from fedws.protocol.messages import Message
from fedws.security.tls import TlsConfig

if TYPE_CHECKING:
    from fedws.network.body_transfer import BodyTransfers


MAX_HANDSHAKE_MESSAGE_BYTES = 2**16
"""Largest message in bytes, until the other end has proved who it is."""


class Channel(Protocol):
    """One link, as whole messages. Any method raises LinkLost once the link is down."""

    peer: str
    """The node's id in the other end's certificate; empty where it has shown none."""
    address: str
    """Where the other end is, for a log; empty where the transport cannot tell."""
    bytes_sent: int
    """Bytes sent so far, with what the transport adds to a message; likewise those received."""
    bytes_received: int
    transfers: "BodyTransfers"
    """How bodies travel; set by who knows of earlier links to the same peer."""

    @property
    def is_receiving(self) -> bool:
        """Whether a part of a message has come that is not whole."""

    async def send(self, message: Message) -> None:
        """Send one message; returns when it is handed to the transport."""

    async def receive(self) -> Message:
        """The next message. Raises ProtocolError, after which the link must be closed."""

    def mark_authenticated(self) -> None:
        """The other end has proved who it is: messages up to ``Limits.max_message_bytes`` may come, in any time.

        Before, they are at most :data:`MAX_HANDSHAKE_MESSAGE_BYTES` bytes, and a link that was dialled from outside
        lives no longer than ``Limits.handshake_timeout``.
        """

    def set_session_key(self, session_key: bytes) -> None:
        """Both ends have ``session_key`` now, 32 bytes of this handshake alone; keys for what follows may come of
        it."""

    async def close(self, reason: str = "", code: CloseCode = CloseCode.APPLICATION_ERROR) -> None:
        """Close the link; the other end gets ``code``, and ``reason`` for people. Without a reason: DONE."""

    async def wait_closed(self) -> None:
        """Wait until the link is down, whoever closed it."""


Handler = Callable[[Channel], Awaitable[None]]


@dataclass(frozen=True)
class Limits:
    """The bounds of a link."""

    max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES
    """Largest message in bytes, header and body."""
    peer_timeout: float = 60.0
    """Seconds without a sign of life or progress after which the other end counts as lost."""
    ping_interval: float = 0.0
    """Seconds between the pings that keep an idle or busy link alive; 0: a third of ``peer_timeout``."""

    @property
    def effective_ping_interval(self) -> float:
        """Seconds between two pings."""
        return self.ping_interval or self.peer_timeout / 3

    @property
    def check_interval(self) -> float:
        """Seconds between two checks of a link's liveness."""
        return self.peer_timeout / CHECKS_PER_TIMEOUT

    @property
    def handshake_timeout(self) -> float:
        """Timeout in seconds of a handshake, and of a broker's reply to one packet."""
        return self.peer_timeout / 6

    @property
    def close_timeout(self) -> float:
        """Timeout in seconds of closing a link."""
        return self.peer_timeout / 6

    @property
    def max_backoff(self) -> float:
        """Longest delay in seconds between two attempts to connect; a longer wait for a peer is logged."""
        return self.peer_timeout / 12

    @property
    def retention(self) -> float:
        """Seconds for which a result and a partial body are kept after a link was lost."""
        return 10 * self.peer_timeout


class Transport(Protocol):
    """A way to carry messages, chosen by URL scheme. Registered as ``transport`` under that scheme."""

    in_process: bool
    """Whether its links stay within this process, where nobody has to be kept out."""
    brokered: bool
    """Whether many nodes have one address, as a broker's."""

    def check_url(self, url: str, tls: TlsConfig | None = None, *, encrypt_payloads: bool = False) -> None:
        """Raise UsageError unless the URL is an address here and goes with ``tls``; ``encrypt_payloads``: no carrier
        may read."""

    def connect(
        self, url: str, limits: Limits, node: str = "", tls: TlsConfig | None = None, *, encrypt_payloads: bool = False
    ) -> Awaitable[Channel]:
        """Dial ``node`` once. Raises Unreachable, or UsageError when the URL is none.

        An encrypted one takes nobody but who shows a certificate of ``node``; if that is empty, of the URL's host."""

    def serve(
        self,
        url: str,
        handle: Handler,
        limits: Limits,
        tls: TlsConfig | None = None,
        *,
        node: str = "",
        encrypt_payloads: bool = False,
    ) -> AbstractAsyncContextManager[str]:
        """Serve ``node`` while the context lasts; gives its URL. Raises UsageError when it cannot."""
