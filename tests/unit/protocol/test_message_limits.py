"""Limits on the size of a message, its header and its number of tensors."""

import struct

import pytest
import torch

from fedws.core.errors import MessageTooLarge, ProtocolError
from fedws.core.limits import MessageLimits
from fedws.protocol.encoder import encode_message
from fedws.protocol.messages import Hello
from tests.helpers.allocations import watched
from tests.helpers.decoded_messages import decoded, order
from tests.helpers.handmade_messages import changed, raw, row


@pytest.mark.parametrize(
    ("dtype", "shape", "length"),
    [("uint8", [2**40], 2**40), ("float64", [2**20, 2**20], 2**43), ("bool", [2**30 - 64], 2**30 - 64)],
)
def test_a_body_above_the_limit_is_refused_before_it_is_allocated(
    monkeypatch: pytest.MonkeyPatch, dtype: str, shape: list[int], length: int
) -> None:
    asked = watched(monkeypatch)
    with pytest.raises(ProtocolError, match=r"message of \d+ bytes exceeds the limit of 1073741824"):
        decoded(raw(row(dtype=dtype, shape=shape, length=length), b""))
    assert not any(asked)


def test_the_limit_is_of_the_whole_message() -> None:
    whole = raw()
    assert decoded(whole, len(whole))
    with pytest.raises(ProtocolError, match=f"message of {len(whole)} bytes exceeds the limit of {len(whole) - 1}"):
        decoded(whole, len(whole) - 1)
    message = order(w=torch.ones(100))
    size = encode_message(message).size
    assert encode_message(message, MessageLimits(size)).size == size
    limit = f"bob's limit of {size - 1:,} bytes"
    what = rf"^{size:,} bytes, which exceeds {limit}; start bob with --max-message-bytes {2**20}$"
    with pytest.raises(MessageTooLarge, match=what):
        encode_message(message, MessageLimits(size - 1, peer="bob"))


def test_many_tensors_that_are_each_below_the_limit_are_added_up() -> None:
    rows = [{"name": str(place), "dtype": "uint8", "shape": [2**20], "length": 2**20} for place in range(1025)]
    with pytest.raises(ProtocolError, match="exceeds the limit of 1073741824"):
        decoded(raw(changed(tensors=rows), b""))


def test_a_header_above_its_limit_is_refused_before_it_comes() -> None:
    with pytest.raises(ProtocolError, match=f"header of {2**19 + 1} bytes exceeds the limit of {2**19}"):
        decoded(struct.pack("<4sII", b"FDWS", 1, 2**19 + 1))
    with pytest.raises(ProtocolError, match=f"header of {2**32 - 1} bytes"):
        decoded(struct.pack("<4sII", b"FDWS", 1, 2**32 - 1))


def test_a_header_above_its_limit_is_not_sent() -> None:
    with pytest.raises(MessageTooLarge, match=r"bytes \(names and settings\), which exceeds the limit of 524,288"):
        encode_message(Hello(run="r" * 2**19, node="a", protocol=1))
    with pytest.raises(MessageTooLarge, match="10,001 tensors, which exceeds the other side's limit of 10,000 tensors"):
        encode_message(order(**{str(place): torch.ones(0) for place in range(10_001)}))
    few = MessageLimits(max_tensors=2, peer="alice")
    assert encode_message(order(a=torch.ones(1), b=torch.ones(1)), few)
    with pytest.raises(MessageTooLarge, match="3 tensors, which exceeds alice's limit of 2 tensors"):
        encode_message(order(a=torch.ones(1), b=torch.ones(1), c=torch.ones(1)), few)


def test_a_header_above_the_limit_of_its_message_is_refused_before_it_comes() -> None:
    with pytest.raises(ProtocolError, match="message of 65600 bytes exceeds the limit of 65536"):
        decoded(struct.pack("<4sII", b"FDWS", 1, 2**16), 2**16)
