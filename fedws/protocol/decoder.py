"""The decoder, which turns bytes in the format of ``fedws.protocol.encoder`` into messages; pure, without I/O."""

import dataclasses
import typing
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from hashlib import sha256
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from fedws.core.errors import ProtocolError
from fedws.core.limits import DEFAULT_MAX_MESSAGE_BYTES, MAX_HEADER_BYTES
from fedws.core.tensors import DTYPES
from fedws.core.untrusted_text import to_printable
from fedws.protocol.encoder import FRAGMENT_BYTES, MAGIC, PREFIX, PROTOCOL_VERSION, STORE_TRANSFER
from fedws.protocol.header import (
    ALIGNMENT_BYTES,
    Header,
    TensorRow,
    check_key_count,
    check_tensor_table,
    describe_schema_error,
    parse_header,
)
from fedws.protocol.messages import MESSAGE_TYPES, Message, list_header_fields


def _build_schema(kind: type[Message]) -> type[BaseModel]:
    """Return a strict schema of a message's fields, which rejects unknown, missing and wrongly typed fields."""
    hints = typing.get_type_hints(kind, include_extras=True)
    known: dict[str, Any] = {f.name: (hints[f.name], _get_default(f)) for f in list_header_fields(kind)}
    return create_model(kind.__name__, __config__=ConfigDict(strict=True, extra="forbid"), **known)


def _get_default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not MISSING:
        return Field(default_factory=field.default_factory)
    return ... if field.default is MISSING else field.default


_SCHEMAS = {name: _build_schema(kind) for name, kind in MESSAGE_TYPES.items()}
_TYPES_WITH_TENSORS = {name for name, kind in MESSAGE_TYPES.items() if any(f.name == "tensors" for f in fields(kind))}


@dataclass(frozen=True)
class PartialBody:
    """The received first bytes of a body, which may be complete."""

    digest: str
    buffer: torch.Tensor
    """Uint8 tensor of shape (size of the whole body in bytes,)."""
    received_bytes: int
    """Number of received bytes: whole chunks, or all bytes."""

    @property
    def is_complete(self) -> bool:
        """Return whether all bytes were received.

        A message may use a complete buffer, so it is never written again.
        """
        return self.received_bytes == len(self.buffer)


