"""Messages to bytes and back: the format of ``docs/protocol.md``, pure, without I/O.

    magic "FDWS" | version, u32 | length of the header, u32 | header, msgpack | pad to 64 | body

All integers are little-endian. The body holds the raw bytes of each tensor, each at a multiple of 64; the header
says their names, dtypes, shapes and lengths. A message travels as fragments of at most 1 MiB, cut anywhere.
"""

import dataclasses
import struct
import typing
from collections.abc import Callable, Iterator
from dataclasses import MISSING, dataclass, fields
from hashlib import sha256
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, FailFast, Field, ValidationError, create_model

from fedws.errors import ProtocolError, UsageError
from fedws.header import (
    ALIGNMENT,
    MAX_HEADER,
    MAX_TENSORS,
    Entry,
    Header,
    body_size,
    few,
    misnamed,
    packed,
    parsed,
    problem,
)
from fedws.messages import MESSAGES, Message
from fedws.tensors import DTYPES, NAMES, Tensors

MAGIC = b"FDWS"
VERSION = 1
FRAGMENT = 2**20
"""Largest fragment in bytes."""
_PREFIX = struct.Struct("<4sII")
_TYPES = {kind: name for name, kind in MESSAGES.items()}


def _schema(kind: type[Message]) -> type[BaseModel]:
    """The fields of a message as a strict schema: unknown, missing or wrongly typed ones are refused."""
    hints = typing.get_type_hints(kind, include_extras=True)
    hints = {name: Annotated[hint, FailFast()] if hint == list[int] else hint for name, hint in hints.items()}
    known: dict[str, Any] = {f.name: (hints[f.name], _default(f)) for f in fields(kind) if f.name != "tensors"}
    return create_model(kind.__name__, __config__=ConfigDict(strict=True, extra="forbid"), **known)


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not MISSING:
        return Field(default_factory=field.default_factory)
    return ... if field.default is MISSING else field.default


_SCHEMAS = {name: _schema(kind) for name, kind in MESSAGES.items()}
_WITH_TENSORS = {name for name, kind in MESSAGES.items() if any(f.name == "tensors" for f in fields(kind))}


@dataclass(frozen=True)
class Encoded:
    """A message as bytes: views of its tensors wherever these are contiguous on the CPU, so nothing is copied."""

    header: dict[str, Any]
    head: bytes
    body: list[memoryview]
    size: int
    """Bytes of head and body together."""

    @property
    def body_size(self) -> int:
        """Bytes of the body."""
        return self.size - len(self.head)

    def named(self, digest: str, offset: int, limit: int) -> "Encoded":
        """The same, with the digest of its body, and without the ``offset`` bytes that its receiver has of it.

        Raises UsageError when it is larger than ``limit``, of which what is left out is a part.
        """
        header, size = {**self.header, "digest": digest, "offset": offset}, self.body_size - offset
        head, body = _head(header, self.body_size, limit), []
        for buffer in self.body:
            if offset < len(buffer):
                body.append(buffer[offset:])
            offset = max(0, offset - len(buffer))
        return Encoded(header, head, body, len(head) + size)

    def fragments(self) -> Iterator[memoryview | bytes]:
        """The message in pieces of at most 1 MiB; short neighbours travel together."""
        small = bytearray(self.head)
        for buffer in self.body:
            if len(small) + len(buffer) <= FRAGMENT:
                small += buffer
                continue
            # Fill the started fragment, then cut the rest of a large buffer where it lies.
            start = FRAGMENT - len(small) if small else 0
            if small:
                yield bytes(small) + buffer[:start]
                small.clear()
            while len(buffer) - start > FRAGMENT:
                yield buffer[start : start + FRAGMENT]
                start += FRAGMENT
            small += buffer[start:]
        if small:
            yield bytes(small)


def encode(message: Message, limit: int = 2**30) -> Encoded:
    """A message as bytes. Raises UsageError when it is larger than ``limit`` or holds what cannot travel."""
    tensors: Tensors = getattr(message, "tensors", {})
    table, body, position = [], [], 0
    for name, tensor in tensors.items():
        if tensor.dtype not in NAMES:
            raise UsageError(f"tensor {name}: {tensor.dtype} cannot travel; these can: {', '.join(DTYPES)}")
        if wrong := misnamed(name):
            raise UsageError(f"tensor {name!r:.300}: {wrong}")
        pad = -position % ALIGNMENT
        if pad:
            body.append(memoryview(bytes(pad)))
        data = _bytes(tensor)
        body.append(data)
        position += pad + len(data)
        table.append(
            {
                "name": name,
                "dtype": NAMES[tensor.dtype],
                "shape": list(tensor.shape),
                "length": len(data),
            }
        )
    header = {
        "type": _TYPES[type(message)],
        "fields": {f.name: getattr(message, f.name) for f in fields(message) if f.name != "tensors"},
        "tensors": table,
        "transfer": "",
        "digest": None,
        "offset": 0,
    }
    head = _head(header, position, limit)
    return Encoded(header, head, body, len(head) + position)


