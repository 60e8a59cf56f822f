"""The header of a message: msgpack to checked rows and fields, with bounds on all that a peer may say in it."""

import math
import re
from typing import Annotated, Any

import msgpack
from pydantic import BaseModel, ConfigDict, FailFast, Field, ValidationError

from fedws.core.errors import ProtocolError
from fedws.core.limits import MAX_HEADER_BYTES, MAX_MESSAGE_TENSORS
from fedws.core.tensors import DTYPES
from fedws.core.untrusted_text import get_error_text, to_printable
from fedws.protocol.messages import MESSAGE_TYPES, Digest

ALIGNMENT_BYTES = 64
MAX_NAME_CHARS = 256
MAX_DIMENSIONS = 16
MAX_DEPTH = 16
"""Maps and arrays in each other, of which the header itself is the first."""
MAX_KEYS = 32
"""Of the header, of a row and of a message's fields; none has so many, and each wrong one would be an error object."""

# No hidden file or terminal's control sequence; nor what a table of numbers would be read as.
_NAME_PATTERN = re.compile(r"[^./\\\x00-\x1f\x7f-\x9f][^\\\x00-\x1f\x7f-\x9f]*")
_FORBIDDEN_PARTS = {"", ".", ".."}  # what would make the parts between slashes a path to another folder
_NAN_PATTERN = re.compile(r"[+-]?nan", re.IGNORECASE)
_JSON_SCALARS = (str, int, float, bool, type(None))
_Size = Annotated[int, Field(ge=0, lt=2**48)]


class TensorRow(BaseModel):
    """One row of a header's table of tensors."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: Annotated[str, Field(min_length=1, max_length=MAX_NAME_CHARS)]
    dtype: str
    shape: Annotated[list[_Size], Field(max_length=MAX_DIMENSIONS)]
    length: _Size


class Header(BaseModel):
    """A header. Of a body with a digest the first ``offset`` bytes may be left out, or all of it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    type: str
    fields: dict[str, Any]  # JSON, see _level
    tensors: Annotated[list[TensorRow], Field(max_length=MAX_MESSAGE_TENSORS), FailFast()]
    transfer: Annotated[str, Field(max_length=64)]
    digest: Digest | None
    offset: Annotated[int, Field(ge=0, lt=2**48)]


def pack_header(header: dict[str, Any]) -> bytes:
    """A header as msgpack. Raises ProtocolError, TypeError, ValueError or OverflowError for what cannot travel."""
    data = bytes(msgpack.packb(header))
    _check_json(header)
    return data


def parse_header(data: bytes) -> Header:
    """A header from msgpack. Raises ProtocolError."""
    try:
        # Passed over first, which makes nothing: an array is made as long as it says before its elements are there,
        # and a thousand in each other could all say so of the same bytes.
        look = msgpack.Unpacker(read_size=1, max_buffer_size=MAX_HEADER_BYTES)
        look.feed(data)
        look.skip()
        found = msgpack.unpackb(data, strict_map_key=True, ext_hook=_reject_extension)
        _check_json(found)
        check_key_count("header", found)
        rows = found.get("tensors") if isinstance(found, dict) else None
        for row in rows if isinstance(rows, list) else ():
            check_key_count("header: tensors", row)
        header = Header.model_validate(found)
    except ValidationError as error:
        raise ProtocolError(f"header: {describe_schema_error(error)}") from None
    except (ValueError, TypeError, msgpack.exceptions.UnpackException, RecursionError) as error:
        raise ProtocolError(f"header is not msgpack: {get_error_text(error)}") from None
    if header.type not in MESSAGE_TYPES:
        raise ProtocolError(f"unknown message type {header.type[:40]!r}")
    return header


def describe_schema_error(error: ValidationError) -> str:
    """The first thing that is wrong, in one line of bounded length however a peer names its fields."""
    first = error.errors(include_url=False)[0]
    place = ".".join(map(str, first["loc"]))[:80]
    return f"{place if place.isprintable() else repr(place)}: {to_printable(first['msg'], 200)}"


def explain_invalid_name(name: object) -> str:
    """Why a tensor cannot be called so, in words; empty when it can.

    >>> explain_invalid_name("layers.0.weight"), explain_invalid_name("../weight"), explain_invalid_name("NaN")
    ('', 'no name is like a path or has control characters', 'no name is NaN')
    >>> explain_invalid_name("towers.sensor/1.weight"), explain_invalid_name("towers/../weight")
    ('', 'no name is like a path or has control characters')
    """
    if not isinstance(name, str) or not 1 <= len(name) <= MAX_NAME_CHARS:
        return f"a name is a text of 1 to {MAX_NAME_CHARS} characters"
    if not _NAME_PATTERN.fullmatch(name) or not _FORBIDDEN_PARTS.isdisjoint(name.split("/")):
        return "no name is like a path or has control characters"
    return "no name is NaN" if _NAN_PATTERN.fullmatch(name) else ""


def _check_json(header: Any) -> None:
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
            elif not isinstance(each, _JSON_SCALARS):
                raise ProtocolError(f"header: {type(each).__name__}, which no message holds")
        level = inner


def check_key_count(what: str, found: object) -> None:
    """Raises ProtocolError where a map has more keys than any that is right."""
    if isinstance(found, dict) and len(found) > MAX_KEYS:
        raise ProtocolError(f"{what}: {len(found)} keys")


def _reject_extension(code: int, data: bytes) -> None:
    raise ValueError(f"extension type {code}")


def check_tensor_table(table: list[TensorRow]) -> int:
    """Bytes of the body that a table describes, after checking that its rows are possible."""
    position = 0
    names = set()
    for entry in table:
        if wrong := explain_invalid_name(entry.name):
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
        position += -position % ALIGNMENT_BYTES + entry.length
    return position
