"""What one side of a link accepts of a message; both sides state theirs in the handshake."""

from dataclasses import dataclass

from fedws.core.errors import MessageTooLarge

DEFAULT_MAX_MESSAGE_BYTES = 2**30
"""Largest message in bytes, header and body, unless the owner of a node sets another."""
MAX_MESSAGE_TENSORS = 10_000
"""Tensors in a message."""
CHUNK_BYTES = 2**20
"""Bytes of the largest frame; a body continues from the last whole chunk that arrived of it."""
MAX_HEADER_BYTES = 2**19
"""Bytes of a header; it holds the names of the tensors, the settings and the metrics."""

DEFAULT_MAX_FEATURE_BYTES = 2**34
"""Bytes of features and labels that a run stores of all its workers, unless it sets another bound."""
MAX_EXAMPLES = 2**40
"""Samples that a node can hold."""
MAX_DECLARED_LABELS = 1000
"""Labels that a node declares; more are not classes that a log could tell apart."""
MAX_CLASSES = 100_000
"""Classes of a model that are counted one by one: a declared label is below it, a histogram not longer."""


@dataclass(frozen=True)
class MessageLimits:
    """The limits of the side that receives."""

    max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES
    max_tensors: int = MAX_MESSAGE_TENSORS
    peer: str = "the other side"
    """The name of that side, for errors."""

    def check(self, header_bytes: int, num_tensors: int, message_bytes: int) -> None:
        """Raise MessageTooLarge unless a message with so many bytes of header, tensors, and bytes in all is accepted.

        >>> try:
        ...     MessageLimits(8_000_000, peer="bob").check(300, 4, 20_000_000)
        ... except MessageTooLarge as error:
        ...     print(error)
        20,000,000 bytes, and bob accepts at most 8,000,000; give bob --max-message-bytes 20971520
        """
        if header_bytes > MAX_HEADER_BYTES:
            raise MessageTooLarge(
                f"{header_bytes:,} bytes of names and settings, and a message holds at most {MAX_HEADER_BYTES:,}"
            )
        if num_tensors > self.max_tensors:
            raise MessageTooLarge(f"{num_tensors:,} tensors, and {self.peer} accepts at most {self.max_tensors:,}")
        if message_bytes > self.max_message_bytes:
            enough = -(-message_bytes // CHUNK_BYTES) * CHUNK_BYTES  # the next message may be some bytes longer
            what = f"{message_bytes:,} bytes, and {self.peer} accepts at most {self.max_message_bytes:,}"
            raise MessageTooLarge(f"{what}; give {self.peer} --max-message-bytes {enough}")


DEFAULT_MESSAGE_LIMITS = MessageLimits()
NO_MESSAGE_LIMITS = MessageLimits(2**62)
"""For messages that stay on this machine."""
