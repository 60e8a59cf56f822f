"""How the bodies of messages travel between two nodes: from the beginning, or from where a lost link cut one off.

A body above one chunk has its digest in the message's header. When a link is lost, the receiver keeps what has come of
such a body; on the next link it says how much that is, and the sender leaves as much out. At the end the whole body
must be the one of the digest.

Where both sides have an object store, larger bodies go through that; the message then has the digest and no body.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Mapping

from fedws.core.errors import BodyUnavailable, ProtocolError, StoreError
from fedws.core.limits import CHUNK_BYTES, DEFAULT_MESSAGE_LIMITS, MessageLimits
from fedws.network import body_digest
from fedws.network.stored_bodies import StoredBodies
from fedws.network.transfer_progress import TransferProgress
from fedws.protocol import encoder
from fedws.protocol.decoder import Decoder, PartialBody
from fedws.protocol.messages import Message


class BodyTransfers:
    """The bodies to and from one peer, over all links to it."""

    def __init__(
        self,
        stored_bodies: StoredBodies | None = None,
        peer: str = "",
        *,
        keep_complete: bool = False,
        on_replaced: Callable[[], object] = lambda: None,
        get_max_answer_bytes: Callable[[], int] | None = None,
    ) -> None:
        """With ``keep_complete`` a whole body stays too, until :meth:`discard_partial`, or the next one begins.

        ``get_max_answer_bytes`` returns the bytes of the largest message that may come now; None: whatever the link
        takes.

        ``peer`` is the other node's id, under which its blobs are. ``on_replaced`` is called when another body begins
        to arrive than the one that is here.
        """
        self._stored_bodies = stored_bodies
        self._peer = peer
        self._keep_complete = keep_complete
        self._on_replaced = on_replaced
        self._get_max_answer_bytes = get_max_answer_bytes
        self._partial_body: PartialBody | None = None
        self._peer_offsets: dict[str, int] = {}
        self._peer_has_body_store = False
        self._peer_limits = DEFAULT_MESSAGE_LIMITS
        self.interrupted = False
        """Whether a message had begun to arrive, and was not whole, when the last link ended."""
        self.progress = TransferProgress()
        """How far the bodies of the request that is open have come."""
        self._stored_digest = ""
        self.store_bytes_sent = self.store_bytes_received = 0
        """Bytes to and from the object store."""

    @property
    def resume_offsets(self) -> dict[str, int]:
        """What this side has of a body, to be told to the other side on a new link: bytes by digest."""
        return {} if self._partial_body is None else {self._partial_body.digest: self._partial_body.received_bytes}

    @property
    def has_body_store(self) -> bool:
        """Whether this side has a store, to be told to the other side."""
        return self._stored_bodies is not None

    def set_peer_offsets(self, offsets: Mapping[str, int]) -> None:
        """What the other side has, as it says."""
        self._peer_offsets = dict(offsets)

    def set_peer_has_body_store(self, has_body_store: bool) -> None:
        """Whether the other side has a store, as it says."""
        self._peer_has_body_store = has_body_store

    def set_peer_limits(self, limits: MessageLimits) -> None:
        """What the other side accepts, as it says; nothing else is sent."""
        self._peer_limits = limits

    def discard_partial(self) -> None:
        """The body that is here is of no use any more."""
        self._partial_body = None

    def release_stored(self) -> None:
        """Nor is the one that is in the store for the other side, which may take as long as it likes to fetch it."""
        self._replace_stored("")

    async def encode(self, message: Message) -> encoder.EncodedMessage:
        """A message as it should travel now. Raises MessageTooLarge and UsageError, as
        :func:`fedws.protocol.encoder.encode_message` does."""
        encoded = encoder.encode_message(message, self._peer_limits)
        store = (
            self._stored_bodies
            if self._peer_has_body_store and self._stored_bodies and encoded.body_size > self._stored_bodies.min_bytes
            else None
        )
        if encoded.body_size <= CHUNK_BYTES and store is None:
            return encoded
        digest = await asyncio.to_thread(body_digest.hash_body, getattr(message, "tensors", {}), encoded.body)
        peer_offset, self._peer_offsets = (
            self._peer_offsets.get(digest, 0),
            {},
        )  # of another body, what is there is dropped when this comes
        if store is not None:
            try:
                self.store_bytes_sent += await store.put(digest, encoded.body)
            except StoreError as error:
                store.log_store_error(error)
                self._replace_stored("")
            else:
                self._replace_stored(digest)
                return encoded.without_body(digest, self._peer_limits)
        peer_offset = min(peer_offset, encoded.body_size)
        self.progress.record_sent(peer_offset)
        offset = peer_offset if peer_offset == encoded.body_size else peer_offset // CHUNK_BYTES * CHUNK_BYTES
        return encoded.with_offset(digest, offset, self._peer_limits)

    @contextlib.contextmanager
    def open_decoder(self, max_bytes: int) -> Iterator[Decoder]:
        """A decoder for the next message; what has come of its body stays here, however the context ends."""
        decoder = Decoder(max_bytes, self._find_partial, self._get_max_answer_bytes)
        try:
            yield decoder
        finally:
            self.interrupted = decoder.is_incomplete
            if decoder.digest is not None:
                self._partial_body = decoder.partial_body
                self.progress.record_received(0 if self._partial_body is None else self._partial_body.received_bytes)

    async def read_message(self, decoder: Decoder) -> Message:
        """The message that has come. Raises ProtocolError also when its body is not the one of its digest.

        Raises Undelivered when its body is in a store from which it cannot be had.
        """
        partial_body, self._partial_body = self._partial_body, None
        if decoder.is_body_stored:
            self.interrupted = True
            await self._fetch_body(decoder)
            self.interrupted = False
        elif decoder.digest is not None:
            await asyncio.to_thread(decoder.verify_digest)
        message = decoder.build_message()
        if decoder.digest is None or self._keep_complete:
            self._partial_body = partial_body
        return message

    async def _fetch_body(self, decoder: Decoder) -> None:
        assert decoder.digest is not None
        try:
            if self._stored_bodies is None:
                raise StoreError("its tensors are in an object store, and there is none here; see --body-store")
            await self._stored_bodies.get(self._peer, decoder.digest, decoder.body_view)
            decoder.mark_body_complete()
            await asyncio.to_thread(decoder.verify_digest)
        except (StoreError, ProtocolError) as error:
            raise BodyUnavailable(decoder.build_message_without_tensors(), str(error)) from None
        self.store_bytes_received += len(decoder.body_view)

    def _replace_stored(self, digest: str) -> None:
        """What is in the store for the other side is now this, and no more what was before."""
        if self._stored_digest and self._stored_bodies is not None:
            self._stored_bodies.release(self._stored_digest)
        self._stored_digest = digest

    def _find_partial(self, digest: str) -> PartialBody | None:
        if self._partial_body is not None and self._partial_body.digest == digest:
            return self._partial_body
        self._partial_body = None
        self._on_replaced()
        return None
