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
from fedws.core.limits import CHUNK, USUAL, Accepted
from fedws.core.tensors import DTYPES, NAMES, Tensors, raw
from fedws.protocol.header import ALIGNMENT, MAX_DIMENSIONS, misnamed, packed
from fedws.protocol.messages import MESSAGES, Message, carried

MAGIC = b"FDWS"
VERSION = 1
FRAGMENT = CHUNK
"""Largest fragment in bytes."""
STORED = "store"
"""The transfer of a message whose body is in an object store."""
PREFIX = struct.Struct("<4sII")
_TYPES = {kind: name for name, kind in MESSAGES.items()}


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

    def named(self, digest: str, offset: int, accepted: Accepted) -> "Encoded":
        """The same, with the digest of its body, and without the ``offset`` bytes that its receiver has of it.

        Raises TooLarge when the whole of it is not ``accepted``.
        """
        header, size = {**self.header, "digest": digest, "offset": offset}, self.body_size - offset
        head, body = _head(header, self.body_size, accepted), []
        for buffer in self.body:
            if offset < len(buffer):
                body.append(buffer[offset:])
            offset = max(0, offset - len(buffer))
        return Encoded(header, head, body, len(head) + size)

    def stored(self, digest: str, accepted: Accepted) -> "Encoded":
        """The same without its body, which is elsewhere under its digest. Raises TooLarge as :meth:`named` does."""
        header = {**self.header, "transfer": STORED, "digest": digest}
        head = _head(header, self.body_size, accepted)
        return Encoded(header, head, [], len(head))

    def fragments(self) -> Iterator[memoryview | bytes]:
        """The message in pieces of at most 1 MiB; short neighbours travel together.

        The body of one with a digest begins with a piece, so that each whole piece that arrives is a whole chunk.
        """
        small = bytearray(self.head)
        if self.header["digest"] is not None:
            yield bytes(small)
            small.clear()
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


def encode(message: Message, accepted: Accepted = USUAL) -> Encoded:
    """Return a message as bytes. Raises TooLarge when it is not ``accepted``, UsageError when it cannot travel."""
    tensors: Tensors = getattr(message, "tensors", {})
    table, body, position = [], [], 0
    for name, tensor in tensors.items():
        why, remedy = strange(tensor)
        if why:
            raise UsageError(f"tensor {name!r:.300} cannot travel: it {why}; {remedy}")
        if wrong := misnamed(name):
            raise UsageError(f"tensor {name!r:.300}: {wrong}")
        pad = -position % ALIGNMENT
        if pad:
            body.append(memoryview(bytes(pad)))
        data = raw(tensor)
        body.append(data)
        position += pad + len(data)
        table.append(row(name, tensor))
    header = {
        "type": _TYPES[type(message)],
        "fields": {f.name: getattr(message, f.name) for f in carried(type(message))},
        "tensors": table,
        "transfer": "",
        "digest": None,
        "offset": 0,
    }
    head = _head(header, position, accepted)
    return Encoded(header, head, body, len(head) + position)


def strange(tensor: torch.Tensor) -> tuple[str, str]:
    """Return why a tensor cannot travel, and what to do; both are empty if it can.

    >>> strange(torch.eye(2).to_sparse())
    ('is torch.sparse_coo, and only strided tensors travel', 'use a dense tensor')
    """
    if tensor.is_meta:
        return "is on the device meta, and so has no values", "create it on the CPU"
    if tensor.is_nested or tensor.layout is not torch.strided:
        layout = "nested" if tensor.is_nested else str(tensor.layout)
        return f"is {layout}, and only strided tensors travel", "use a dense tensor"
    if tensor.dtype not in NAMES:
        return f"is {tensor.dtype}", f"these dtypes can: {', '.join(DTYPES)}"
    if tensor.dim() > MAX_DIMENSIONS:
        return f"has {tensor.dim()} dimensions", f"use at most {MAX_DIMENSIONS}"
    return "", ""


def row(name: str, tensor: torch.Tensor) -> dict[str, Any]:
    """Return the row of a tensor in a header's table."""
    return {"name": name, "dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "length": tensor.nbytes}


def _head(header: dict[str, Any], size: int, accepted: Accepted) -> bytes:
    """Prefix, header and padding of a message with a body of ``size`` bytes."""
    try:
        written = packed(header)
    except (TypeError, ValueError, OverflowError, ProtocolError) as error:
        raise UsageError(f"a {header['type']} cannot travel: {error}") from None
    head = PREFIX.pack(MAGIC, VERSION, len(written)) + written
    head += bytes(-len(head) % ALIGNMENT)
    accepted.check(len(written), len(header["tensors"]), len(head) + size)
    return head
