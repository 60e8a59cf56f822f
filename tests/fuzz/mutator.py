"""Inputs for the decoder: valid messages, and broken ones that random bytes would not reach."""

import copy
import math
import struct
from collections.abc import Iterator
from random import Random
from typing import Any

import msgpack
import torch

from fedws.core.tensors import DTYPES
from fedws.protocol import encoder
from fedws.protocol.header import ALIGNMENT_BYTES
from fedws.protocol.messages import (
    Challenge,
    Hello,
    Message,
    Proof,
    Refusal,
    TaskFailure,
    TaskRequest,
    TaskResult,
    Welcome,
)
from tests.helpers.support import TAKEOVER

SECRET = "0f" * 32
ODD: tuple[Any, ...] = (
    *(0, 1, -1, 2, 15, 16, 17, 31, 63, 64, 255, 256, 2**16, 2**31, 2**32 - 1, 2**47, 2**48, 2**63, 2**64 - 1),
    *(None, True, False, 0.0, math.nan, math.inf, b"", b"w", msgpack.ExtType(5, b"code"), msgpack.Timestamp(1, 1)),
    *("", "w", "x" * 65, "x" * 257, "nan", "NaN", "../w", "/etc/passwd", "a\\b", "w\0", "\x1b[2J", ".w", "a\nb"),
    *([], {}, [[]], [0, 2**63], [2**47, 2**47, 0], [1] * 17, {"a": {"b": [{}]}}, *DTYPES, "quint8", "object"),
)
KEYS = ("type", "fields", "tensors", "transfer", "digest", "offset", "name", "dtype", "shape", "length", "settings")
LIES = (b"\x91", b"\x81\xa1x", b"\xdc\xff\xff", b"\xdd\xff\xff\xff\xff", b"\xdf\0\1\0\0", b"\xc6\xff\xff\0\0")
"""Headers of arrays, maps and texts, some of them long, whose content is missing."""


def messages() -> list[Message]:
    """Return a message of every type, and some further ones."""
    tensors = {name: torch.ones(2, 1).to(dtype) for name, dtype in DTYPES.items()}
    deep: Any = 1
    for _ in range(13):
        deep = {"x": deep}
    return [
        Hello(run="r", node="alice", protocol=1, nonce=SECRET),
        Challenge(node="alice", nonce=SECRET, proof=SECRET),
        Proof(proof=SECRET, takeover_key=TAKEOVER, signature=2 * TAKEOVER),
        Welcome(node="alice", role="worker", dataset="d", num_examples=2, labels=[0, 1]),
        Refusal(kind="busy", reason="later"),
        TaskRequest(request_id="1", worker="alice", round=1, task="t", settings={"a": [1.0, None]}, tensors=tensors),
        TaskRequest(
            request_id="1", worker="alice", round=1, task="t", settings={"a": deep}, tensors={"w": torch.ones(0, 3)}
        ),
        TaskRequest(
            request_id="1", worker="alice", round=1, task="t", tensors={"s": torch.tensor(1), "w": torch.ones(99)}
        ),
        TaskResult(
            request_id="1", worker="alice", round=1, num_examples=1, metrics={"loss": 0.5}, tensors={"w": torch.ones(3)}
        ),
        TaskFailure(request_id="1", worker="alice", round=1, kind="refused", reason="no"),
    ]


def seeds() -> list[bytes]:
    """Return the initial inputs: a byte that selects how the input is fed, and a message."""
    return [
        bytes([place]) + b"".join(encoder.encode_message(each).fragments()) for place, each in enumerate(messages())
    ]


_SEEDS = seeds()


