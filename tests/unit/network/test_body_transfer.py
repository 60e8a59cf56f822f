"""Bodies that go on where a link was lost: whatever was cut, the message that arrives is the one that was sent."""

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedws.core.errors import BodyUnavailable, MessageTooLarge, ProtocolError
from fedws.core.limits import CHUNK_BYTES, MessageLimits
from fedws.network.body_transfer import BodyTransfers
from fedws.protocol.decoder import PartialBody
from fedws.protocol.encoder import encode_message
from fedws.protocol.header import Header, parse_header
from fedws.protocol.messages import Hello, Message, TaskRequest

LIMIT = 2**26
SIZE = 3 * CHUNK_BYTES + 100
SMALL = Hello(run="r", node="alice", protocol=1)


def order(size: int = SIZE, seed: int = 1) -> TaskRequest:
    """With a body of so many bytes, of two tensors."""
    draw = torch.Generator().manual_seed(seed)
    w = torch.randint(0, 256, (size - 64,), dtype=torch.uint8, generator=draw)
    return TaskRequest(request_id="1/alice", worker="alice", round=1, task="t", tensors={"b": w[:64].clone(), "w": w})


async def encoded(sender: BodyTransfers, message: Message, limit: int = LIMIT) -> list[bytes]:
    sender.set_peer_limits(MessageLimits(limit))
    return [bytes(piece) for piece in (await sender.encode(message)).fragments()]


async def received(receiver: BodyTransfers, pieces: Sequence[bytes]) -> Message:
    with receiver.open_decoder(LIMIT) as decoder:
        for piece in pieces:
            decoder.feed(piece)
    return await receiver.read_message(decoder)


class Cut(Exception):
    """A link is lost."""


async def cut(receiver: BodyTransfers, pieces: Sequence[bytes], at: int) -> None:
    """So many bytes arrive."""
    with pytest.raises(Cut), receiver.open_decoder(LIMIT) as decoder:
        for piece in pieces:
            decoder.feed(piece[:at])
            at -= len(piece[:at])
        raise Cut


def same(found: Message, sent: TaskRequest) -> bool:
    assert isinstance(found, TaskRequest)
    return (found.request_id, list(found.tensors)) == (sent.request_id, list(sent.tensors)) and all(
        torch.equal(found.tensors[name], tensor) for name, tensor in sent.tensors.items()
    )


def header(pieces: Sequence[bytes]) -> Header:
    whole = b"".join(pieces)
    return parse_header(whole[12 : 12 + int.from_bytes(whole[8:12], "little")])


def named(pieces: Sequence[bytes]) -> str:
    return header(pieces).digest or ""


@settings(max_examples=40, deadline=None)
@given(
    size=st.integers(64, 4 * CHUNK_BYTES)
    | st.sampled_from([CHUNK_BYTES - 64, CHUNK_BYTES, CHUNK_BYTES + 64, 3 * CHUNK_BYTES]),
    places=st.lists(st.floats(0, 1), max_size=6),
    keep=st.booleans(),
)
async def test_however_often_it_is_cut_the_message_arrives(size: int, places: list[float], keep: bool) -> None:
    sender, receiver, sent = BodyTransfers(), BodyTransfers(keep_complete=keep), order(max(size, 64 + 64))
    before = 0
    for place in places:
        pieces = await encoded(sender, sent)
        length = sum(map(len, pieces))
        await cut(receiver, pieces, math.floor(place * length))
        held = sum(receiver.resume_offsets.values())
        assert held >= before, "what is here stays here"
        before = held
        sender.set_peer_offsets(receiver.resume_offsets)
    assert same(await received(receiver, await encoded(sender, sent)), sent)


