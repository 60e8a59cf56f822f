"""How the bodies of messages travel between two nodes: from the beginning, or from where a lost link cut one off.

A body above one chunk has its digest in the message's header. When a link is lost, the receiver keeps what has come of
such a body; on the next link it says how much that is, and the sender leaves as much out. At the end the whole body
must be the one of the digest.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Mapping

from fedws import digests, wire
from fedws.decoder import Decoder, Partial
from fedws.messages import Message

CHUNK = wire.FRAGMENT
"""Bytes; a body goes on from the last whole chunk that arrived of it."""


class Transfers:
    """The bodies to and from one peer, over all links to it."""

    def __init__(self, *, keep: bool = False, replaced: Callable[[], object] = lambda: None) -> None:
        """With ``keep`` a whole body stays too, until :meth:`forget`, or the next one begins.

        ``replaced`` is called when another body begins to arrive than the one that is here.
        """
        self._keep = keep
        self._replaced = replaced
        self._here: Partial | None = None
        self._there: dict[str, int] = {}

    @property
    def held(self) -> dict[str, int]:
        """What this side has of a body, to be told to the other side on a new link: bytes by digest."""
        return {} if self._here is None else {self._here.digest: self._here.filled}

    def tell(self, held: Mapping[str, int]) -> None:
        """What the other side has, as it says."""
        self._there = dict(held)

    def forget(self) -> None:
        """The body that is here is of no use any more."""
        self._here = None

    async def encode(self, message: Message, limit: int) -> wire.Encoded:
        """A message as it should travel now. Raises UsageError, as :func:`fedws.wire.encode` does."""
        encoded = wire.encode(message, limit)
        if encoded.body_size <= CHUNK:
            return encoded
        digest = await asyncio.to_thread(digests.digest, getattr(message, "tensors", {}), encoded.body)
        there = min(self._there.get(digest, 0), encoded.body_size)
        self._there = {}  # what the other side has of another body, it drops when this one comes
        return encoded.named(digest, there if there == encoded.body_size else there // CHUNK * CHUNK, limit)

    @contextlib.contextmanager
    def decoding(self, limit: int) -> Iterator[Decoder]:
        """A decoder for the next message; what has come of its body stays here, however the context ends."""
        decoder = Decoder(limit, self._begun)
        try:
            yield decoder
        finally:
            if decoder.digest is not None:
                self._here = decoder.partial

    async def message(self, decoder: Decoder) -> Message:
        """The message that has come. Raises ProtocolError also when its body is not the one of its digest."""
        here, self._here = self._here, None
        if decoder.digest is not None:
            await asyncio.to_thread(decoder.verify)
        message = decoder.message()
        if decoder.digest is None or self._keep:
            self._here = here
        return message

    def _begun(self, digest: str) -> Partial | None:
        if self._here is not None and self._here.digest == digest:
            return self._here
        self._here = None
        self._replaced()
        return None
