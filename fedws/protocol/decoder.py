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
from fedws.core.tensors import DTYPES
from fedws.protocol.encoder import FRAGMENT, MAGIC, PREFIX, STORED, VERSION
from fedws.protocol.header import ALIGNMENT, MAX_HEADER, Entry, Header, body_size, few, parsed, problem
from fedws.protocol.messages import MESSAGES, Message, carried


def _schema(kind: type[Message]) -> type[BaseModel]:
    """The fields of a message as a strict schema: unknown, missing or wrongly typed ones are refused."""
    hints = typing.get_type_hints(kind, include_extras=True)
    known: dict[str, Any] = {f.name: (hints[f.name], _default(f)) for f in carried(kind)}
    return create_model(kind.__name__, __config__=ConfigDict(strict=True, extra="forbid"), **known)


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not MISSING:
        return Field(default_factory=field.default_factory)
    return ... if field.default is MISSING else field.default


_SCHEMAS = {name: _schema(kind) for name, kind in MESSAGES.items()}
_WITH_TENSORS = {name for name, kind in MESSAGES.items() if any(f.name == "tensors" for f in fields(kind))}


@dataclass(frozen=True)
class Partial:
    """What has arrived of a body that is not whole, or is: its first bytes."""

    digest: str
    buffer: torch.Tensor
    """Uint8, as long as the whole body."""
    filled: int
    """Bytes that are there: whole chunks, or all."""

    @property
    def whole(self) -> bool:
        """Whether all bytes are there: a message may have been made of them, so none is written again."""
        return self.filled == len(self.buffer)


