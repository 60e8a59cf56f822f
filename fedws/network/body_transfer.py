"""How the bodies of messages travel between two nodes: from the beginning, or from where a lost link cut one off.

A body above one chunk has its digest in the message's header. When a link is lost, the receiver keeps what has come of
such a body; on the next link it says how much that is, and the sender leaves as much out. At the end the whole body
must be the one of the digest.

Where both sides have an object store, larger bodies go through that; the message then has the digest and no body.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Mapping

from fedws.core.errors import ProtocolError, StoreError, Undelivered
from fedws.core.limits import CHUNK as CHUNK
from fedws.core.limits import USUAL, Accepted
from fedws.network import body_digest
from fedws.network.stored_bodies import Blobs
from fedws.network.transfer_progress import Progress
from fedws.protocol import encoder
from fedws.protocol.decoder import Decoder, Partial
from fedws.protocol.messages import Message


class Transfers:
    """The bodies to and from one peer, over all links to it."""

    def __init__(
        self,
        blobs: Blobs | None = None,
        peer: str = "",
        *,
        keep: bool = False,
        replaced: Callable[[], object] = lambda: None,
        allowed: Callable[[], int] | None = None,
    ) -> None:
        """With ``keep`` a whole body stays too, until :meth:`forget`, or the next one begins.

        ``allowed`` returns the bytes of the largest message that may come now; None: whatever the link takes.

        ``peer`` is the other node's id, under which its blobs are. ``replaced`` is called when another body begins to
        arrive than the one that is here.
        """
        self._blobs = blobs
        self._peer = peer
        self._keep = keep
        self._replaced = replaced
        self._allowed = allowed
        self._here: Partial | None = None
        self._there: dict[str, int] = {}
        self._fetches = False
        self._accepted = USUAL
        self.inside = False
        """Whether a message had begun to arrive, and was not whole, when the last link ended."""
        self.progress = Progress()
        """How far the bodies of the request that is open have come."""
        self._stored = ""
        self.sent = self.received = 0
        """Bytes to and from the object store."""

    @property
    def held(self) -> dict[str, int]:
        """What this side has of a body, to be told to the other side on a new link: bytes by digest."""
        return {} if self._here is None else {self._here.digest: self._here.filled}

    @property
    def fetches(self) -> bool:
        """Whether this side has a store, to be told to the other side."""
        return self._blobs is not None

    def tell(self, held: Mapping[str, int]) -> None:
        """What the other side has, as it says."""
        self._there = dict(held)

    def tell_store(self, fetches: bool) -> None:
        """Whether the other side has a store, as it says."""
        self._fetches = fetches

    def tell_limits(self, accepted: Accepted) -> None:
        """What the other side accepts, as it says; nothing else is sent."""
        self._accepted = accepted

    def forget(self) -> None:
        """The body that is here is of no use any more."""
        self._here = None

    def release(self) -> None:
        """Nor is the one that is in the store for the other side, which may take as long as it likes to fetch it."""
        self._keep_stored("")

    async def encode(self, message: Message) -> encoder.Encoded:
        """A message as it should travel now. Raises TooLarge and UsageError, as :func:`fedws.protocol.encoder.encode`
        does."""
        encoded = encoder.encode(message, self._accepted)
        store = self._blobs if self._fetches and self._blobs and encoded.body_size > self._blobs.above else None
        if encoded.body_size <= CHUNK and store is None:
            return encoded
        digest = await asyncio.to_thread(body_digest.digest, getattr(message, "tensors", {}), encoded.body)
        there, self._there = self._there.get(digest, 0), {}  # of another body, what is there is dropped when this comes
        if store is not None:
            try:
                self.sent += await store.put(digest, encoded.body)
            except StoreError as error:
                store.complain(error)
                self._keep_stored("")
            else:
                self._keep_stored(digest)
                return encoded.stored(digest, self._accepted)
        there = min(there, encoded.body_size)
        self.progress.sent(there)
        offset = there if there == encoded.body_size else there // CHUNK * CHUNK
        return encoded.named(digest, offset, self._accepted)

    @contextlib.contextmanager
    def decoding(self, limit: int) -> Iterator[Decoder]:
        """A decoder for the next message; what has come of its body stays here, however the context ends."""
        decoder = Decoder(limit, self._begun, self._allowed)
        try:
            yield decoder
        finally:
            self.inside = decoder.inside
            if decoder.digest is not None:
                self._here = decoder.partial
                self.progress.received(0 if self._here is None else self._here.filled)

    async def message(self, decoder: Decoder) -> Message:
        """The message that has come. Raises ProtocolError also when its body is not the one of its digest.

        Raises Undelivered when its body is in a store from which it cannot be had.
        """
        here, self._here = self._here, None
        if decoder.stored:
            self.inside = True
            await self._fetch(decoder)
            self.inside = False
        elif decoder.digest is not None:
            await asyncio.to_thread(decoder.verify)
        message = decoder.message()
        if decoder.digest is None or self._keep:
            self._here = here
        return message

    async def _fetch(self, decoder: Decoder) -> None:
        assert decoder.digest is not None
        try:
            if self._blobs is None:
                raise StoreError("its tensors are in an object store, and there is none here; see --blobs")
            await self._blobs.get(self._peer, decoder.digest, decoder.room)
            decoder.fill()
            await asyncio.to_thread(decoder.verify)
        except (StoreError, ProtocolError) as error:
            raise Undelivered(decoder.bare(), str(error)) from None
        self.received += len(decoder.room)

    def _keep_stored(self, digest: str) -> None:
        """What is in the store for the other side is now this, and no more what was before."""
        if self._stored and self._blobs is not None:
            self._blobs.release(self._stored)
        self._stored = digest

    def _begun(self, digest: str) -> Partial | None:
        if self._here is not None and self._here.digest == digest:
            return self._here
        self._here = None
        self._replaced()
        return None
