"""Declared bodies over several links: findings 4, 5 and 7 of an independent worker."""

import pytest
import torch

from fedws.core.limits import CHUNK_BYTES
from fedws.network.body_transfer import BodyTransfers
from fedws.node.answer_cache import AnswerCache
from fedws.protocol.encoder import EncodedMessage
from fedws.protocol.messages import Hello, Message, TaskRequest, TaskResult
from fedws.protocol.run_claim import RunClaim
from tests.helpers.protocol_page import WORDS

RUN, OTHER_RUN = RunClaim("5f2a", "lab", "key"), RunClaim("77d1", "lab", "other key")
SIZE = 2 * CHUNK_BYTES + 100
LIMIT = 2**26
HELLO = Hello(run="5f2a", node="alice", protocol=1)


def request(value: int = 1) -> TaskRequest:
    body = torch.full((SIZE,), value, dtype=torch.uint8)
    return TaskRequest(request_id="1/alice", worker="alice", round=1, task="t", tensors={"w": body})


async def deliver(receiver: BodyTransfers, encoded: EncodedMessage, num_bytes: int = LIMIT) -> Message | None:
    """Receive the first bytes of a message; return the message if it is complete."""
    with receiver.open_decoder(LIMIT) as decoder:
        for piece in encoded.fragments():
            decoder.feed(bytes(piece)[:num_bytes])
            num_bytes -= min(num_bytes, len(piece))
        if decoder.is_incomplete:
            return None
    return await receiver.read_message(decoder)


async def serve_once(cache: AnswerCache, sender: BodyTransfers) -> None:
    """Deliver a request on a link, and keep its result."""
    transfers = cache.start_link(RUN)
    sender.set_peer_offsets(transfers.resume_offsets)
    received = await deliver(transfers, await sender.encode(request()))
    assert isinstance(received, TaskRequest) and cache.find_result(received) is None
    cache.save(received, TaskResult(request_id="1/alice", worker="alice", round=1, num_examples=3))


async def test_a_kept_result_declares_the_whole_body_of_its_request() -> None:
    """Finding 4: the request then arrives with the whole length as offset, and without a byte of its body."""
    cache, sender = AnswerCache("alice"), BodyTransfers()
    await serve_once(cache, sender)
    transfers = cache.start_link(RUN)
    assert list(transfers.resume_offsets.values()) == [SIZE]
    sender.set_peer_offsets(transfers.resume_offsets)
    encoded = await sender.encode(request())
    assert encoded.header["offset"] == SIZE and encoded.body_size == 0 and not encoded.body
    repeated = await deliver(transfers, encoded)
    assert isinstance(repeated, TaskRequest) and torch.equal(repeated.tensors["w"], request().tensors["w"])
    assert cache.find_result(repeated) is not None
    assert "It declares the whole length of that body in `welcome`." in WORDS
    assert "with an `offset` of the whole length. No byte follows its header and padding." in WORDS


async def test_a_declaration_lasts_over_links_without_such_a_body() -> None:
    """Finding 5."""
    cache, sender = AnswerCache("alice"), BodyTransfers()
    assert await deliver(cache.start_link(RUN), await sender.encode(request()), CHUNK_BYTES + 5000) is None
    for _ in range(3):
        transfers = cache.start_link(RUN)
        assert list(transfers.resume_offsets.values()) == [CHUNK_BYTES]
        assert await deliver(transfers, await BodyTransfers().encode(HELLO)) == HELLO
    transfers = cache.start_link(RUN)
    sender.set_peer_offsets(transfers.resume_offsets)
    assert (encoded := await sender.encode(request())).header["offset"] == CHUNK_BYTES
    assert isinstance(await deliver(transfers, encoded), TaskRequest)
    assert "the receiver declares the same bytes again on the next link" in WORDS


async def test_a_declaration_is_dropped_at_another_body_and_at_another_run() -> None:
    """Finding 5."""
    for other_run in (True, False):
        cache, sender = AnswerCache("alice"), BodyTransfers()
        transfers = cache.start_link(RUN)
        assert await deliver(transfers, await sender.encode(request()), CHUNK_BYTES + 5000) is None
        if other_run:
            assert cache.start_link(OTHER_RUN).resume_offsets == {}
        else:
            await deliver(transfers, await BodyTransfers().encode(request(2)), 5000)
        assert cache.start_link(RUN).resume_offsets == {}
    assert "If that body has another digest, the receiver drops the bytes that it kept." in WORDS
    assert "A node drops them when it sends `welcome` to another run." in WORDS


@pytest.mark.parametrize(
    ("declared", "offset"),
    [
        (CHUNK_BYTES - 1, 0),
        (CHUNK_BYTES, CHUNK_BYTES),
        (2 * CHUNK_BYTES - 1, CHUNK_BYTES),
        (SIZE - 1, 2 * CHUNK_BYTES),
        (SIZE, SIZE),
        (SIZE + 1, SIZE),
        (2**63, SIZE),
    ],
)
async def test_a_sender_rounds_a_declared_number_to_chunks_or_to_the_whole_body(declared: int, offset: int) -> None:
    """Finding 7."""
    sender = BodyTransfers()
    digest = (await sender.encode(request())).header["digest"]
    sender.set_peer_offsets({digest: declared})
    encoded = await sender.encode(request())
    assert encoded.header["offset"] == offset and encoded.body_size == SIZE - offset
    assert (await sender.encode(request())).header["offset"] == 0, "a declaration applies to one body"
    assert "A sender rounds a declared number that is not a multiple of 1,048,576 down to whole chunks." in WORDS
    assert "A declared number above the length of the body means the whole body." in WORDS
