"""Messages to bytes and back: the format of ``docs/protocol.md``, pure, without I/O.

    magic "FDWS" | version, u32 | length of the header, u32 | header, msgpack | pad to 64 | body

All integers are little-endian. The body holds the raw bytes of each tensor, each at a multiple of 64; the header
says their names, dtypes, shapes and lengths. A message travels as fragments of at most 1 MiB, cut anywhere.
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
"""Largest fragment in bytes."""
STORE_TRANSFER = "store"
"""The transfer of a message whose body is in an object store."""
PREFIX = struct.Struct("<4sII")


@dataclass(frozen=True)
class EncodedMessage:
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

    def with_offset(self, digest: str, offset: int, limits: MessageLimits) -> "EncodedMessage":
        """The same, with the digest of its body, and without the ``offset`` bytes that its receiver has of it.

        Raises MessageTooLarge when the whole of it is not ``limits``.
        """
        header, size = {**self.header, "digest": digest, "offset": offset}, self.body_size - offset
        head, body = _encode_head(header, self.body_size, limits), []
        for buffer in self.body:
            if offset < len(buffer):
                body.append(buffer[offset:])
            offset = max(0, offset - len(buffer))
        return EncodedMessage(header, head, body, len(head) + size)

    def without_body(self, digest: str, limits: MessageLimits) -> "EncodedMessage":
        """The same without its body, which is elsewhere under its digest. Raises MessageTooLarge as :meth:`with_offset`
        does."""
        header = {**self.header, "transfer": STORE_TRANSFER, "digest": digest}
        head = _encode_head(header, self.body_size, limits)
        return EncodedMessage(header, head, [], len(head))

    def fragments(self) -> Iterator[memoryview | bytes]:
        """The message in pieces of at most 1 MiB; short neighbours travel together.

        The body of one with a digest begins with a piece, so that each whole piece that arrives is a whole chunk.
        """
        small = bytearray(self.head)
        if self.header["digest"] is not None:
            yield bytes(small)
            small.clear()
        for buffer in self.body:
            if len(small) + len(buffer) <= FRAGMENT_BYTES:
                small += buffer
                continue
            # Fill the started fragment, then cut the rest of a large buffer where it lies.
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
    """Return a message as bytes. Raises MessageTooLarge when it is not ``limits``, UsageError when it cannot travel."""
    tensors: Tensors = getattr(message, "tensors", {})
    table, body, position = [], [], 0
    for name, tensor in tensors.items():
        why, remedy = explain_unsupported_tensor(tensor)
        if why:
            raise UsageError(f"tensor {name!r:.300} cannot travel: it {why}; {remedy}")
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
    """Return why a tensor cannot travel, and what to do; both are empty if it can.

    >>> explain_unsupported_tensor(torch.eye(2).to_sparse())
    ('is torch.sparse_coo, and only strided tensors travel', 'use a dense tensor')
    """
    if tensor.is_meta:
        return "is on the device meta, and so has no values", "create it on the CPU"
    if tensor.is_nested or tensor.layout is not torch.strided:
        layout = "nested" if tensor.is_nested else str(tensor.layout)
        return f"is {layout}, and only strided tensors travel", "use a dense tensor"
    if tensor.dtype not in DTYPE_NAMES:
        return f"is {tensor.dtype}", f"these dtypes can: {', '.join(DTYPES)}"
    if tensor.dim() > MAX_DIMENSIONS:
        return f"has {tensor.dim()} dimensions", f"use at most {MAX_DIMENSIONS}"
    return "", ""


def build_tensor_row(name: str, tensor: torch.Tensor) -> dict[str, Any]:
    """Return the row of a tensor in a header's table."""
    return {"name": name, "dtype": DTYPE_NAMES[tensor.dtype], "shape": list(tensor.shape), "length": tensor.nbytes}


def _encode_head(header: dict[str, Any], body_size: int, limits: MessageLimits) -> bytes:
    """Prefix, header and padding of a message with a body of ``body_size`` bytes."""
    try:
        written = pack_header(header)
    except (TypeError, ValueError, OverflowError, ProtocolError) as error:
        raise UsageError(f"a {header['type']} cannot travel: {error}") from None
    head = PREFIX.pack(MAGIC, PROTOCOL_VERSION, len(written)) + written
    head += bytes(-len(head) % ALIGNMENT_BYTES)
    limits.check(len(written), len(header["tensors"]), len(head) + body_size)
    return head
