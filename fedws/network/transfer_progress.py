"""The progress of the transfers of one request, over all links to a node. This module does no I/O."""

from fedws.core.limits import CHUNK_BYTES


class TransferProgress:
    """The largest offsets reached in the request's body at the node, and in the answer's body at this side.

    Only whole chunks beyond the largest offset so far count as progress. A peer that states another digest, or sends
    the same bytes again, makes no progress. One request can therefore progress only a bounded number of times.
    """

    def __init__(self) -> None:
        self._sent_chunks = self._received_chunks = 0
        self._progressed = False

    def record_sent(self, num_bytes: int) -> None:
        """Record that the node holds ``num_bytes`` bytes of the request's body."""
        self._progressed |= num_bytes // CHUNK_BYTES > self._sent_chunks
        self._sent_chunks = max(self._sent_chunks, num_bytes // CHUNK_BYTES)

    def record_received(self, num_bytes: int) -> None:
        """Record that this side holds ``num_bytes`` bytes of the answer's body."""
        self._progressed |= num_bytes // CHUNK_BYTES > self._received_chunks
        self._received_chunks = max(self._received_chunks, num_bytes // CHUNK_BYTES)

    def pop_progress(self) -> bool:
        """Return whether there was progress since the last call."""
        progressed, self._progressed = self._progressed, False
        return progressed

    def reset(self) -> None:
        """Start with a new request."""
        self._sent_chunks = self._received_chunks = 0
        self._progressed = False
