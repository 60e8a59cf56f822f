"""The protocols ``Channel`` and ``Transport``, and the limits of a link."""

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
"""Largest message in bytes that is accepted before the peer is authenticated."""


class Channel(Protocol):
    """One link that carries whole messages. Every method raises LinkLost once the link is down."""

    peer: str
    """Node id in the peer's certificate; empty if the peer has not presented one."""
    address: str
    """Address of the peer for log lines; empty if the transport has no peer addresses."""
    bytes_sent: int
    """Number of bytes sent so far, including the overhead of the transport."""
    bytes_received: int
    """Number of bytes received so far, including the overhead of the transport."""
    transfers: "BodyTransfers"
    """State of the body transfers; replaced by a caller that has had earlier links to the same peer."""

    @property
    def encryption(self) -> str:
        """Encryption of the link for log lines, such as "TLS"; empty if the link is not encrypted."""

    @property
    def is_receiving(self) -> bool:
        """True if a message has been received in part."""

    async def send(self, message: Message) -> None:
        """Send one message and return when it is handed to the transport."""

    async def receive(self) -> Message:
        """Return the next message.

        Raise ProtocolError if the message is not valid; the caller must then close the link.
        """

    def mark_authenticated(self) -> None:
        """Lift the limits for unauthenticated peers.

        Before this call, a message has at most ``MAX_HANDSHAKE_MESSAGE_BYTES`` bytes, and an incoming link is
        closed after ``Limits.handshake_timeout``. Afterwards, a message has at most ``Limits.max_message_bytes``
        bytes, and the link has no time limit.
        """

    def set_session_key(self, session_key: bytes) -> None:
        """Set the secret of this handshake, 32 bytes that both ends share.

        The channel may derive the keys for all further messages from it.
        """

    async def close(self, reason: str = "", code: CloseCode = CloseCode.APPLICATION_ERROR) -> None:
        """Close the link and send ``code`` and a readable ``reason`` to the peer.

        Without a reason, the code is NORMAL_CLOSURE.
        """

    async def wait_closed(self) -> None:
        """Wait until either end has closed the link, or the link is lost."""


Handler = Callable[[Channel], Awaitable[None]]


@dataclass(frozen=True)
class Limits:
    """The limits of a link."""

    max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES
    """Largest message in bytes, header and body."""
    peer_timeout: float = 60.0
    """Seconds without received bytes or progress after which the peer counts as lost."""
    ping_interval: float = 0.0
    """Seconds between the pings that keep an idle or busy link alive; 0 selects a third of ``peer_timeout``."""

    @property
    def effective_ping_interval(self) -> float:
        """Interval in seconds between two pings."""
        return self.ping_interval or self.peer_timeout / 3

    @property
    def check_interval(self) -> float:
        """Interval in seconds between two checks of a link's liveness."""
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
        """Time in seconds for which a result and a partial body are kept after a link is lost."""
        return 10 * self.peer_timeout


class Transport(Protocol):
    """A way to carry messages, selected by URL scheme. It is registered as ``transport`` under that scheme."""

    in_process: bool
    """True if links stay within this process, so that they need no authentication."""
    brokered: bool
    """True if many nodes share one address, such as the address of a broker."""

    def check_url(
        self, url: str, tls: TlsConfig | None = None, *, encrypt_payloads: bool = False, is_listening: bool = False
    ) -> None:
        """Raise UsageError unless the URL is valid for this transport and matches the other arguments.

        ``tls`` requires an encrypted transport. With ``encrypt_payloads``, no intermediary can read the messages.
        With ``is_listening``, the URL is one to listen at, which may require more than a URL to connect to.
        """

    def connect(
        self, url: str, limits: Limits, node: str = "", tls: TlsConfig | None = None, *, encrypt_payloads: bool = False
    ) -> Awaitable[Channel]:
        """Connect to ``node`` once and return the channel.

        An encrypted transport accepts only a certificate issued to ``node``, or to the URL's host if ``node`` is
        empty. Raise Unreachable if the connection fails, and UsageError if the URL is not valid.
        """

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
        """Serve ``node`` while the context is open, and yield its URL. Raise UsageError if that fails."""
