"""The outgoing side of a link over a broker."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass


async def _do_nothing() -> None:
    pass


@dataclass(frozen=True)
class FrameSink:
    """The outgoing side of a link: the functions that publish its frames and report its events."""

    publish: Callable[[bytes | bytearray, bool], int]
    """Function that publishes a frame, reliably or not, and returns the packet size in bytes or raises LinkLost."""
    packet_size: Callable[[int], int]
    """Function from the size of a received frame to the size of its packet, both in bytes."""
    max_payload_bytes: int
    """Largest part of a message in one frame, in bytes."""
    has_tls: bool
    """True if the connection to the broker uses TLS."""
    log_dropped: Callable[[str], object]
    """Function that logs a dropped frame, described by its argument."""
    on_authenticated: Callable[[], None] = lambda: None
    """Callback when the peer is authenticated."""
    on_closing: Callable[[], None] = lambda: None
    """Callback before an authenticated link waits for the peer's CLOSE."""
    on_closed: Callable[[], Awaitable[None]] = _do_nothing
    """Callback when the link has ended."""