class Decoder:
    """A decoder of one message, which it receives in pieces of any size; any invalid byte raises ProtocolError.

    >>> from fedws.protocol.messages import Refusal
    >>> from fedws.protocol.encoder import encode_message
    >>> decoder = Decoder()
    >>> for piece in encode_message(Refusal(kind="busy", reason="later")).fragments():
    ...     decoder.feed(piece)
    >>> decoder.build_message()
    Refusal(kind='busy', reason='later')
    """

    def __init__(
        self,
        max_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
        find_partial: Callable[[str], PartialBody | None] = lambda digest: None,
        get_max_answer_bytes: Callable[[], int] | None = None,
    ) -> None:
        """Create a decoder of one message.

        ``find_partial`` returns the partial body with a digest, or None. It is called when the header is complete.
        ``get_max_answer_bytes`` returns the maximum size in bytes of an answer. It is called only when the header is
        complete, since a decoder may be created before the request is sent.
        """
        self._max_bytes = max_bytes
        self._find_partial = find_partial
        self._get_max_answer_bytes = get_max_answer_bytes
        self._head = bytearray()
        self._header: Header | None = None
        self._body: Any = None  # numpy view of self._buffer
        self._buffer = torch.empty(0, dtype=torch.uint8)
        self._received_bytes = 0

    def feed(self, data: bytes | memoryview) -> None:
        """Add the next bytes of the message. Raises ProtocolError."""
        if self._header is None:
            data = self._feed_header(memoryview(data))
        if not len(data):
            return
        if self.is_body_stored:
            raise ProtocolError("unexpected body bytes: the header declares a body in an object store")
        end = self._received_bytes + len(data)
        if end > len(self._body):
            raise ProtocolError(f"body exceeds its declared length of {len(self._body)} bytes")
        self._body[self._received_bytes : end] = memoryview(data)
        self._received_bytes = end

    @property
    def digest(self) -> str | None:
        """Return the digest of the body, or None if it has none or the header is incomplete."""
        return None if self._header is None else self._header.digest

    @property
    def is_incomplete(self) -> bool:
        """Return whether the message has begun but is not complete."""
        if self._header is None or self._body is None:
            return bool(self._head)
        return not self.is_body_stored and self._received_bytes < len(self._body)

    @property
    def partial_body(self) -> PartialBody | None:
        """Return the received part of the body if it has a digest and at least one whole chunk was received."""
        if self.digest is None or self._body is None or self.is_body_stored:
            return None
        whole = self._received_bytes == len(self._body)
        filled = self._received_bytes if whole else self._received_bytes // FRAGMENT_BYTES * FRAGMENT_BYTES
        return PartialBody(self.digest, self._buffer, filled) if filled else None

    @property
    def is_body_stored(self) -> bool:
        """Return whether the body is in an object store, from which it must be copied into ``body_view``."""
        return self._header is not None and self._header.transfer == STORE_TRANSFER

    @property
    def body_view(self) -> memoryview:
        """Return the memory of the body as bytes."""
        return memoryview(self._body)

    def mark_body_complete(self) -> None:
        """Mark the body as complete after it was copied into ``body_view``."""
        self._received_bytes = len(self._body)

    def build_message_without_tensors(self) -> Message:
        """Return the message without its tensors, which are not available. Raises ProtocolError."""
        assert self._header is not None
        self._header = self._header.model_copy(update={"tensors": []})
        self.mark_body_complete()
        return self.build_message()

    def verify_digest(self) -> None:
        """Check the digest of the body if it has one and is complete. Raises ProtocolError if it differs.

        The check takes about half a millisecond per megabyte and may run in another thread.
        """
        whole = self.digest is not None and self._received_bytes == len(self._body)
        if whole and self.digest != sha256(self._body.data).hexdigest():
            raise ProtocolError("body does not match its declared SHA-256 digest")

    def build_message(self) -> Message:
        """Return the message once all its bytes were received. Raises ProtocolError.

        Its tensors are views of the receive buffer.
        """
        if self._header is None or self._received_bytes < len(self._body):
            raise ProtocolError("message is shorter than its declared length")
        name = self._header.type
        check_key_count(name, self._header.fields)
        try:
            found = dict(_SCHEMAS[name].model_validate(self._header.fields))
        except ValidationError as error:
            raise ProtocolError(f"{name}: {describe_schema_error(error)}") from None
        if name in _TYPES_WITH_TENSORS:
            found["tensors"] = self._build_tensors(self._header.tensors)
        elif self._header.tensors:
            raise ProtocolError(f"unexpected tensors in message {name!r}")
        return MESSAGE_TYPES[name](**found)

    def _feed_header(self, data: memoryview) -> memoryview:
        """Collect prefix and header, and return the bytes after them (none while they are incomplete)."""
        head = self._head
        taken = max(0, min(PREFIX.size - len(head), len(data)))
        head += data[:taken]
        if bytes(head[: len(MAGIC)]) != MAGIC[: len(head)]:
            raise ProtocolError("not a fedws message")
        if len(head) < PREFIX.size:
            return data[taken:]
        _, version, length = PREFIX.unpack_from(head)
        if version != PROTOCOL_VERSION:
            raise ProtocolError(f"unsupported protocol version {version}, expected {PROTOCOL_VERSION}")
        if length > MAX_HEADER_BYTES:
            raise ProtocolError(f"header of {length} bytes exceeds the limit of {MAX_HEADER_BYTES} bytes")
        head_bytes = PREFIX.size + length
        head_bytes += -head_bytes % ALIGNMENT_BYTES
        if head_bytes > self._max_bytes:
            raise ProtocolError(f"message of {head_bytes} bytes exceeds the limit of {self._max_bytes} bytes")
        more = min(head_bytes - len(head), len(data) - taken)
        head += data[taken : taken + more]
        if len(head) == head_bytes:
            self._header = parse_header(bytes(head[PREFIX.size : PREFIX.size + length]))
            size = check_tensor_table(self._header.tensors)
            if head_bytes + size > self._max_bytes:
                raise ProtocolError(
                    f"message of {head_bytes + size} bytes exceeds the limit of {self._max_bytes} bytes"
                )
            if self._get_max_answer_bytes is not None and head_bytes + size > (most := self._get_max_answer_bytes()):
                what = f"message {self._header.type!r} of {head_bytes + size:,} bytes"
                raise ProtocolError(f"{what} exceeds the limit of {most:,} bytes for the open requests")
            self._buffer = self._allocate_body(self._header, size)
            self._body = self._buffer.numpy()
        return data[taken + more :]

    def _allocate_body(self, header: Header, size: int) -> torch.Tensor:
        """Return the memory for the body, or the buffer of a partial body that the message continues."""
        if header.transfer not in ("", STORE_TRANSFER):
            raise ProtocolError(
                f"unknown transfer {to_printable(header.transfer)!r}, expected {STORE_TRANSFER!r} or ''"
            )
        begun = self._find_partial(header.digest) if header.digest is not None else None
        if header.transfer == STORE_TRANSFER and (header.digest is None or header.offset):
            raise ProtocolError("a body in an object store requires a digest and offset 0")
        self._received_bytes = header.offset
        if not header.offset:
            return torch.empty(size, dtype=torch.uint8)
        if begun is None or header.offset > begun.received_bytes or len(begun.buffer) != size:
            raise ProtocolError(f"cannot resume at byte {header.offset}: no partial body with this digest")
        # A task may already use a complete body, and the digest is checked only at the end.
        if begun.is_complete and header.offset < size:
            raise ProtocolError(f"cannot resume at byte {header.offset}: the body is already complete")
        if header.offset % FRAGMENT_BYTES and header.offset < size:
            raise ProtocolError(f"cannot resume at byte {header.offset}: not a multiple of {FRAGMENT_BYTES} bytes")
        return begun.buffer

    def _build_tensors(self, table: list[TensorRow]) -> dict[str, torch.Tensor]:
        tensors = {}
        position = 0
        for entry in table:
            position += -position % ALIGNMENT_BYTES
            piece = self._buffer[position : position + entry.length]
            # max() instead of piece > 1, which would allocate a second tensor
            if entry.dtype == "bool" and len(piece) and int(piece.max()) > 1:
                raise ProtocolError(f"tensor {entry.name!r}: bool values must be 0 or 1")
            tensors[entry.name] = piece.view(DTYPES[entry.dtype]).reshape(entry.shape)
            position += entry.length
        return tensors
