"""What an answer may weigh: what its request can produce, and no more, whenever it comes and however."""

import pytest
import torch

from fedws.algorithms.fedsgd import FedSGD
from fedws.core import registry
from fedws.core.errors import ProtocolError
from fedws.core.limits import CHUNK
from fedws.core.plan import Training
from fedws.core.tensors import detached
from fedws.network.body_transfer import Transfers
from fedws.protocol.answer_size import SLACK, allowed, body, expected, weight
from fedws.protocol.encoder import MAGIC, PREFIX, VERSION, encode
from fedws.protocol.header import MAX_HEADER, packed
from fedws.protocol.messages import Order, Report

SMALL = {"w": torch.ones(10)}
LIMIT = 2**30


def order(size: int = 0, answer: int | None = None) -> Order:
    tensors = {"w": torch.zeros(size, dtype=torch.uint8)} if size else {}
    return Order(id="1/alice", worker="alice", round=1, task="t", tensors=tensors, answer=answer)


def report(size: int) -> Report:
    tensors = {"w": torch.zeros(size, dtype=torch.uint8)}
    return Report(order="1/alice", worker="alice", round=1, samples=1, tensors=tensors)


def pieces(message: Report, digest: str = "", offset: int = 0) -> list[bytes]:
    found = encode(message)
    if digest:
        found = found.named(digest, offset, Transfers()._accepted)
    return [bytes(piece) for piece in found.fragments()]


# --------------------------------------------------------------------------- how much


def test_it_is_what_the_largest_open_request_can_produce_and_a_fixed_rest() -> None:
    assert allowed([]) == SLACK
    assert allowed([order(100), order(5000), order()]) == SLACK + 5000
    assert allowed([order(5000, answer=0)]) == SLACK, "a score has no tensors"
    assert allowed([order(0, answer=2**40)]) == SLACK + 2**40
    assert PREFIX.size + MAX_HEADER + 64 < SLACK, "any header is taken"


def test_a_body_is_counted_as_it_is_sent() -> None:
    tensors = {"a": torch.ones(1), "b": torch.ones(10), "c": torch.ones(0), "d": torch.ones(3, dtype=torch.float64)}
    found = encode(Report(order="1", worker="a", round=1, samples=1, tensors=tensors))
    assert weight(tensors) == found.body_size == body(tensor.nbytes for tensor in tensors.values())


def test_reports_are_as_large_as_a_model_or_as_the_algorithm_tells() -> None:
    class Twice:
        def reported(self, model: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            return {**model, **{f"other:{name}": tensor for name, tensor in model.items()}}

    assert expected(object(), SMALL) == 40
    assert expected(Twice(), SMALL) == 64 + 40


def test_a_gradient_of_narrow_floats_is_wide_and_is_taken() -> None:
    model = detached(registry.build("model", "mlp:hidden=2,inputs=2,outputs=2").state_dict())
    made = FedSGD(Training(model="mlp:hidden=2,inputs=2,outputs=2"))
    narrow = {name: tensor.to(torch.float8_e5m2) for name, tensor in model.items()}
    assert expected(made, narrow) > weight(narrow)


def test_it_does_not_cross_the_wire() -> None:
    assert "answer" not in encode(order(answer=5)).header["fields"]
    assert order(answer=5) == order(answer=6), "an order that arrives is equal to the one that was sent"


# --------------------------------------------------------------------------- when and how it comes


def test_the_bound_is_read_when_the_header_is_there() -> None:
    """A reader waits for the answer before the request is made."""
    most = [SLACK]
    receiver = Transfers(allowed=lambda: most[0])
    with receiver.decoding(LIMIT) as decoder:
        most[0] = SLACK + 2 * CHUNK
        for piece in pieces(report(2 * CHUNK)):
            decoder.feed(piece)
    assert isinstance(decoder.message(), Report)


def test_a_larger_one_is_refused_by_its_header_before_memory_is_taken() -> None:
    receiver = Transfers(allowed=lambda: SLACK)
    text = r"^a report of 900,000,\d\d\d bytes; an answer to what was requested has at most 1,048,576$"
    with pytest.raises(ProtocolError, match=text), receiver.decoding(LIMIT) as decoder:
        decoder.feed(_claiming(900_000_000))
    assert len(decoder._buffer) == 0


def test_one_that_is_in_an_object_store_is_refused_before_it_is_fetched() -> None:
    receiver = Transfers(allowed=lambda: SLACK)
    with pytest.raises(ProtocolError, match="a report of 900,000,"), receiver.decoding(LIMIT) as decoder:
        decoder.feed(_claiming(900_000_000, transfer="store", digest="ab" * 32))


def test_one_that_goes_on_after_a_lost_link_has_the_bound_of_the_request_that_is_open_now() -> None:
    """What came of it was allowed by the request before."""
    most, digest = [SLACK + 4 * CHUNK], "ab" * 32
    receiver, large = Transfers(allowed=lambda: most[0]), report(4 * CHUNK)
    with receiver.decoding(LIMIT) as decoder:
        for piece in pieces(large, digest)[:3]:
            decoder.feed(piece)
    assert receiver.held == {digest: 2 * CHUNK}
    most[0] = SLACK
    with pytest.raises(ProtocolError, match="a report of 4,194,"), receiver.decoding(LIMIT) as decoder:
        decoder.feed(pieces(large, digest, 2 * CHUNK)[0])


def _claiming(size: int, transfer: str = "", digest: str | None = None) -> bytes:
    """The header of a report that says it has a tensor of so many bytes."""
    header = {**encode(report(1)).header, "transfer": transfer, "digest": digest}
    header["tensors"] = [{"name": "w", "dtype": "uint8", "shape": [size], "length": size}]
    written = packed(header)
    head = PREFIX.pack(MAGIC, VERSION, len(written)) + written
    return head + bytes(-len(head) % 64)
