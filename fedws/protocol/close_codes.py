"""Close codes: why a link is closed, in a form that programs decide by. Reasons are text for people only."""

from enum import IntEnum

from fedws.core.errors import LinkError, LinkLost, NotTaken, ProtocolError, TakenOver, printable


class CloseCode(IntEnum):
    """A close code of a websocket (RFC 6455, section 7.4). Those from 4000 on are fedws's own."""

    DONE = 1000
    ENDING = 1001
    BROKEN_FRAME = 1002
    NOT_UTF8 = 1007
    TOO_LARGE = 1009
    GIVEN_UP = 4000
    """Closed for a reason that the text states; the link may be opened again."""
    TAKEN_OVER = 4001
    """A newer link of the same run has the node; the side that reads this must not connect again."""
    NOT_TAKEN = 4002
    """A message broke the protocol or a limit; the same message would do so again."""


_NOT_TAKEN = (CloseCode.BROKEN_FRAME, CloseCode.NOT_UTF8, CloseCode.TOO_LARGE, CloseCode.NOT_TAKEN)


def code_of(error: LinkError) -> CloseCode:
    """Return the code to close a link with, for the error that ends it on this side.

    >>> code_of(ProtocolError("not a fedws message")).name, code_of(LinkLost("silent")).name
    ('NOT_TAKEN', 'GIVEN_UP')
    """
    if isinstance(error, ProtocolError):
        return CloseCode.NOT_TAKEN
    return CloseCode.TAKEN_OVER if isinstance(error, TakenOver) else CloseCode.GIVEN_UP


def error_of(code: int, reason: str) -> LinkLost:
    """Return the error of a link that the other side closed with this code and reason.

    >>> type(error_of(4001, "any text")).__name__, str(error_of(1009, ""))
    ('TakenOver', 'the other side does not take such a message')
    """
    text = printable(reason)
    if code in _NOT_TAKEN:
        return NotTaken(text or "the other side does not take such a message")
    if code == CloseCode.TAKEN_OVER:
        return TakenOver(text or "taken over by the same run")
    return LinkLost(text or "closed by the other side")
