"""Messages to bytes and back: the format of ``docs/protocol.md``, pure, without I/O.

    magic "FDWS" | version, u32 | length of the header, u32 | header, msgpack | pad to 64 | body

All integers are little-endian. The body holds the raw bytes of each tensor, each at a multiple of 64; the header
says their names, dtypes, shapes and lengths. A message travels as fragments of at most 1 MiB, cut anywhere.
"""

import dataclasses
import math
import re
import struct
import typing
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields
from typing import Annotated, Any

import msgpack
import torch
from pydantic import BaseModel, ConfigDict, FailFast, Field, ValidationError, create_model

from fedws.errors import ProtocolError, UsageError
from fedws.messages import MESSAGES, Message
from fedws.tensors import DTYPES, NAMES, Tensors

MAGIC = b"FDWS"
VERSION = 1
ALIGNMENT = 64
FRAGMENT = 2**20
"""Largest fragment in bytes."""
MAX_HEADER = 2**19
MAX_TENSORS = 10_000
MAX_NAME = 256
MAX_DIMENSIONS = 16
MAX_DEPTH = 16
"""Maps and arrays in each other, of which the header itself is the first."""
MAX_KEYS = 32
"""Of the header, of a row and of a message's fields; none has so many, and each wrong one would be an error object."""

# No path, hidden file or terminal's control sequence; nor what a table of numbers would be read as.
_NAME = re.compile(r"[^./\\\x00-\x1f\x7f-\x9f][^/\\\x00-\x1f\x7f-\x9f]*")
_NO_NUMBER = re.compile(r"[+-]?nan", re.IGNORECASE)
_JSON = (str, int, float, bool, type(None))
_PREFIX = struct.Struct("<4sII")
_TYPES = {kind: name for name, kind in MESSAGES.items()}
_Size = Annotated[int, Field(ge=0, lt=2**48)]


class _Entry(BaseModel):
    """One row of a header's table of tensors."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: Annotated[str, Field(min_length=1, max_length=MAX_NAME)]
    dtype: str
    shape: Annotated[list[_Size], Field(max_length=MAX_DIMENSIONS)]
    length: _Size


class _Header(BaseModel):
    """A header. Transfer id, digest and offset are there for resumable transfers; version 1 sends whole messages."""

    model_config = ConfigDict(extra="forbid", strict=True)

    type: str
    fields: dict[str, Any]  # JSON, see _level
    tensors: Annotated[list[_Entry], Field(max_length=MAX_TENSORS), FailFast()]
    transfer: Annotated[str, Field(max_length=64)]
    digest: Annotated[str, Field(max_length=128)] | None
    offset: Annotated[int, Field(ge=0, le=0)]


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

    head: bytes
    body: list[memoryview]
    size: int
    """Bytes of head and body together."""

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


def encode(message: Message, limit: int = 2**30, transfer: str = "") -> Encoded:
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
        "transfer": transfer,
        "digest": None,
        "offset": 0,
    }
    try:
        packed = msgpack.packb(header)
        _level(header)
    except (TypeError, ValueError, OverflowError, ProtocolError) as error:
        raise UsageError(f"a {header['type']} cannot travel: {error}") from None
    head = _PREFIX.pack(MAGIC, VERSION, len(packed)) + packed
    head += bytes(-len(head) % ALIGNMENT)
    if len(packed) > MAX_HEADER or len(table) > MAX_TENSORS or len(head) + position > limit:
        raise UsageError(f"a message of {len(head) + position} bytes in {len(table)} tensors is above the limit")
    return Encoded(head, body, len(head) + position)


class Decoder:
    """Bytes of one message in, in pieces cut anywhere; the message out. Any wrong byte raises ProtocolError.

    >>> from fedws.messages import Refusal
    >>> decoder = Decoder()
    >>> for piece in encode(Refusal(kind="busy", reason="later")).fragments():
    ...     decoder.feed(piece)
    >>> decoder.message()
    Refusal(kind='busy', reason='later')
    """

    def __init__(self, limit: int = 2**30) -> None:
        self._limit = limit
        self._head = bytearray()
        self._header: _Header | None = None
        self._body: Any = None  # numpy view of self._buffer
        self._buffer = torch.empty(0, dtype=torch.uint8)
        self._filled = 0

    def feed(self, data: bytes | memoryview) -> None:
        """Take the next bytes. The body's memory is allocated once, when the header has been checked."""
        if self._header is None:
            data = self._feed_head(memoryview(data))
        if not len(data):
            return
        end = self._filled + len(data)
        if end > len(self._body):
            raise ProtocolError(f"message is longer than the {len(self._body)} bytes of body it declares")
        self._body[self._filled : end] = memoryview(data)
        self._filled = end

    def message(self) -> Message:
        """The message, once all its bytes are there; its tensors view the buffer they were received into."""
        if self._header is None or self._filled < len(self._body):
            raise ProtocolError("message ends before the length it declares")
        name = self._header.type
        _few(name, self._header.fields)
        try:
            found = dict(_SCHEMAS[name].model_validate(self._header.fields))
        except ValidationError as error:
            raise ProtocolError(f"{name}: {_problem(error)}") from None
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
            self._header = _header(bytes(head[_PREFIX.size : _PREFIX.size + length]))
            size = _body_size(self._header.tensors)
            if wanted + size > self._limit:
                raise ProtocolError(f"message of {wanted + size} bytes; at most {self._limit}")
            self._buffer = torch.empty(size, dtype=torch.uint8)
            self._body = self._buffer.numpy()
        return data[taken + more :]

    def _tensors(self, table: list[_Entry]) -> dict[str, torch.Tensor]:
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