async def test_what_is_there_is_not_sent_again() -> None:
    sender, receiver, sent = BodyTransfers(), BodyTransfers(), order()
    pieces = await encoded(sender, sent)
    whole = sum(map(len, pieces))
    assert [len(piece) for piece in pieces[1:]] == [CHUNK_BYTES] * 3 + [100]
    await cut(receiver, pieces, len(pieces[0]) + 2 * CHUNK_BYTES)
    ((digest, held),) = receiver.resume_offsets.items()
    assert (digest, held) == (header(pieces).digest, 2 * CHUNK_BYTES)
    sender.set_peer_offsets({digest: held})
    rest = await encoded(sender, sent)
    assert sum(map(len, rest)) == whole - 2 * CHUNK_BYTES
    assert header(rest).offset == 2 * CHUNK_BYTES
    assert same(await received(receiver, rest), sent)
    assert receiver.resume_offsets == {}, "an idle coordinator holds no model"


async def test_a_whole_body_is_kept_where_that_is_wanted_until_it_is_forgotten() -> None:
    sender, receiver, sent = BodyTransfers(), BodyTransfers(keep_complete=True), order()
    assert same(await received(receiver, await encoded(sender, sent)), sent)
    assert list(receiver.resume_offsets.values()) == [SIZE]
    sender.set_peer_offsets(receiver.resume_offsets)
    again = await encoded(sender, sent)
    assert sum(map(len, again)) < 1000
    assert same(await received(receiver, again), sent)
    receiver.discard_partial()
    assert receiver.resume_offsets == {}


@pytest.mark.parametrize(("size", "told"), [(128, False), (CHUNK_BYTES, False), (CHUNK_BYTES + 1, True)])
async def test_a_small_body_has_no_digest(size: int, told: bool) -> None:
    assert (header(await encoded(BodyTransfers(), order(size))).digest is not None) == told


async def test_another_body_takes_the_place_of_what_was_kept() -> None:
    replaced: list[int] = []
    sender, receiver = BodyTransfers(), BodyTransfers(keep_complete=True, on_replaced=lambda: replaced.append(1))
    first, second = order(seed=1), order(seed=2)
    await cut(receiver, await encoded(sender, first), 3 * CHUNK_BYTES)
    kept = dict(receiver.resume_offsets)
    replaced.clear()
    sender.set_peer_offsets(kept)
    assert same(await received(receiver, await encoded(sender, second)), second)
    assert replaced == [1]
    assert sum(map(len, await encoded(sender, first))) > 3 * CHUNK_BYTES, "what the other side has counts once"
    assert receiver.resume_offsets.keys() != kept.keys()


async def test_small_messages_leave_what_is_kept() -> None:
    receiver, sent = BodyTransfers(), order()
    await cut(receiver, await encoded(BodyTransfers(), sent), 2 * CHUNK_BYTES + 5000)
    kept = receiver.resume_offsets
    assert kept and await received(receiver, await encoded(BodyTransfers(), SMALL)) == SMALL
    assert receiver.resume_offsets == kept


async def test_a_body_that_was_altered_is_refused_and_forgotten() -> None:
    sender, receiver, sent = BodyTransfers(), BodyTransfers(), order()
    pieces = await encoded(sender, sent)
    await cut(receiver, pieces, 2 * CHUNK_BYTES + 5000)
    sender.set_peer_offsets(receiver.resume_offsets)
    rest = await encoded(sender, sent)
    rest[-1] = rest[-1][:-1] + bytes([rest[-1][-1] ^ 1])
    with pytest.raises(ProtocolError, match="body does not match its declared SHA-256 digest"):
        await received(receiver, rest)
    assert receiver.resume_offsets == {}, "or it would be wrong for ever"
    sender.set_peer_offsets(receiver.resume_offsets)
    assert same(await received(receiver, await encoded(sender, sent)), sent)


