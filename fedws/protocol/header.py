"""The header of a message: its parsing from msgpack, with limits on everything that a peer may declare in it."""

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
"""Maximum nesting depth of maps and arrays; the header itself is the first level."""
MAX_KEYS = 32
"""Maximum number of keys in the header, in a table row and in a message's fields.

No valid map has as many, and each invalid key would create an error object.
"""

# A name must not be a hidden file or hold control characters. It must not be NaN, since tables read NaN as a number.
_NAME_PATTERN = re.compile(r"[^./\\\x00-\x1f\x7f-\x9f][^\\\x00-\x1f\x7f-\x9f]*")
_FORBIDDEN_PARTS = {"", ".", ".."}  # parts between slashes that would lead to another folder
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
    """The header of a message; if it has a digest, ``offset`` bytes of the body or the whole body may be left out."""

    model_config = ConfigDict(extra="forbid", strict=True)

    type: str
    fields: dict[str, Any]  # JSON, see _check_json
    tensors: Annotated[list[TensorRow], Field(max_length=MAX_MESSAGE_TENSORS), FailFast()]
    transfer: Annotated[str, Field(max_length=64)]
    digest: Digest | None
    offset: Annotated[int, Field(ge=0, lt=2**48)]


def pack_header(header: dict[str, Any]) -> bytes:
    """Return a header as msgpack.

    Raises ProtocolError, TypeError, ValueError or OverflowError for values that cannot be sent.
    """
    data = bytes(msgpack.packb(header))
    _check_json(header)
    return data


def parse_header(data: bytes) -> Header:
    """Return a header decoded from msgpack. Raises ProtocolError."""
    try:
        # Skip over the data first, which allocates nothing. unpackb allocates an array of its declared length before it
        # reads the elements, so a thousand nested arrays could all declare the same bytes.
        look = msgpack.Unpacker(read_size=1, max_buffer_size=MAX_HEADER_BYTES)
        look.feed(data)
        look.skip()
        found = msgpack.unpackb(data, strict_map_key=True, ext_hook=_reject_extension, object_pairs_hook=_build_map)
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


def _build_map(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    """Return the map of these pairs. Raise ValueError for a duplicate key, since readers may use different values."""
    found: dict[Any, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"duplicate key {to_printable(str(key), 64)!r}")
        found[key] = value
    return found


def describe_schema_error(error: ValidationError) -> str:
    """Return a description of the first error, as one line of bounded length for any field names of a peer."""
    first = error.errors(include_url=False)[0]
    place = ".".join(map(str, first["loc"]))[:80]
    return f"{place if place.isprintable() else repr(place)}: {to_printable(first['msg'], 200)}"


def explain_invalid_name(name: object) -> str:
    """Return why a tensor cannot have this name, or an empty text if it can.

    >>> explain_invalid_name("layers.0.weight"), explain_invalid_name("../weight"), explain_invalid_name("NaN")
    ('', 'a name must not look like a path or contain control characters', 'a name must not be NaN')
    >>> explain_invalid_name("towers.sensor/1.weight"), explain_invalid_name("towers/../weight")
    ('', 'a name must not look like a path or contain control characters')
    """
    if not isinstance(name, str) or not 1 <= len(name) <= MAX_NAME_CHARS:
        return f"a name must have 1 to {MAX_NAME_CHARS} characters"
    if not _NAME_PATTERN.fullmatch(name) or not _FORBIDDEN_PARTS.isdisjoint(name.split("/")):
        return "a name must not look like a path or contain control characters"
    return "a name must not be NaN" if _NAN_PATTERN.fullmatch(name) else ""


def _check_json(header: Any) -> None:
    """Raise ProtocolError for a value that is not JSON or is nested too deeply, level by level, at the first one."""
    level = [header]
    for depth in range(MAX_DEPTH + 1):
        inner: list[Any] = []
        for each in level:
            if depth == MAX_DEPTH and isinstance(each, dict | list | tuple):
                raise ProtocolError(f"header: maps and arrays are nested more than {MAX_DEPTH} deep")
            if isinstance(each, dict):
                if not all(isinstance(key, str) for key in each):
                    raise ProtocolError("header: a key is not a string")
                inner += each.values()
            elif isinstance(each, list | tuple):
                inner += each
            elif not isinstance(each, _JSON_SCALARS):
                raise ProtocolError(f"header: unsupported value of type {type(each).__name__}")
        level = inner


def check_key_count(what: str, found: object) -> None:
    """Raise ProtocolError if a map has more keys than any valid map."""
    if isinstance(found, dict) and len(found) > MAX_KEYS:
        raise ProtocolError(f"{what}: {len(found)} keys exceed the limit of {MAX_KEYS}")


def _reject_extension(code: int, data: bytes) -> None:
    raise ValueError(f"unsupported extension type {code}")


def check_tensor_table(table: list[TensorRow]) -> int:
    """Check the rows of a tensor table, and return the size in bytes of the body. Raises ProtocolError."""
    position = 0
    names = set()
    for entry in table:
        if wrong := explain_invalid_name(entry.name):
            raise ProtocolError(f"tensor {entry.name!r}: {wrong}")
        if entry.dtype not in DTYPES:
            raise ProtocolError(f"tensor {entry.name!r}: unknown dtype {entry.dtype[:40]!r}")
        if entry.length != math.prod(entry.shape) * DTYPES[entry.dtype].itemsize:
            raise ProtocolError(f"tensor {entry.name!r}: {entry.length} bytes do not match shape {entry.shape}")
        if math.prod(size or 1 for size in entry.shape) >= 2**48:  # strides count dimensions of size 0 as 1
            raise ProtocolError(f"tensor {entry.name!r}: shape {entry.shape} is too large")
        if entry.name in names:
            raise ProtocolError(f"duplicate tensor {entry.name!r}")
        names.add(entry.name)
        position += -position % ALIGNMENT_BYTES + entry.length
    return position
