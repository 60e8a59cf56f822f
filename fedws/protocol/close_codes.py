"""Close codes, by which programs decide how to react to a closed link; reasons are text for people only."""

from enum import IntEnum

from fedws.core.errors import LinkError, LinkLost, MessageRejected, ProtocolError, RunEnded, TakenOver
from fedws.core.untrusted_text import to_printable


class CloseCode(IntEnum):
    """A WebSocket close code (RFC 6455, section 7.4). Codes from 4000 on are specific to fedws."""

    NORMAL_CLOSURE = 1000
    """Closed because the coordinator has ended its run, or after a refusal."""
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    INVALID_DATA = 1007
    MESSAGE_TOO_BIG = 1009
    APPLICATION_ERROR = 4000
    """Closed for the reason in the text; the link may be opened again."""
    TAKEN_OVER = 4001
    """Closed because a newer link of the same run has the node; the peer that receives this must not reconnect."""
    MESSAGE_REJECTED = 4002
    """Closed because a message broke the protocol or a limit; sending it again would fail again."""


MAX_REASON_BYTES = 123
"""Maximum length of a close reason in bytes (RFC 6455, section 5.5)."""
_REJECTION_CODES = (
    CloseCode.PROTOCOL_ERROR,
    CloseCode.INVALID_DATA,
    CloseCode.MESSAGE_TOO_BIG,
    CloseCode.MESSAGE_REJECTED,
)


def truncate_reason(reason: str) -> str:
    """Return the start of a reason, truncated at a character boundary to ``MAX_REASON_BYTES`` bytes.

    >>> len(truncate_reason("\u00fc" * 100))
    61
    """
    return reason.encode()[:MAX_REASON_BYTES].decode(errors="ignore")


def to_close_code(error: LinkError) -> CloseCode:
    """Return the code to close a link with, given the error that ends it on this side.

    >>> to_close_code(ProtocolError("not a fedws message")).name, to_close_code(LinkLost("silent")).name
    ('MESSAGE_REJECTED', 'APPLICATION_ERROR')
    """
    if isinstance(error, ProtocolError):
        return CloseCode.MESSAGE_REJECTED
    return CloseCode.TAKEN_OVER if isinstance(error, TakenOver) else CloseCode.APPLICATION_ERROR


def to_link_error(code: int, reason: str) -> LinkLost:
    """Return the error of a link that the peer closed with this code and reason.

    >>> type(to_link_error(4001, "any text")).__name__, str(to_link_error(1009, ""))
    ('TakenOver', 'the peer rejected a message')
    """
    text = to_printable(reason)
    if code in _REJECTION_CODES:
        return MessageRejected(text or "the peer rejected a message")
    if code == CloseCode.TAKEN_OVER:
        return TakenOver(text or "taken over by the same run")
    if code == CloseCode.NORMAL_CLOSURE:
        return RunEnded(text or "closed by the peer")
    return LinkLost(text or "closed by the peer")