@pytest.mark.parametrize("lie", ["more", "unknown", "shorter"])
async def test_an_offset_that_is_not_here_is_refused(lie: str) -> None:
    sender, receiver, sent = BodyTransfers(), BodyTransfers(), order()
    pieces = await encoded(sender, sent)
    digest = named(pieces)
    if lie == "more":
        await cut(receiver, pieces, CHUNK_BYTES + 5000)
        sender.set_peer_offsets({digest: 2 * CHUNK_BYTES})
    elif lie == "unknown":
        sender.set_peer_offsets({digest: CHUNK_BYTES})
    else:
        await cut(receiver, await encoded(BodyTransfers(), order(4 * CHUNK_BYTES)), 2 * CHUNK_BYTES + 5000)
        receiver._partial_body = (
            PartialBody(digest, receiver._partial_body.buffer, CHUNK_BYTES) if receiver._partial_body else None
        )
        sender.set_peer_offsets({digest: CHUNK_BYTES})
    with pytest.raises(ProtocolError, match=r"cannot resume at byte [0-9]+: no partial body with this digest"):
        await received(receiver, await encoded(sender, sent))


@pytest.mark.parametrize("told", [CHUNK_BYTES - 1, 2 * CHUNK_BYTES + 1, 10 * CHUNK_BYTES])
async def test_what_the_other_side_says_is_taken_in_whole_chunks_and_no_more_than_there_is(told: int) -> None:
    sender, sent = BodyTransfers(), order()
    digest = named(await encoded(sender, sent))
    sender.set_peer_offsets({digest: told})
    assert header(await encoded(sender, sent)).offset == (told // CHUNK_BYTES * CHUNK_BYTES if told < SIZE else SIZE)


async def test_the_limit_is_that_of_the_whole_message() -> None:
    sender, sent = BodyTransfers(), order()
    size = sum(map(len, await encoded(sender, sent)))
    assert await encoded(sender, sent, limit=size)
    with pytest.raises(MessageTooLarge, match="exceeds the other side's limit"):
        await encoded(sender, sent, limit=size - 1)
    digest = named(await encoded(sender, sent))
    sender.set_peer_offsets({digest: CHUNK_BYTES})
    with pytest.raises(MessageTooLarge, match="exceeds the other side's limit"):
        await encoded(sender, sent, limit=size - 1)
    receiver = BodyTransfers()
    await cut(receiver, await encoded(BodyTransfers(), sent), CHUNK_BYTES + 5000)
    sender.set_peer_offsets(receiver.resume_offsets)
    with receiver.open_decoder(size - 1) as decoder, pytest.raises(ProtocolError, match=f"message of {size} bytes"):
        for piece in await encoded(sender, sent):
            decoder.feed(piece)


async def test_what_was_cut_is_not_changed_under_the_message_before() -> None:
    """A node computes on the last body while the next one comes."""
    receiver = BodyTransfers(keep_complete=True)
    first = await received(receiver, await encoded(BodyTransfers(), order(seed=1)))
    await cut(receiver, await encoded(BodyTransfers(), order(seed=2)), 3 * CHUNK_BYTES)
    assert same(first, order(seed=1))


class _Other:
    """An object store that hands out other bytes than were put there."""

    async def get(self, node: str, digest: str, into: memoryview) -> None:
        into[:] = bytes(len(into))


async def test_a_store_that_hands_out_other_bytes_does_not_change_the_message_before() -> None:
    """They are fetched into memory of their own, also under the digest of the body that a node works on."""
    receiver = BodyTransfers(_Other(), keep_complete=True)  # type: ignore[arg-type]
    sent = order()
    digest = named(await encoded(BodyTransfers(), sent))
    first = await received(receiver, await encoded(BodyTransfers(), sent))
    with pytest.raises(BodyUnavailable, match="does not match its declared SHA-256 digest"):
        await received(
            receiver,
            [bytes(piece) for piece in encode_message(sent).without_body(digest, MessageLimits(LIMIT)).fragments()],
        )
    assert same(first, sent)


async def test_a_coordinator_continues_no_report_that_it_has_taken() -> None:
    receiver, sent = BodyTransfers(), order()
    pieces = await encoded(BodyTransfers(), sent)
    first = await received(receiver, pieces)
    sender = BodyTransfers()
    sender.set_peer_offsets({named(pieces): CHUNK_BYTES})
    with pytest.raises(ProtocolError, match="no partial body with this digest"):
        await received(receiver, await encoded(sender, sent))
    assert same(first, sent)
