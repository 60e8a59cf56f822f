"""How far the transfers of one request have come, over all links to a node; pure."""

from fedws.core.limits import CHUNK


class Progress:
    """The furthest byte of the request's body at the node, and of the answer's body here.

    Only whole chunks count, and only beyond the furthest byte that was reached before: a peer that states another
    digest, or the same bytes again, makes no progress. So one request can progress a bounded number of times.
    """

    def __init__(self) -> None:
        self._sent = self._received = 0
        self._moved = False

    def sent(self, held: int) -> None:
        """Note that the node holds so many bytes of the request's body."""
        self._moved |= held // CHUNK > self._sent
        self._sent = max(self._sent, held // CHUNK)

    def received(self, held: int) -> None:
        """Note that so many bytes of the answer's body are here."""
        self._moved |= held // CHUNK > self._received
        self._received = max(self._received, held // CHUNK)

    def take(self) -> bool:
        """Return whether there was progress since the last call."""
        moved, self._moved = self._moved, False
        return moved

    def restart(self) -> None:
        """Begin with another request."""
        self._sent = self._received = 0
        self._moved = False
