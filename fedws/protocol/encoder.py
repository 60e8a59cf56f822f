"""The encoder, which turns messages into bytes in the format of ``docs/topics/protocol.md``; pure, without I/O.

    magic "FDWS" | version, u32 | length of the header, u32 | header, msgpack | pad to 64 | body

All integers are little-endian. The body holds the raw bytes of each tensor, each at a multiple of 64. The header
lists their names, dtypes, shapes and lengths. A message travels as fragments of at most 1 MiB, cut anywhere.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from fedws.core.errors import ProtocolError, UsageError
from fedws.core.limits import CHUNK_BYTES, DEFAULT_MESSAGE_LIMITS, MessageLimits
from fedws.core.tensors import DTYPE_NAMES, DTYPES, Tensors, view_bytes
from fedws.protocol.header import ALIGNMENT_BYTES, MAX_DIMENSIONS, explain_invalid_name, pack_header
from fedws.protocol.messages import MESSAGE_NAMES, Message, list_header_fields

MAGIC = b"FDWS"
PROTOCOL_VERSION = 1
FRAGMENT_BYTES = CHUNK_BYTES
"""Maximum size of a fragment in bytes."""
STORE_TRANSFER = "store"
"""Value of ``transfer`` for a message whose body is in an object store."""
PREFIX = struct.Struct("<4sII")


@dataclass(frozen=True)
class EncodedMessage:
    """A message as bytes; the body is a list of views of the tensors that are contiguous on the CPU, without copies."""

    header: dict[str, Any]
    head: bytes
    body: list[memoryview]
    size: int
    """Size of head and body in bytes."""

    @property
    def body_size(self) -> int:
        """Return the size of the body in bytes."""
        return self.size - len(self.head)

    def with_offset(self, digest: str, offset: int, limits: MessageLimits) -> "EncodedMessage":
        """Return the message with the digest of its body and without its first ``offset`` bytes.

        The receiver already has these bytes. Raises MessageTooLarge if the whole message exceeds ``limits``.
        """
        header, size = {**self.header, "digest": digest, "offset": offset}, self.body_size - offset
        head, body = _encode_head(header, self.body_size, limits), []
        for buffer in self.body:
            if offset < len(buffer):
                body.append(buffer[offset:])
            offset = max(0, offset - len(buffer))
        return EncodedMessage(header, head, body, len(head) + size)

    def without_body(self, digest: str, limits: MessageLimits) -> "EncodedMessage":
        """Return the message without its body, which is stored under its digest.

        Raises MessageTooLarge if the whole message exceeds ``limits``.
        """
        header = {**self.header, "transfer": STORE_TRANSFER, "digest": digest}
        head = _encode_head(header, self.body_size, limits)
        return EncodedMessage(header, head, [], len(head))

    def fragments(self) -> Iterator[memoryview | bytes]:
        """Yield the message in pieces of at most 1 MiB; short neighbouring buffers share a piece.

        If the message has a digest, its body starts with a new piece. Each whole piece is then a whole chunk of the
        body.
        """
        small = bytearray(self.head)
        if self.header["digest"] is not None:
            yield bytes(small)
            small.clear()
        for buffer in self.body:
            if len(small) + len(buffer) <= FRAGMENT_BYTES:
                small += buffer
                continue
            # Fill the started fragment, then cut the rest of a large buffer in place.
            start = FRAGMENT_BYTES - len(small) if small else 0
            if small:
                yield bytes(small) + buffer[:start]
                small.clear()
            while len(buffer) - start > FRAGMENT_BYTES:
                yield buffer[start : start + FRAGMENT_BYTES]
                start += FRAGMENT_BYTES
            small += buffer[start:]
        if small:
            yield bytes(small)


def encode_message(message: Message, limits: MessageLimits = DEFAULT_MESSAGE_LIMITS) -> EncodedMessage:
    """Return a message as bytes.

    Raises MessageTooLarge if it exceeds ``limits``, and UsageError if it cannot be encoded.
    """
    tensors: Tensors = getattr(message, "tensors", {})
    table, body, position = [], [], 0
    for name, tensor in tensors.items():
        why, remedy = explain_unsupported_tensor(tensor)
        if why:
            raise UsageError(f"cannot send tensor {name!r:.300}: it {why}; {remedy}")
        if wrong := explain_invalid_name(name):
            raise UsageError(f"tensor {name!r:.300}: {wrong}")
        pad = -position % ALIGNMENT_BYTES
        if pad:
            body.append(memoryview(bytes(pad)))
        data = view_bytes(tensor)
        body.append(data)
        position += pad + len(data)
        table.append(build_tensor_row(name, tensor))
    header = {
        "type": MESSAGE_NAMES[type(message)],
        "fields": {f.name: getattr(message, f.name) for f in list_header_fields(type(message))},
        "tensors": table,
        "transfer": "",
        "digest": None,
        "offset": 0,
    }
    head = _encode_head(header, position, limits)
    return EncodedMessage(header, head, body, len(head) + position)


def explain_unsupported_tensor(tensor: torch.Tensor) -> tuple[str, str]:
    """Return why a tensor cannot be sent and the remedy; both are empty if it can be sent.

    >>> explain_unsupported_tensor(torch.eye(2).to_sparse())
    ('has the layout torch.sparse_coo, and only strided tensors can be sent', 'use a dense tensor')
    """
    if tensor.is_meta:
        return "is on the meta device and has no values", "create it on the CPU"
    if tensor.is_nested or tensor.layout is not torch.strided:
        layout = "nested" if tensor.is_nested else str(tensor.layout)
        return f"has the layout {layout}, and only strided tensors can be sent", "use a dense tensor"
    if tensor.dtype not in DTYPE_NAMES:
        return f"has the dtype {tensor.dtype}", f"use one of {', '.join(DTYPES)}"
    if tensor.dim() > MAX_DIMENSIONS:
        return f"has {tensor.dim()} dimensions", f"use at most {MAX_DIMENSIONS}"
    return "", ""


def build_tensor_row(name: str, tensor: torch.Tensor) -> dict[str, Any]:
    """Return the row of a tensor in a header's table."""
    return {"name": name, "dtype": DTYPE_NAMES[tensor.dtype], "shape": list(tensor.shape), "length": tensor.nbytes}


def _encode_head(header: dict[str, Any], body_size: int, limits: MessageLimits) -> bytes:
    """Return prefix, header and padding of a message with a body of ``body_size`` bytes."""
    try:
        written = pack_header(header)
    except (TypeError, ValueError, OverflowError, ProtocolError) as error:
        raise UsageError(f"cannot encode message {header['type']!r}: {error}") from None
    head = PREFIX.pack(MAGIC, PROTOCOL_VERSION, len(written)) + written
    head += bytes(-len(head) % ALIGNMENT_BYTES)
    limits.check(len(written), len(header["tensors"]), len(head) + body_size)
    return head
