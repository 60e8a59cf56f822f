"""Mutated messages and random bytes: an error, or a valid message."""

import copy
import math
import struct
from collections.abc import Iterator
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedws.core.errors import ProtocolError
from fedws.core.limits import MAX_HEADER_BYTES
from fedws.core.tensors import DTYPE_NAMES
from fedws.protocol.messages import MESSAGE_TYPES
from tests.helpers.decoded_messages import data_of, decoded, plain
from tests.helpers.generated_messages import CALM, leaves, messages, words
from tests.helpers.handmade_messages import raw

_odd = st.one_of(
    leaves,
    st.sampled_from(
        [0, 1, -1, 2, 2**31, 2**47, 2**48, 2**63, 2**64 - 1, "", "w", "task_request", "bool", "float64", b"", b"w"]
    ),
    st.sampled_from([[], {}, [[]], {"a": 1}, [2**47, 2**47, 0], [0, 2**63], math.nan, math.inf, True]),
    st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=8)),
    st.just(msgpack.Timestamp(5)),
).map(copy.deepcopy)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in nested lists and dicts."""
    if path:
        yield path
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*path, key))


@st.composite
def _mutant(draw: st.DrawFn) -> bytes:
    """A valid message whose header was changed at some places, and maybe the body, or single bytes."""
    data = data_of(draw(messages))
    length = struct.unpack_from("<I", data, 8)[0]
    header, body = msgpack.unpackb(data[12 : 12 + length]), data[12 + length + -(12 + length) % 64 :]
    for _ in range(draw(st.integers(0, 3))):
        *path, last = draw(st.sampled_from(list(places(header))))
        holder = header
        for key in path:
            holder = holder[key]
        change = draw(st.sampled_from(["replace", "remove", "add", "double"]))
        if change == "replace":
            holder[last] = draw(_odd)
        elif change == "remove":
            del holder[last]
        elif isinstance(holder, list):
            holder.append(copy.deepcopy(holder[last]) if change == "double" else draw(_odd))
        else:
            holder[draw(words)] = draw(_odd)
        if not header:
            break
    body = body[: draw(st.integers(0, len(body)))] if draw(st.booleans()) else body + draw(st.binary(max_size=70))
    found = bytearray(raw(header, body))
    for place in draw(st.lists(st.integers(0, len(found) - 1), max_size=3)) if draw(st.booleans()) else []:
        found[place] ^= draw(st.integers(1, 255))
    return bytes(found)


def is_json(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and is_json(inner) for key, inner in value.items())
    if isinstance(value, list):
        return all(map(is_json, value))
    return value is None or type(value) in (bool, int, float, str)


def check(data: bytes, limit: int = 2**20) -> None:
    """Either a ProtocolError of one line, or a message that is right in every respect."""
    try:
        message = decoded(data, limit)
    except ProtocolError as error:
        assert str(error).isprintable() and len(str(error)) < 800
        return
    assert type(message) in MESSAGE_TYPES.values()
    values = {key: value for key, value in vars(message).items() if key != "tensors"}
    assert is_json(values)
    for tensor in getattr(message, "tensors", {}).values():
        assert tensor.dtype in DTYPE_NAMES and (tensor == tensor).numel() == tensor.numel()
    assert repr(plain(decoded(data_of(message)))) == repr(plain(message))


@settings(CALM, max_examples=400)
@given(_mutant())
def test_a_mutant_is_refused_or_right(data: bytes) -> None:
    check(data)


@CALM
@given(st.binary(max_size=200))
def test_noise_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        decoded(data)


@settings(CALM, max_examples=200)
@given(st.binary(max_size=200))
def test_noise_for_a_header_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        decoded(raw(data, b""))


def test_every_bit_of_a_message_may_flip() -> None:
    whole = raw()
    for place in range(len(whole)):
        for bit in range(8):
            data = bytearray(whole)
            data[place] ^= 1 << bit
            check(bytes(data), MAX_HEADER_BYTES)
