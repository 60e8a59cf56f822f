"""Memory of encoding and decoding: views instead of copies, one aligned buffer for received tensors."""

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given

from fedws.protocol.decoder import Decoder
from fedws.protocol.encoder import FRAGMENT_BYTES, encode_message
from fedws.protocol.messages import TaskRequest
from tests.helpers.allocations import watched
from tests.helpers.decoded_messages import decoded, order
from tests.helpers.generated_messages import CALM, tensor_dicts


def address(piece: memoryview | bytes) -> int:
    return int(np.frombuffer(piece, np.uint8).ctypes.data)


def test_large_tensors_are_sent_from_where_they_lie() -> None:
    tensor = torch.ones(4 * FRAGMENT_BYTES // 4)
    first, last = tensor.data_ptr(), tensor.data_ptr() + 4 * FRAGMENT_BYTES
    pieces = list(encode_message(order(small=torch.ones(3), w=tensor)).fragments())
    views = [piece for piece in pieces if isinstance(piece, memoryview) and first <= address(piece) < last]
    assert sum(map(len, views)) >= 3 * FRAGMENT_BYTES - 2**14
    tensor.zero_()
    assert not any(bytes(views[1])) and any(bytes(pieces[0]))


def test_encoding_makes_no_second_model() -> None:
    tensor = torch.ones(2**23)  # 32 MiB
    tracemalloc.start()
    try:
        for piece in encode_message(order(w=tensor)).fragments():
            assert len(piece)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * FRAGMENT_BYTES


def test_received_tensors_view_one_buffer_that_was_allocated_once(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = encode_message(order(a=torch.ones(2**18), b=torch.tensor(True), c=torch.ones(3, 5).t()))
    pieces = [bytes(piece) for piece in encoded.fragments()]
    asked = watched(monkeypatch)
    decoder = Decoder()
    for piece in pieces:
        decoder.feed(piece)
    message = decoder.build_message()
    assert isinstance(message, TaskRequest)
    assert [size for size in asked if size] == [encoded.size - len(encoded.head)]
    assert len({tensor.untyped_storage().data_ptr() for tensor in message.tensors.values()}) == 1


@CALM
@given(tensor_dicts)
def test_every_tensor_lies_at_a_multiple_of_64(tensors: dict[str, torch.Tensor]) -> None:
    encoded = encode_message(TaskRequest(request_id="1", worker="a", round=1, task="t", tensors=tensors))
    assert len(encoded.head) % 64 == 0
    message = decoded(encoded.head + b"".join(encoded.body))
    assert isinstance(message, TaskRequest)
    for tensor in message.tensors.values():
        assert tensor.is_contiguous() and tensor.storage_offset() * tensor.element_size() % 64 == 0
        assert tensor.untyped_storage().data_ptr() % 64 == 0 or not tensor.numel()
