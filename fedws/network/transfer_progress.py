"""How far the transfers of one request have come, over all links to a node; pure."""

from fedws.core.limits import CHUNK_BYTES


class TransferProgress:
    """The furthest byte of the request's body at the node, and of the answer's body here.

    Only whole chunks count, and only beyond the furthest byte that was reached before: a peer that states another
    digest, or the same bytes again, makes no progress. So one request can progress a bounded number of times.
    """

    def __init__(self) -> None:
        self._sent_chunks = self._received_chunks = 0
        self._progressed = False

    def record_sent(self, num_bytes: int) -> None:
        """Note that the node holds so many bytes of the request's body."""
        self._progressed |= num_bytes // CHUNK_BYTES > self._sent_chunks
        self._sent_chunks = max(self._sent_chunks, num_bytes // CHUNK_BYTES)

    def record_received(self, num_bytes: int) -> None:
        """Note that so many bytes of the answer's body are here."""
        self._progressed |= num_bytes // CHUNK_BYTES > self._received_chunks
        self._received_chunks = max(self._received_chunks, num_bytes // CHUNK_BYTES)

    def pop_progress(self) -> bool:
        """Return whether there was progress since the last call."""
        moved, self._progressed = self._progressed, False
        return moved

    def reset(self) -> None:
        """Begin with another request."""
        self._sent_chunks = self._received_chunks = 0
        self._progressed = False
