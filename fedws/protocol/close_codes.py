"""Close codes: why a link is closed, in a form that programs decide by. Reasons are text for people only."""

from enum import IntEnum

from fedws.core.errors import LinkError, LinkLost, MessageRejected, ProtocolError, TakenOver
from fedws.core.untrusted_text import to_printable


class CloseCode(IntEnum):
    """A close code of a websocket (RFC 6455, section 7.4). Those from 4000 on are fedws's own."""

    NORMAL_CLOSURE = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    INVALID_DATA = 1007
    MESSAGE_TOO_BIG = 1009
    APPLICATION_ERROR = 4000
    """Closed for a reason that the text states; the link may be opened again."""
    TAKEN_OVER = 4001
    """A newer link of the same run has the node; the side that reads this must not connect again."""
    MESSAGE_REJECTED = 4002
    """A message broke the protocol or a limit; the same message would do so again."""


MAX_REASON_BYTES = 123
"""Longest reason of a close in bytes (RFC 6455, section 5.5)."""
_REJECTION_CODES = (
    CloseCode.PROTOCOL_ERROR,
    CloseCode.INVALID_DATA,
    CloseCode.MESSAGE_TOO_BIG,
    CloseCode.MESSAGE_REJECTED,
)


def truncate_reason(reason: str) -> str:
    """Return the begin of a reason that fits into a close: at most :data:`MAX_REASON_BYTES` bytes of whole characters.

    >>> len(truncate_reason("\u00fc" * 100))
    61
    """
    return reason.encode()[:MAX_REASON_BYTES].decode(errors="ignore")


def to_close_code(error: LinkError) -> CloseCode:
    """Return the code to close a link with, for the error that ends it on this side.

    >>> to_close_code(ProtocolError("not a fedws message")).name, to_close_code(LinkLost("silent")).name
    ('MESSAGE_REJECTED', 'APPLICATION_ERROR')
    """
    if isinstance(error, ProtocolError):
        return CloseCode.MESSAGE_REJECTED
    return CloseCode.TAKEN_OVER if isinstance(error, TakenOver) else CloseCode.APPLICATION_ERROR


def to_link_error(code: int, reason: str) -> LinkLost:
    """Return the error of a link that the other side closed with this code and reason.

    >>> type(to_link_error(4001, "any text")).__name__, str(to_link_error(1009, ""))
    ('TakenOver', 'the other side does not take such a message')
    """
    text = to_printable(reason)
    if code in _REJECTION_CODES:
        return MessageRejected(text or "the other side does not take such a message")
    if code == CloseCode.TAKEN_OVER:
        return TakenOver(text or "taken over by the same run")
    return LinkLost(text or "closed by the other side")
