"""Bytes to messages: the receiving half of the format that :mod:`fedws.protocol.encoder` writes; pure, without I/O."""

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
    """The fields of a message as a strict schema: unknown, missing or wrongly typed ones are refused."""
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
    """What has arrived of a body that is not whole, or is: its first bytes."""

    digest: str
    buffer: torch.Tensor
    """Uint8, as long as the whole body."""
    received_bytes: int
    """Bytes that are there: whole chunks, or all."""

    @property
    def is_complete(self) -> bool:
        """Whether all bytes are there: a message may have been made of them, so none is written again."""
        return self.received_bytes == len(self.buffer)


class Decoder:
    """Bytes of one message in, in pieces cut anywhere; the message out. Any wrong byte raises ProtocolError.

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
        """``find_partial`` is asked for what is here of a body, when its message begins.

        ``get_max_answer_bytes`` returns the bytes of the largest answer that may come now. It is called when a header
        is whole, since a decoder may wait for its message from before the request.
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
        """Take the next bytes."""
        if self._header is None:
            data = self._feed_header(memoryview(data))
        if not len(data):
            return
        if self.is_body_stored:
            raise ProtocolError("a body behind a header that says it is in an object store")
        end = self._received_bytes + len(data)
        if end > len(self._body):
            raise ProtocolError(f"message is longer than the {len(self._body)} bytes of body it declares")
        self._body[self._received_bytes : end] = memoryview(data)
        self._received_bytes = end

    @property
    def digest(self) -> str | None:
        """That of the body, once the header is here, if it has one."""
        return None if self._header is None else self._header.digest

    @property
    def is_incomplete(self) -> bool:
        """Whether the message has begun, and is not whole."""
        if self._header is None or self._body is None:
            return bool(self._head)
        return not self.is_body_stored and self._received_bytes < len(self._body)

    @property
    def partial_body(self) -> PartialBody | None:
        """What is here of the body, if it has a digest and any whole chunk of it is."""
        if self.digest is None or self._body is None or self.is_body_stored:
            return None
        whole = self._received_bytes == len(self._body)
        filled = self._received_bytes if whole else self._received_bytes // FRAGMENT_BYTES * FRAGMENT_BYTES
        return PartialBody(self.digest, self._buffer, filled) if filled else None

    @property
    def is_body_stored(self) -> bool:
        """Whether the body is in an object store, to be put into :attr:`body_view` from there."""
        return self._header is not None and self._header.transfer == STORE_TRANSFER

    @property
    def body_view(self) -> memoryview:
        """The memory of the body, in bytes."""
        return memoryview(self._body)

    def mark_body_complete(self) -> None:
        """The body has been put into its room."""
        self._received_bytes = len(self._body)

    def build_message_without_tensors(self) -> Message:
        """The message without its tensors, which cannot be had. Raises ProtocolError."""
        assert self._header is not None
        self._header = self._header.model_copy(update={"tensors": []})
        self.mark_body_complete()
        return self.build_message()

    def verify_digest(self) -> None:
        """Raises ProtocolError unless the body, if it has a digest and is whole, is the one of that digest.

        It takes half a millisecond a megabyte, and may be done in another thread.
        """
        whole = self.digest is not None and self._received_bytes == len(self._body)
        if whole and self.digest != sha256(self._body.data).hexdigest():
            raise ProtocolError("the body that came is not the one of the digest that was told")

    def build_message(self) -> Message:
        """The message, once all its bytes are there; its tensors view the buffer they were received into."""
        if self._header is None or self._received_bytes < len(self._body):
            raise ProtocolError("message ends before the length it declares")
        name = self._header.type
        check_key_count(name, self._header.fields)
        try:
            found = dict(_SCHEMAS[name].model_validate(self._header.fields))
        except ValidationError as error:
            raise ProtocolError(f"{name}: {describe_schema_error(error)}") from None
        if name in _TYPES_WITH_TENSORS:
            found["tensors"] = self._build_tensors(self._header.tensors)
        elif self._header.tensors:
            raise ProtocolError(f"a {name} carries no tensors")
        return MESSAGE_TYPES[name](**found)

    def _feed_header(self, data: memoryview) -> memoryview:
        """Collect prefix and header; gives the bytes after them (none while they are incomplete)."""
        head = self._head
        taken = max(0, min(PREFIX.size - len(head), len(data)))
        head += data[:taken]
        if bytes(head[: len(MAGIC)]) != MAGIC[: len(head)]:
            raise ProtocolError("not a fedws message")
        if len(head) < PREFIX.size:
            return data[taken:]
        _, version, length = PREFIX.unpack_from(head)
        if version != PROTOCOL_VERSION:
            raise ProtocolError(f"protocol version {version}; this node speaks version {PROTOCOL_VERSION}")
        if length > MAX_HEADER_BYTES:
            raise ProtocolError(f"header of {length} bytes; at most {MAX_HEADER_BYTES}")
        wanted = PREFIX.size + length
        wanted += -wanted % ALIGNMENT_BYTES
        if wanted > self._max_bytes:
            raise ProtocolError(f"message of {wanted} bytes; at most {self._max_bytes}")
        more = min(wanted - len(head), len(data) - taken)
        head += data[taken : taken + more]
        if len(head) == wanted:
            self._header = parse_header(bytes(head[PREFIX.size : PREFIX.size + length]))
            size = check_tensor_table(self._header.tensors)
            if wanted + size > self._max_bytes:
                raise ProtocolError(f"message of {wanted + size} bytes; at most {self._max_bytes}")
            if self._get_max_answer_bytes is not None and wanted + size > (most := self._get_max_answer_bytes()):
                what = f"a {self._header.type} of {wanted + size:,} bytes"
                raise ProtocolError(f"{what}; an answer to what was requested has at most {most:,}")
            self._buffer = self._allocate_body(self._header, size)
            self._body = self._buffer.numpy()
        return data[taken + more :]

    def _allocate_body(self, header: Header, size: int) -> torch.Tensor:
        """Memory for the body, allocated once; with what is there of it when the message goes on with one."""
        begun = self._find_partial(header.digest) if header.digest is not None else None
        if header.transfer == STORE_TRANSFER and (header.digest is None or header.offset):
            raise ProtocolError("a body in an object store has a digest, and is fetched whole")
        self._received_bytes = header.offset
        if not header.offset:
            return torch.empty(size, dtype=torch.uint8)
        if begun is None or header.offset > begun.received_bytes or len(begun.buffer) != size:
            raise ProtocolError(f"it continues at byte {header.offset} of a body that did not begin here")
        if (
            begun.is_complete and header.offset < size
        ):  # a task may be working on it, and the digest is checked at the end
            raise ProtocolError(f"it continues at byte {header.offset} of a body that is whole here")
        return begun.buffer

    def _build_tensors(self, table: list[TensorRow]) -> dict[str, torch.Tensor]:
        tensors = {}
        position = 0
        for entry in table:
            position += -position % ALIGNMENT_BYTES
            piece = self._buffer[position : position + entry.length]
            if entry.dtype == "bool" and len(piece) and int(piece.max()) > 1:  # > would make as many bytes again
                raise ProtocolError(f"tensor {entry.name!r}: a bool is 0 or 1")
            tensors[entry.name] = piece.view(DTYPES[entry.dtype]).reshape(entry.shape)
            position += entry.length
        return tensors
