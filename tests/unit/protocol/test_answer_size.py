"""What an answer may weigh: what its request can produce, and no more, whenever it comes and however."""

import pytest
import torch

from fedws.core.errors import ProtocolError
from fedws.core.limits import CHUNK_BYTES, MAX_HEADER_BYTES
from fedws.network.body_transfer import BodyTransfers
from fedws.protocol.answer_size import (
    ANSWER_SLACK_BYTES,
    compute_body_size,
    compute_max_answer_size,
    compute_tensors_size,
)
from fedws.protocol.encoder import MAGIC, PREFIX, PROTOCOL_VERSION, encode_message
from fedws.protocol.header import pack_header
from fedws.protocol.messages import TaskRequest, TaskResult

SMALL = {"w": torch.ones(10)}
LIMIT = 2**30


def order(size: int = 0, answer: int | None = None) -> TaskRequest:
    tensors = {"w": torch.zeros(size, dtype=torch.uint8)} if size else {}
    return TaskRequest(
        request_id="1/alice", worker="alice", round=1, task="t", tensors=tensors, max_result_bytes=answer
    )


def report(size: int) -> TaskResult:
    tensors = {"w": torch.zeros(size, dtype=torch.uint8)}
    return TaskResult(request_id="1/alice", worker="alice", round=1, num_examples=1, tensors=tensors)


def pieces(message: TaskResult, digest: str = "", offset: int = 0) -> list[bytes]:
    found = encode_message(message)
    if digest:
        found = found.with_offset(digest, offset, BodyTransfers()._peer_limits)
    return [bytes(piece) for piece in found.fragments()]


# --------------------------------------------------------------------------- how much


def test_it_is_what_the_largest_open_request_can_produce_and_a_fixed_rest() -> None:
    assert compute_max_answer_size([]) == ANSWER_SLACK_BYTES
    assert compute_max_answer_size([order(100), order(5000), order()]) == ANSWER_SLACK_BYTES + 5000
    assert compute_max_answer_size([order(5000, answer=0)]) == ANSWER_SLACK_BYTES, "a score has no tensors"
    assert compute_max_answer_size([order(0, answer=2**40)]) == ANSWER_SLACK_BYTES + 2**40
    assert PREFIX.size + MAX_HEADER_BYTES + 64 < ANSWER_SLACK_BYTES, "any header is taken"


def test_a_body_is_counted_as_it_is_sent() -> None:
    tensors = {"a": torch.ones(1), "b": torch.ones(10), "c": torch.ones(0), "d": torch.ones(3, dtype=torch.float64)}
    found = encode_message(TaskResult(request_id="1", worker="a", round=1, num_examples=1, tensors=tensors))
    assert (
        compute_tensors_size(tensors)
        == found.body_size
        == compute_body_size(tensor.nbytes for tensor in tensors.values())
    )


def test_it_does_not_cross_the_wire() -> None:
    assert "answer" not in encode_message(order(answer=5)).header["fields"]
    assert order(answer=5) == order(answer=6), "an order that arrives is equal to the one that was sent"


# --------------------------------------------------------------------------- when and how it comes


def test_the_bound_is_read_when_the_header_is_there() -> None:
    """A reader waits for the answer before the request is made."""
    most = [ANSWER_SLACK_BYTES]
    receiver = BodyTransfers(get_max_answer_bytes=lambda: most[0])
    with receiver.open_decoder(LIMIT) as decoder:
        most[0] = ANSWER_SLACK_BYTES + 2 * CHUNK_BYTES
        for piece in pieces(report(2 * CHUNK_BYTES)):
            decoder.feed(piece)
    assert isinstance(decoder.build_message(), TaskResult)


def test_a_larger_one_is_refused_by_its_header_before_memory_is_taken() -> None:
    receiver = BodyTransfers(get_max_answer_bytes=lambda: ANSWER_SLACK_BYTES)
    text = r"^message 'task_result' of 900,000,\d\d\d bytes exceeds the limit of 1,048,576 bytes for the open requests$"
    with pytest.raises(ProtocolError, match=text), receiver.open_decoder(LIMIT) as decoder:
        decoder.feed(_claiming(900_000_000))
    assert len(decoder._buffer) == 0


def test_one_that_is_in_an_object_store_is_refused_before_it_is_fetched() -> None:
    receiver = BodyTransfers(get_max_answer_bytes=lambda: ANSWER_SLACK_BYTES)
    with pytest.raises(ProtocolError, match="'task_result' of 900,000,"), receiver.open_decoder(LIMIT) as decoder:
        decoder.feed(_claiming(900_000_000, transfer="store", digest="ab" * 32))


def test_one_that_goes_on_after_a_lost_link_has_the_bound_of_the_request_that_is_open_now() -> None:
    """What came of it was allowed by the request before."""
    most, digest = [ANSWER_SLACK_BYTES + 4 * CHUNK_BYTES], "ab" * 32
    receiver, large = BodyTransfers(get_max_answer_bytes=lambda: most[0]), report(4 * CHUNK_BYTES)
    with receiver.open_decoder(LIMIT) as decoder:
        for piece in pieces(large, digest)[:3]:
            decoder.feed(piece)
    assert receiver.resume_offsets == {digest: 2 * CHUNK_BYTES}
    most[0] = ANSWER_SLACK_BYTES
    with pytest.raises(ProtocolError, match="message 'task_result' of 4,194,"), receiver.open_decoder(LIMIT) as decoder:
        decoder.feed(pieces(large, digest, 2 * CHUNK_BYTES)[0])


def _claiming(size: int, transfer: str = "", digest: str | None = None) -> bytes:
    """The header of a report that says it has a tensor of so many bytes."""
    header = {**encode_message(report(1)).header, "transfer": transfer, "digest": digest}
    header["tensors"] = [{"name": "w", "dtype": "uint8", "shape": [size], "length": size}]
    written = pack_header(header)
    head = PREFIX.pack(MAGIC, PROTOCOL_VERSION, len(written)) + written
    return head + bytes(-len(head) % 64)
