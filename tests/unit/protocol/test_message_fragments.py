"""Fragments of an encoded message, and decoding from pieces of any size."""

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedws.core.errors import ProtocolError
from fedws.protocol.decoder import Decoder
from fedws.protocol.encoder import FRAGMENT_BYTES, encode_message
from fedws.protocol.messages import Message, TaskRequest
from tests.helpers.decoded_messages import data_of, decoded, order, plain
from tests.helpers.generated_messages import CALM, messages
from tests.helpers.handmade_messages import BODY, HEADER, changed, raw


@settings(CALM, max_examples=40)
@given(st.lists(st.integers(0, 40), max_size=8), st.integers(-3, 3))
def test_fragments_are_the_message_cut_small(sixteenths: list[int], off: int) -> None:
    tensors = {
        str(place): torch.full((max(0, size * FRAGMENT_BYTES // 16 + off),), place, dtype=torch.uint8)
        for place, size in enumerate(sixteenths)
    }
    encoded = encode_message(order(**tensors))
    pieces = [bytes(piece) for piece in encoded.fragments()]
    whole = b"".join(pieces)
    assert all(0 < len(piece) <= FRAGMENT_BYTES for piece in pieces)
    assert len(whole) == encoded.size and whole == encoded.head + b"".join(encoded.body)
    assert len(pieces) <= len(whole) // FRAGMENT_BYTES + len(tensors) + 1
    message = decoded(whole)
    assert isinstance(message, TaskRequest) and all(
        torch.equal(message.tensors[name], tensors[name]) for name in tensors
    )


@pytest.mark.parametrize("off", [-65, -64, -1, 0, 1, 63, 64])
@pytest.mark.parametrize("fragments", [1, 2])
def test_a_tensor_may_end_at_any_place_in_a_fragment(off: int, fragments: int) -> None:
    head = len(encode_message(order(w=torch.zeros(FRAGMENT_BYTES, dtype=torch.uint8))).head)
    size = fragments * FRAGMENT_BYTES - head + off
    message = order(w=torch.arange(size).to(torch.uint8))
    pieces = list(encode_message(message).fragments())
    assert [len(piece) for piece in pieces[:-1]] == [FRAGMENT_BYTES] * (len(pieces) - 1)
    assert sum(map(len, pieces)) == head + size and 0 < len(pieces[-1]) <= FRAGMENT_BYTES
    found = decoded(b"".join(pieces))
    assert isinstance(found, TaskRequest) and torch.equal(found.tensors["w"], message.tensors["w"])


def test_many_small_tensors_travel_together() -> None:
    tensors = {str(place): torch.ones(3) for place in range(500)}
    assert len(list(encode_message(order(**tensors)).fragments())) == 1


def test_fragments_may_be_taken_twice() -> None:
    """A broadcast is encoded once."""
    encoded = encode_message(order(w=torch.ones(FRAGMENT_BYTES)))
    assert [bytes(one) for one in encoded.fragments()] == [bytes(other) for other in encoded.fragments()]


@CALM
@given(messages, st.data())
def test_bytes_may_be_cut_anywhere(message: Message, data: st.DataObject) -> None:
    whole = data_of(message)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    decoder = Decoder()
    for start, end in itertools.pairwise([0, *cuts, len(whole)]):
        decoder.feed(memoryview(whole)[start:end])
    assert plain(decoder.build_message()) == plain(message)


@pytest.mark.parametrize("body", [b"", BODY])
def test_bytes_may_come_one_at_a_time(body: bytes) -> None:
    whole = raw(HEADER if body else changed(tensors=[]), body)
    decoder = Decoder()
    for place in range(len(whole)):
        with pytest.raises(ProtocolError, match="is shorter than"):
            decoder.build_message()
        decoder.feed(whole[place : place + 1])
    assert plain(decoder.build_message()) == plain(decoded(whole))


def test_a_message_cut_short_at_any_byte_is_refused() -> None:
    whole = raw()
    for end in range(len(whole)):
        with pytest.raises(ProtocolError, match="message is shorter than its declared length"):
            decoded(whole[:end])


@pytest.mark.parametrize("header", [HEADER, changed(tensors=[])])
def test_a_message_with_a_byte_too_many_is_refused(header: dict[str, Any]) -> None:
    body = BODY if header["tensors"] else b""
    with pytest.raises(ProtocolError, match=f"exceeds its declared length of {len(body)} bytes"):
        decoded(raw(header, body + b"\0"))
    decoder = Decoder()
    decoder.feed(raw(header, body))
    with pytest.raises(ProtocolError, match="exceeds its declared length"):
        decoder.feed(b"\0")