def _header(data: bytes) -> _Header:
    try:
        # Passed over first, which makes nothing: an array is made as long as it says before its elements are there,
        # and a thousand in each other could all say so of the same bytes.
        look = msgpack.Unpacker(read_size=1, max_buffer_size=MAX_HEADER)
        look.feed(data)
        look.skip()
        found = msgpack.unpackb(data, strict_map_key=True, ext_hook=_no_extension)
        _level(found)
        _few("header", found)
        rows = found.get("tensors") if isinstance(found, dict) else None
        for row in rows if isinstance(rows, list) else ():
            _few("header: tensors", row)
        header = _Header.model_validate(found)
    except ValidationError as error:
        raise ProtocolError(f"header: {_problem(error)}") from None
    except (ValueError, TypeError, msgpack.exceptions.UnpackException, RecursionError) as error:
        raise ProtocolError(f"header is not msgpack: {error}") from None
    if header.type not in MESSAGES:
        raise ProtocolError(f"unknown message type {header.type[:40]!r}")
    return header


def _problem(error: ValidationError) -> str:
    """The first thing that is wrong, in one line of bounded length however a peer names its fields."""
    first = error.errors(include_url=False)[0]
    place = ".".join(map(str, first["loc"]))[:80]
    return f"{place if place.isprintable() else repr(place)}: {first['msg']}"


def misnamed(name: object) -> str:
    """Why a tensor cannot be called so, in words; empty when it can.

    >>> misnamed("layers.0.weight"), misnamed("../weight"), misnamed("NaN")
    ('', 'no name is like a path or has control characters', 'no name is NaN')
    """
    if not isinstance(name, str) or not 1 <= len(name) <= MAX_NAME:
        return f"a name is a text of 1 to {MAX_NAME} characters"
    if not _NAME.fullmatch(name):
        return "no name is like a path or has control characters"
    return "no name is NaN" if _NO_NUMBER.fullmatch(name) else ""


def _level(header: Any) -> None:
    """Refuse what is no JSON or nested too deeply, level by level, at the first such value."""
    level = [header]
    for depth in range(MAX_DEPTH + 1):
        inner: list[Any] = []
        for each in level:
            if depth == MAX_DEPTH and isinstance(each, dict | list | tuple):
                raise ProtocolError(f"header: more than {MAX_DEPTH} maps and arrays in each other")
            if isinstance(each, dict):
                if not all(isinstance(key, str) for key in each):
                    raise ProtocolError("header: a key that is no text")
                inner += each.values()
            elif isinstance(each, list | tuple):
                inner += each
            elif not isinstance(each, _JSON):
                raise ProtocolError(f"header: {type(each).__name__}, which no message holds")
        level = inner


def _few(what: str, found: object) -> None:
    if isinstance(found, dict) and len(found) > MAX_KEYS:
        raise ProtocolError(f"{what}: {len(found)} keys")


def _no_extension(code: int, data: bytes) -> None:
    raise ValueError(f"extension type {code}")


def _body_size(table: list[_Entry]) -> int:
    """Bytes of the body that a table describes, after checking that its rows are possible."""
    position = 0
    names = set()
    for entry in table:
        if wrong := misnamed(entry.name):
            raise ProtocolError(f"tensor {entry.name!r}: {wrong}")
        if entry.dtype not in DTYPES:
            raise ProtocolError(f"tensor {entry.name!r}: unknown dtype {entry.dtype[:40]!r}")
        if entry.length != math.prod(entry.shape) * DTYPES[entry.dtype].itemsize:
            raise ProtocolError(f"tensor {entry.name!r}: {entry.length} bytes do not make shape {entry.shape}")
        if math.prod(size or 1 for size in entry.shape) >= 2**48:  # strides count dimensions of size 0 as 1
            raise ProtocolError(f"tensor {entry.name!r}: no tensor has shape {entry.shape}")
        if entry.name in names:
            raise ProtocolError(f"tensor {entry.name!r} is there twice")
        names.add(entry.name)
        position += -position % ALIGNMENT + entry.length
    return position
