"""Size limits of messages and data sets; each side of a link declares its message limits in the handshake."""

from dataclasses import dataclass

from fedws.core.errors import MessageTooLarge

DEFAULT_MAX_MESSAGE_BYTES = 2**30
"""Default of the maximum size in bytes of a message, with its header and body."""
MAX_MESSAGE_TENSORS = 10_000
"""Maximum number of tensors in a message."""
CHUNK_BYTES = 2**20
"""Maximum size in bytes of a frame; an interrupted body is resumed after its last complete chunk."""
MAX_HEADER_BYTES = 2**19
"""Maximum size in bytes of a header, which contains the names of the tensors, the settings and the metrics."""

DEFAULT_MAX_FEATURE_BYTES = 2**34
"""Default of the maximum size in bytes of the features and labels of all workers that a run stores."""
MAX_EXAMPLES = 2**40
"""Maximum number of samples of a node."""
MAX_DECLARED_LABELS = 1000
"""Maximum number of labels that a node declares; a log line with more labels would not be readable."""
MAX_CLASSES = 100_000
"""Maximum number of classes that are counted; declared labels are smaller, and histograms are not longer."""


@dataclass(frozen=True)
class MessageLimits:
    """The limits of the receiver of messages."""

    max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES
    max_tensors: int = MAX_MESSAGE_TENSORS
    peer: str = "the other side"
    """Name of the receiver in errors."""

    def check(self, header_bytes: int, num_tensors: int, message_bytes: int) -> None:
        """Check the sizes of a message, of which ``message_bytes`` includes the header.

        Raises MessageTooLarge if the message exceeds a limit.

        >>> try:
        ...     MessageLimits(8_000_000, peer="bob").check(300, 4, 20_000_000)
        ... except MessageTooLarge as error:
        ...     print(error)
        20,000,000 bytes, which exceeds bob's limit of 8,000,000 bytes; start bob with --max-message-bytes 20971520
        """
        if header_bytes > MAX_HEADER_BYTES:
            raise MessageTooLarge(
                f"a header of {header_bytes:,} bytes (names and settings), "
                f"which exceeds the limit of {MAX_HEADER_BYTES:,} bytes"
            )
        if num_tensors > self.max_tensors:
            limit = f"{self.peer}'s limit of {self.max_tensors:,} tensors"
            raise MessageTooLarge(f"{num_tensors:,} tensors, which exceeds {limit}")
        if message_bytes > self.max_message_bytes:
            enough = -(-message_bytes // CHUNK_BYTES) * CHUNK_BYTES  # the next message may be a few bytes longer
            limit = f"{self.peer}'s limit of {self.max_message_bytes:,} bytes"
            advice = f"start {self.peer} with --max-message-bytes {enough}"
            raise MessageTooLarge(f"{message_bytes:,} bytes, which exceeds {limit}; {advice}")


DEFAULT_MESSAGE_LIMITS = MessageLimits()
NO_MESSAGE_LIMITS = MessageLimits(2**62)
"""Limits for messages that stay on this machine."""