class Decoder:
    """Bytes of one message in, in pieces cut anywhere; the message out. Any wrong byte raises ProtocolError.

    >>> from fedws.protocol.messages import Refusal
    >>> from fedws.protocol.encoder import encode
    >>> decoder = Decoder()
    >>> for piece in encode(Refusal(kind="busy", reason="later")).fragments():
    ...     decoder.feed(piece)
    >>> decoder.message()
    Refusal(kind='busy', reason='later')
    """

    def __init__(
        self,
        limit: int = 2**30,
        begun: Callable[[str], Partial | None] = lambda digest: None,
        allowed: Callable[[], int] | None = None,
    ) -> None:
        """``begun`` is asked for what is here of a body, when its message begins.

        ``allowed`` returns the bytes of the largest answer that may come now. It is called when a header is whole,
        since a decoder may wait for its message from before the request.
        """
        self._limit = limit
        self._begun = begun
        self._allowed = allowed
        self._head = bytearray()
        self._header: Header | None = None
        self._body: Any = None  # numpy view of self._buffer
        self._buffer = torch.empty(0, dtype=torch.uint8)
        self._filled = 0

    def feed(self, data: bytes | memoryview) -> None:
        """Take the next bytes."""
        if self._header is None:
            data = self._feed_head(memoryview(data))
        if not len(data):
            return
        if self.stored:
            raise ProtocolError("a body behind a header that says it is in an object store")
        end = self._filled + len(data)
        if end > len(self._body):
            raise ProtocolError(f"message is longer than the {len(self._body)} bytes of body it declares")
        self._body[self._filled : end] = memoryview(data)
        self._filled = end

    @property
    def digest(self) -> str | None:
        """That of the body, once the header is here, if it has one."""
        return None if self._header is None else self._header.digest

    @property
    def inside(self) -> bool:
        """Whether the message has begun, and is not whole."""
        if self._header is None or self._body is None:
            return bool(self._head)
        return not self.stored and self._filled < len(self._body)

    @property
    def partial(self) -> Partial | None:
        """What is here of the body, if it has a digest and any whole chunk of it is."""
        if self.digest is None or self._body is None or self.stored:
            return None
        whole = self._filled == len(self._body)
        filled = self._filled if whole else self._filled // FRAGMENT * FRAGMENT
        return Partial(self.digest, self._buffer, filled) if filled else None

    @property
    def stored(self) -> bool:
        """Whether the body is in an object store, to be put into :attr:`room` from there."""
        return self._header is not None and self._header.transfer == STORED

    @property
    def room(self) -> memoryview:
        """The memory of the body, in bytes."""
        return memoryview(self._body)

    def fill(self) -> None:
        """The body has been put into its room."""
        self._filled = len(self._body)

    def bare(self) -> Message:
        """The message without its tensors, which cannot be had. Raises ProtocolError."""
        assert self._header is not None
        self._header = self._header.model_copy(update={"tensors": []})
        self.fill()
        return self.message()

    def verify(self) -> None:
        """Raises ProtocolError unless the body, if it has a digest and is whole, is the one of that digest.

        It takes half a millisecond a megabyte, and may be done in another thread.
        """
        whole = self.digest is not None and self._filled == len(self._body)
        if whole and self.digest != sha256(self._body.data).hexdigest():
            raise ProtocolError("the body that came is not the one of the digest that was told")

    def message(self) -> Message:
        """The message, once all its bytes are there; its tensors view the buffer they were received into."""
        if self._header is None or self._filled < len(self._body):
            raise ProtocolError("message ends before the length it declares")
        name = self._header.type
        few(name, self._header.fields)
        try:
            found = dict(_SCHEMAS[name].model_validate(self._header.fields))
        except ValidationError as error:
            raise ProtocolError(f"{name}: {problem(error)}") from None
        if name in _WITH_TENSORS:
            found["tensors"] = self._tensors(self._header.tensors)
        elif self._header.tensors:
            raise ProtocolError(f"a {name} carries no tensors")
        return MESSAGES[name](**found)

    def _feed_head(self, data: memoryview) -> memoryview:
        """Collect prefix and header; gives the bytes after them (none while they are incomplete)."""
        head = self._head
        taken = max(0, min(PREFIX.size - len(head), len(data)))
        head += data[:taken]
        if bytes(head[: len(MAGIC)]) != MAGIC[: len(head)]:
            raise ProtocolError("not a fedws message")
        if len(head) < PREFIX.size:
            return data[taken:]
        _, version, length = PREFIX.unpack_from(head)
        if version != VERSION:
            raise ProtocolError(f"protocol version {version}; this node speaks version {VERSION}")
        if length > MAX_HEADER:
            raise ProtocolError(f"header of {length} bytes; at most {MAX_HEADER}")
        wanted = PREFIX.size + length
        wanted += -wanted % ALIGNMENT
        if wanted > self._limit:
            raise ProtocolError(f"message of {wanted} bytes; at most {self._limit}")
        more = min(wanted - len(head), len(data) - taken)
        head += data[taken : taken + more]
        if len(head) == wanted:
            self._header = parsed(bytes(head[PREFIX.size : PREFIX.size + length]))
            size = body_size(self._header.tensors)
            if wanted + size > self._limit:
                raise ProtocolError(f"message of {wanted + size} bytes; at most {self._limit}")
            if self._allowed is not None and wanted + size > (most := self._allowed()):
                what = f"a {self._header.type} of {wanted + size:,} bytes"
                raise ProtocolError(f"{what}; an answer to what was requested has at most {most:,}")
            self._buffer = self._room(self._header, size)
            self._body = self._buffer.numpy()
        return data[taken + more :]

    def _room(self, header: Header, size: int) -> torch.Tensor:
        """Memory for the body, allocated once; with what is there of it when the message goes on with one."""
        begun = self._begun(header.digest) if header.digest is not None else None
        if header.transfer == STORED and (header.digest is None or header.offset):
            raise ProtocolError("a body in an object store has a digest, and is fetched whole")
        self._filled = header.offset
        if not header.offset:
            return torch.empty(size, dtype=torch.uint8)
        if begun is None or header.offset > begun.filled or len(begun.buffer) != size:
            raise ProtocolError(f"it continues at byte {header.offset} of a body that did not begin here")
        if begun.whole and header.offset < size:  # a task may be working on it, and the digest is checked at the end
            raise ProtocolError(f"it continues at byte {header.offset} of a body that is whole here")
        return begun.buffer

    def _tensors(self, table: list[Entry]) -> dict[str, torch.Tensor]:
        tensors = {}
        position = 0
        for entry in table:
            position += -position % ALIGNMENT
            piece = self._buffer[position : position + entry.length]
            if entry.dtype == "bool" and len(piece) and int(piece.max()) > 1:  # > would make as many bytes again
                raise ProtocolError(f"tensor {entry.name!r}: a bool is 0 or 1")
            tensors[entry.name] = piece.view(DTYPES[entry.dtype]).reshape(entry.shape)
            position += entry.length
        return tensors
