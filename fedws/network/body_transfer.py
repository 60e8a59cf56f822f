"""The transfer of message bodies between two nodes, which resumes after a lost link.

A body above one chunk has its digest in the message's header. When a link is lost, the receiver keeps the received part
of such a body. On the next link it declares the number of bytes that it has, and the sender leaves these out. At the
end, the whole body must match the digest.

If both sides have an object store, larger bodies go through it. The message then contains the digest and no body.
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
    """The body transfers to and from one peer, over all links to it."""

    def __init__(
        self,
        stored_bodies: StoredBodies | None = None,
        peer: str = "",
        *,
        keep_complete: bool = False,
        on_replaced: Callable[[], object] = lambda: None,
        get_max_answer_bytes: Callable[[], int] | None = None,
    ) -> None:
        """Create the state of the transfers with the node whose id is ``peer``.

        With ``keep_complete``, a complete body is also kept, until ``discard_partial`` or the next body.
        ``on_replaced`` is called when the peer starts to send a body other than the kept one.
        ``get_max_answer_bytes`` returns the size in bytes of the largest message that is accepted at the time. Without
        it, only the limit of the link applies.
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
        """True if a message was received only in part when the last link ended."""
        self.progress = TransferProgress()
        """Progress of the bodies of the open request and its answer."""
        self._stored_digest = ""
        self.store_bytes_sent = self.store_bytes_received = 0
        """Number of bytes sent to and received from the object store."""

    @property
    def resume_offsets(self) -> dict[str, int]:
        """Number of bytes by digest that this side has of a body, to be declared to the peer on a new link."""
        return {} if self._partial_body is None else {self._partial_body.digest: self._partial_body.received_bytes}

    @property
    def has_body_store(self) -> bool:
        """True if this side has an object store, which is declared to the peer."""
        return self._stored_bodies is not None

    def set_peer_offsets(self, offsets: Mapping[str, int]) -> None:
        """Set the number of bytes by digest that the peer declares to have."""
        self._peer_offsets = dict(offsets)

    def set_peer_has_body_store(self, has_body_store: bool) -> None:
        """Set whether the peer declares to have an object store."""
        self._peer_has_body_store = has_body_store

    def set_peer_limits(self, limits: MessageLimits) -> None:
        """Set the limits on messages that the peer declares; messages beyond them are not sent."""
        self._peer_limits = limits

    def discard_partial(self) -> None:
        """Discard the received part of a body."""
        self._partial_body = None

    def release_stored(self) -> None:
        """Release the body that is in the store for the peer, which may fetch it at any time before this call."""
        self._replace_stored("")

    async def encode(self, message: Message) -> encoder.EncodedMessage:
        """Return a message in the form in which it should be sent now.

        Raise MessageTooLarge and UsageError as ``fedws.protocol.encoder.encode_message`` does.
        """
        encoded = encoder.encode_message(message, self._peer_limits)
        store = (
            self._stored_bodies
            if self._peer_has_body_store and self._stored_bodies and encoded.body_size > self._stored_bodies.min_bytes
            else None
        )
        if encoded.body_size <= CHUNK_BYTES and store is None:
            return encoded
        digest = await asyncio.to_thread(body_digest.hash_body, getattr(message, "tensors", {}), encoded.body)
        # The peer drops its part of any other body as soon as it receives this one.
        peer_offset, self._peer_offsets = self._peer_offsets.get(digest, 0), {}
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
        """Yield a decoder for the next message, and keep the received part of its body when the context ends."""
        decoder = Decoder(max_bytes, self._find_partial, self._get_max_answer_bytes)
        try:
            yield decoder
        finally:
            self.interrupted = decoder.is_incomplete
            if decoder.digest is not None:
                self._partial_body = decoder.partial_body
                self.progress.record_received(0 if self._partial_body is None else self._partial_body.received_bytes)

    async def read_message(self, decoder: Decoder) -> Message:
        """Return the received message.

        Raise ProtocolError if the message is not valid or its body does not match its digest. Raise BodyUnavailable if
        the body is in an object store and cannot be fetched.
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
                raise StoreError("the tensors are in an object store, and this node has none; set --body-store")
            await self._stored_bodies.get(self._peer, decoder.digest, decoder.body_view)
            decoder.mark_body_complete()
            await asyncio.to_thread(decoder.verify_digest)
        except (StoreError, ProtocolError) as error:
            raise BodyUnavailable(decoder.build_message_without_tensors(), str(error)) from None
        self.store_bytes_received += len(decoder.body_view)

    def _replace_stored(self, digest: str) -> None:
        """Record the digest of the body in the store for the peer, and release the previous one."""
        if self._stored_digest and self._stored_bodies is not None:
            self._stored_bodies.release(self._stored_digest)
        self._stored_digest = digest

    def _find_partial(self, digest: str) -> PartialBody | None:
        if self._partial_body is not None and self._partial_body.digest == digest:
            return self._partial_body
        self._partial_body = None
        self._on_replaced()
        return None