def mutate(data: bytes, random: Random, most: int = 2**16) -> bytes:
    """Return an input that resembles this one, or an initial one."""
    if random.random() < 0.3:
        data = random.choice(_SEEDS)
    found = parsed(data)
    if found is None or random.random() < 0.25:
        changed = _bytes(data, random)
    else:
        control, header, body = found
        if random.random() < 0.1:
            _grow(header, random)
        else:
            for _ in range(random.choice((1, 1, 1, 2, 3))):
                header = _changed(header, random)
        if random.random() < 0.2:
            body = random.choice((body[: len(body) // 2], body + bytes(64), b"", _bytes(body, random)))
        changed = assembled(control if random.random() < 0.8 else random.randrange(256), header, body, random)
    return changed[:most]


def parsed(data: bytes) -> tuple[int, Any, bytes] | None:
    """Return the input's first byte, its header and its body; None if it has no header."""
    if len(data) < 13 or data[1:5] != encoder.MAGIC:
        return None
    length = struct.unpack_from("<I", data, 9)[0]
    end = 12 + length
    try:
        header = msgpack.unpackb(data[13 : 1 + end], strict_map_key=False, max_array_len=2**12)
    except Exception:  # it is not a valid header
        return None
    return data[0], header, data[1 + end + -end % ALIGNMENT_BYTES :]


def assembled(control: int, header: Any, body: bytes, random: Random) -> bytes:
    """Return an input with this header; sometimes its lengths are wrong."""
    try:
        packed = bytearray(msgpack.packb(header))
    except Exception:  # some unpacked values cannot be packed
        packed = bytearray(b"\x80")
    if random.random() < 0.1:  # it is nested too deeply, or its lengths are wrong
        lie = random.choice(LIES)
        place = random.randrange(len(packed) + 1)
        packed[place:place] = lie * random.choice((1, 3, 17, 100, 1100))
    length = len(packed) if random.random() < 0.95 else random.choice((0, len(packed) - 1, 2**16, 2**19 + 1, 2**32 - 1))
    version = 1 if random.random() < 0.98 else random.randrange(4)
    head = struct.pack("<4sII", encoder.MAGIC, version, max(0, length)) + packed
    return bytes([control]) + head + bytes(-len(head) % ALIGNMENT_BYTES) + body


def _changed(header: Any, random: Random) -> Any:
    """Return the header with one change at one place; ``parsed`` has made it a copy."""
    places = list(_places(header))
    if not places:
        return _odd(random)
    holder, last = random.choice(places)
    how = random.randrange(9)
    if how >= 6:
        holder[last] = _alike(holder[last], random)
    elif how == 0:
        del holder[last]
    elif how == 1 and isinstance(holder, dict):
        holder[random.choice(KEYS)] = _odd(random)
    elif how == 1:
        holder.insert(last, holder[last] if random.random() < 0.5 else _odd(random))
    elif how == 2:
        other, key = random.choice(places)
        with_other = other[key] if key in other or isinstance(other, list) else None
        holder[last] = with_other if not isinstance(with_other, dict | list) else _odd(random)
    elif how == 3 and isinstance(holder[last], int):
        holder[last] = min(2**64 - 1, max(-(2**63), holder[last] + random.choice((-1, 1, 64, -64))))
    elif how == 4 and isinstance(holder, list):
        holder *= random.choice((2, 3, 20))
        del holder[2**12 :]
    else:
        holder[last] = _odd(random)
    return header


def _grow(header: Any, random: Random) -> None:
    """Enlarge a tensor in the header's table, so that its memory is allocated before its bytes arrive."""
    rows = header.get("tensors") if isinstance(header, dict) else None
    if isinstance(rows, list) and rows and isinstance(row := random.choice(rows), dict):
        size = random.choice((*range(9), 2**10, 2**12 - 256, 2**16, 2**20 - 512, 2**24, 2**30, 2**40, 2**47))
        row["dtype"] = kind = random.choice(list(DTYPES))
        row["shape"], row["length"] = random.choice(([size], [1, size], [size, 1])), size * DTYPES[kind].itemsize


def _alike(value: Any, random: Random) -> Any:
    """Return another value of the same kind, which may be valid too."""
    alike = [odd for odd in ODD if type(odd) is type(value)] if isinstance(value, str | int | float) else []
    if isinstance(value, dict | list):
        return type(value)()
    return random.choice(alike) if alike else value


def _odd(random: Random) -> Any:
    """Return any value, possibly changed in turn."""
    return copy.deepcopy(random.choice(ODD))


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    level = [value]
    while level:
        inner = []
        for holder in level:
            for key in holder if isinstance(holder, dict) else range(len(holder)) if isinstance(holder, list) else ():
                yield holder, key
                inner.append(holder[key])
        level = inner[:200]


def _bytes(data: bytes, random: Random) -> bytes:
    """Return the data with flipped bits, with parts removed, doubled or inserted, or truncated."""
    found = bytearray(data or b"\0")
    for _ in range(random.choice((1, 1, 2, 4))):
        place = random.randrange(len(found) + 1)
        how = random.randrange(5)
        if how == 0:
            found[place : place + 1] = bytes([random.randrange(256)])
        elif how == 1:
            found[place:place] = random.randbytes(random.choice((1, 4, 64)))
        elif how == 2:
            del found[place : place + random.choice((1, 2, 9))]
        elif how == 3:
            found[place:place] = found[place : place + 64]
        else:
            del found[max(1, place) :]
    return bytes(found)
