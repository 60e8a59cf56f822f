"""What one side of a link accepts of a message; both sides state theirs in the handshake."""

from dataclasses import dataclass

from fedws.core.errors import TooLarge

MESSAGE = 2**30
"""Largest message in bytes, header and body, unless the owner of a node sets another."""
TENSORS = 10_000
"""Tensors in a message."""
CHUNK = 2**20
"""Bytes of the largest frame; a body continues from the last whole chunk that arrived of it."""
HEADER = 2**19
"""Bytes of a header; it holds the names of the tensors, the settings and the metrics."""

FEATURES = 2**34
"""Bytes of features and labels that a run stores of all its workers, unless it sets another bound."""
SAMPLES = 2**40
"""Samples that a node can hold."""
LABELS = 1000
"""Labels that a node declares; more are not classes that a log could tell apart."""
CLASSES = 100_000
"""Classes of a model that are counted one by one: a declared label is below it, a histogram not longer."""


@dataclass(frozen=True)
class Accepted:
    """The limits of the side that receives."""

    message: int = MESSAGE
    tensors: int = TENSORS
    peer: str = "the other side"
    """The name of that side, for errors."""

    def check(self, header: int, tensors: int, size: int) -> None:
        """Raise TooLarge unless a message with so many bytes of header, tensors, and bytes in all is accepted.

        >>> Accepted(message=8_000_000, peer="bob").check(300, 4, 20_000_000)
        Traceback (most recent call last):
        fedws.core.errors.TooLarge: 20,000,000 bytes, and bob accepts at most 8,000,000; give bob --max-message 20971520
        """
        if header > HEADER:
            raise TooLarge(f"{header:,} bytes of names and settings, and a message holds at most {HEADER:,}")
        if tensors > self.tensors:
            raise TooLarge(f"{tensors:,} tensors, and {self.peer} accepts at most {self.tensors:,}")
        if size > self.message:
            enough = -(-size // CHUNK) * CHUNK  # the next message may be some bytes longer
            what = f"{size:,} bytes, and {self.peer} accepts at most {self.message:,}"
            raise TooLarge(f"{what}; give {self.peer} --max-message {enough}")


USUAL = Accepted()
ANY = Accepted(2**62)
"""For messages that stay on this machine."""