def _head(header: dict[str, Any], size: int, limit: int) -> bytes:
    """Prefix, header and padding of a message with a body of ``size`` bytes."""
    try:
        written = packed(header)
    except (TypeError, ValueError, OverflowError, ProtocolError) as error:
        raise UsageError(f"a {header['type']} cannot travel: {error}") from None
    head = _PREFIX.pack(MAGIC, VERSION, len(written)) + written
    head += bytes(-len(head) % ALIGNMENT)
    count = len(header["tensors"])
    if len(written) > MAX_HEADER or count > MAX_TENSORS or len(head) + size > limit:
        raise UsageError(f"a message of {len(head) + size} bytes in {count} tensors is above the limit")
    return head


@dataclass(frozen=True)
class Partial:
    """What has arrived of a body that is not whole, or is: its first bytes."""

    digest: str
    buffer: torch.Tensor
    """Uint8, as long as the whole body."""
    filled: int
    """Bytes that are there: whole chunks, or all."""


class Decoder:
    """Bytes of one message in, in pieces cut anywhere; the message out. Any wrong byte raises ProtocolError.

    >>> from fedws.messages import Refusal
    >>> decoder = Decoder()
    >>> for piece in encode(Refusal(kind="busy", reason="later")).fragments():
    ...     decoder.feed(piece)
    >>> decoder.message()
    Refusal(kind='busy', reason='later')
    """

    def __init__(self, limit: int = 2**30, begun: Callable[[str], Partial | None] = lambda digest: None) -> None:
        """``begun`` is asked for what is here of a body, when its message begins."""
        self._limit = limit
        self._begun = begun
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
    def partial(self) -> Partial | None:
        """What is here of the body, if it has a digest and any whole chunk of it is."""
        if self.digest is None:
            return None
        whole = self._filled == len(self._body)
        filled = self._filled if whole else self._filled // FRAGMENT * FRAGMENT
        return Partial(self.digest, self._buffer, filled) if filled else None

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
        taken = max(0, min(_PREFIX.size - len(head), len(data)))
        head += data[:taken]
        if bytes(head[: len(MAGIC)]) != MAGIC[: len(head)]:
            raise ProtocolError("not a fedws message")
        if len(head) < _PREFIX.size:
            return data[taken:]
        _, version, length = _PREFIX.unpack_from(head)
        if version != VERSION:
            raise ProtocolError(f"protocol version {version}; this node speaks version {VERSION}")
        if length > MAX_HEADER:
            raise ProtocolError(f"header of {length} bytes; at most {MAX_HEADER}")
        wanted = _PREFIX.size + length
        wanted += -wanted % ALIGNMENT
        if wanted > self._limit:
            raise ProtocolError(f"message of {wanted} bytes; at most {self._limit}")
        more = min(wanted - len(head), len(data) - taken)
        head += data[taken : taken + more]
        if len(head) == wanted:
            self._header = parsed(bytes(head[_PREFIX.size : _PREFIX.size + length]))
            size = body_size(self._header.tensors)
            if wanted + size > self._limit:
                raise ProtocolError(f"message of {wanted + size} bytes; at most {self._limit}")
            self._buffer = self._room(self._header, size)
            self._body = self._buffer.numpy()
        return data[taken + more :]

    def _room(self, header: Header, size: int) -> torch.Tensor:
        """Memory for the body, allocated once; with what is there of it when the message goes on with one."""
        begun = self._begun(header.digest) if header.digest is not None else None
        self._filled = header.offset
        if not header.offset:
            return torch.empty(size, dtype=torch.uint8)
        if begun is None or header.offset > begun.filled or len(begun.buffer) != size:
            raise ProtocolError(f"it goes on at byte {header.offset} of a body that did not begin here")
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


def _bytes(tensor: torch.Tensor) -> memoryview:
    whole = tensor.detach().cpu().contiguous()
    flat = whole.as_strided((whole.numel(),), (1,))  # a dimension of size 1 may have kept another stride
    return memoryview(flat.view(torch.uint8).numpy())  # type: ignore[arg-type]
