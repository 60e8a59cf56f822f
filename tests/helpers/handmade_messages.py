"""Messages made by hand from a header and a body, valid or not."""

import struct
from typing import Any

import msgpack

HEADER: dict[str, Any] = {
    "type": "task_request",
    "fields": {"request_id": "1/alice", "worker": "alice", "round": 1, "task": "t"},
    "tensors": [{"name": "w", "dtype": "int16", "shape": [2, 1], "length": 4}],
    "transfer": "",
    "digest": None,
    "offset": 0,
}
BODY = b"\1\0\2\0"


def raw(
    header: Any = HEADER, body: bytes = BODY, *, magic: bytes = b"FDWS", version: int = 1, length: int = -1
) -> bytes:
    """Return a message of a header and a body; ``header`` is packed unless it is bytes."""
    packed = header if isinstance(header, bytes) else msgpack.packb(header)
    head = struct.pack("<4sII", magic, version, len(packed) if length < 0 else length) + packed
    return head + bytes(-len(head) % 64) + body


def changed(**changes: Any) -> dict[str, Any]:
    return {**HEADER, **changes}


def field(**changes: Any) -> dict[str, Any]:
    return changed(fields={**HEADER["fields"], **changes})


def row(**changes: Any) -> dict[str, Any]:
    return changed(tensors=[{**HEADER["tensors"][0], **changes}])


def nested(levels: int) -> Any:
    """Return so many nested maps and lists."""
    found: Any = 1
    for level in range(levels):
        found = {"x": found} if (levels - level) % 2 else [found]
    return found


MISNAMED = [
    "../w",
    "/etc/passwd",
    "a/",
    "a//b",
    "a/../b",
    "a/./b",
    "a/..",
    "a\\b",
    "..",
    ".",
    ".ssh",
    "..\\w",
    "C:\\w",
    "w\0",
    "a\nb",
    "\x1b[2J",
    "w\x7f",
    "w\x9b",
]
MISNAMED += ["nan", "NaN", "NAN", "+nan", "-NaN"]
