"""Every message that is encoded is decoded to the same message."""

import struct

import msgpack
import pytest
import torch
from hypothesis import given, settings

from fedws.core.tensors import DTYPES
from fedws.protocol.messages import (
    MESSAGE_TYPES,
    Challenge,
    Hello,
    Join,
    Message,
    Proof,
    Refusal,
    TaskFailure,
    TaskRequest,
    TaskResult,
    Welcome,
)
from tests.helpers.decoded_messages import data_of, decoded, order, plain
from tests.helpers.generated_messages import CALM, messages
from tests.helpers.handmade_messages import HEADER, raw


@settings(CALM, max_examples=300)
@given(messages)
def test_every_message_comes_back_as_it_was(message: Message) -> None:
    assert plain(decoded(data_of(message))) == plain(message)


def test_every_message_is_among_the_generated_ones() -> None:
    assert set(MESSAGE_TYPES.values()) == {
        Join,
        Hello,
        Challenge,
        Proof,
        Welcome,
        Refusal,
        TaskRequest,
        TaskResult,
        TaskFailure,
    }


@pytest.mark.parametrize("name", DTYPES)
def test_every_dtype_comes_back_to_the_bit(name: str) -> None:
    bits = torch.randint(0, 2 if name == "bool" else 256, (3, 16), dtype=torch.uint8)
    message = order(w=bits.view(DTYPES[name]), scalar=bits.view(DTYPES[name])[0, 0], none=bits.view(DTYPES[name])[:0])
    assert plain(decoded(data_of(message))) == plain(message)


def test_a_message_is_laid_out_as_the_protocol_says() -> None:
    data = data_of(order(a=torch.tensor([1, 2, 3], dtype=torch.uint8), b=torch.tensor(-2, dtype=torch.int32)))
    magic, version, length = struct.unpack_from("<4sII", data)
    assert (magic, version) == (b"FDWS", 1)
    assert msgpack.unpackb(data[12 : 12 + length]) == {
        "type": "task_request",
        "fields": {
            "request_id": "1/alice",
            "worker": "alice",
            "round": 1,
            "task": "t",
            "state_round": 0,
            "seed": 0,
            "settings": {},
            "resume_offsets": {},
        },
        "tensors": [
            {"name": "a", "dtype": "uint8", "shape": [3], "length": 3},
            {"name": "b", "dtype": "int32", "shape": [], "length": 4},
        ],
        "transfer": "",
        "digest": None,
        "offset": 0,
    }
    body = 12 + length + -(12 + length) % 64
    assert data[12 + length : body] == bytes(body - 12 - length)
    assert data[body:] == b"\1\2\3" + bytes(61) + b"\xfe\xff\xff\xff"


def test_a_message_of_another_writer_is_read() -> None:
    """Keys in another order, defaults left out."""
    message = decoded(raw({key: HEADER[key] for key in reversed(HEADER)}))
    assert isinstance(message, TaskRequest) and message.seed == 0 and message.settings == {}
    assert message.tensors["w"].tolist() == [[1], [2]]


def test_gradients_and_devices_stay_behind() -> None:
    message = decoded(data_of(order(w=torch.nn.Parameter(torch.ones(2)))))
    assert isinstance(message, TaskRequest) and not message.tensors["w"].requires_grad


def test_a_single_value_with_a_stride_is_sent() -> None:
    message = decoded(data_of(order(w=torch.arange(2.0)[::2], t=torch.ones(1, 2).t()[:1, :1])))
    assert isinstance(message, TaskRequest)
    assert message.tensors["w"].tolist() == [0] and message.tensors["t"].tolist() == [[1]]


def test_what_is_received_may_be_written_to_without_changing_what_was_sent() -> None:
    mine = torch.ones(3)
    message = decoded(data_of(order(w=mine)))
    assert isinstance(message, TaskRequest)
    message.tensors["w"].zero_()
    assert mine.tolist() == [1, 1, 1]
