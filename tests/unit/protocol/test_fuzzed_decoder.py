"""Whatever bytes come, the decoder gives a message or a ProtocolError, within its memory; and no key, no welcome.

Here hypothesis draws what is broken; ``make fuzz`` goes on where this ends, with the same mutator.
"""

import asyncio
import tracemalloc
from collections.abc import Sequence
from random import Random
from typing import Any

import msgpack
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedws.core.errors import LinkError, LinkLost, ProtocolError
from fedws.network.base import MAX_HANDSHAKE_MESSAGE_BYTES, Limits
from fedws.network.transports.memory import MemoryChannel, MemoryTransport
from fedws.node.server import serve
from fedws.protocol import encoder, handshake
from fedws.protocol.decoder import Decoder
from fedws.protocol.header import TensorRow
from fedws.protocol.messages import Challenge, Hello, Message, Proof, TaskRequest, Welcome
from fedws.security.credentials import Credentials
from fedws.security.network_key import NetworkKey
from tests.fuzz.mutator import messages, mutate, seeds
from tests.fuzz.target import OBJECTS
from tests.helpers.federation import PATIENCE, worker
from tests.helpers.support import TAKEOVER

CALM = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
KEY = Credentials(NetworkKey(bytes(range(32)), "a test"))


def data(message: Message) -> bytes:
    return b"".join(encoder.encode_message(message).fragments())


@st.composite
def broken(draw: st.DrawFn) -> bytes:
    """A message with one or several things broken, or two of them, or a part of one."""
    found = draw(st.sampled_from(seeds()))
    for _ in range(draw(st.integers(0, 4))):
        found = mutate(found, draw(st.randoms(use_true_random=False)))
    how = draw(st.sampled_from(["whole", "whole", "two", "cut"]))
    if how == "two":
        return found[1:] + draw(st.sampled_from(seeds()))[1:]
    return found[1 : draw(st.integers(1, len(found)))] if how == "cut" and found else found[1:]


def cut(whole: bytes, places: Sequence[int]) -> list[bytes]:
    ends = sorted(place % (len(whole) + 1) for place in places)
    return [whole[start:end] for start, end in zip([0, *ends], [*ends, len(whole)], strict=True)]


def traced(pieces: Sequence[bytes], limit: int) -> tuple[Message | None, int]:
    """The message, None where it was refused, and the bytes of Python's memory and of the body that it took.

    Of two times the fewer bytes: keys of maps go to the interpreter's table of strings, and an input that finds it full
    pays for a larger one, of as many MiB as all strings of the process need; the next finds room.
    """
    (found, first), (_, second) = _traced(pieces, limit), _traced(pieces, limit)
    return found, min(first, second)


def _traced(pieces: Sequence[bytes], limit: int) -> tuple[Message | None, int]:
    asked: list[int] = []
    empty = torch.empty

    def watched(size: int, **how: Any) -> torch.Tensor:
        asked.append(size)
        return empty(size, **how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "empty", watched)
        tracemalloc.start()
        try:
            decoder = Decoder(limit)
            for piece in pieces:
                decoder.feed(piece)
            found: Message | None = decoder.build_message()
        except ProtocolError as error:
            assert str(error).isprintable() and len(str(error)) < 1000
            found = None
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
    assert sum(asked) <= limit
    return found, peak + sum(asked)


@settings(CALM, max_examples=400)
@given(
    broken(),
    st.lists(st.integers(0, 2**16), max_size=8),
    st.sampled_from([2**9, 2**12, MAX_HANDSHAKE_MESSAGE_BYTES, 2**30]),
)
def test_what_is_broken_is_refused_or_right_however_it_is_cut(whole: bytes, places: list[int], limit: int) -> None:
    found, peak = traced(cut(whole, places), limit)
    assert peak <= limit + OBJECTS + 2 * len(whole)
    assert found is None or (len(whole) <= limit and data(found))
    again, _ = traced([whole], limit)
    assert repr(again) == repr(found), "cutting makes no difference"


@settings(CALM, max_examples=100)
@given(st.randoms(use_true_random=False))
def test_the_mutator_neither_fails_nor_lets_all_pass(random: Random) -> None:
    assert len(mutate(random.choice(seeds()), random, 5000)) <= 5000


def header(**parts: bytes) -> bytes:
    """A header as msgpack, some of its values given as such."""
    whole: dict[str, Any] = {
        "type": "task_request",
        "fields": {"request_id": "1"},
        "tensors": [],
        "transfer": "",
        "digest": None,
        "offset": 0,
    }
    packed = {key: msgpack.packb(value) for key, value in whole.items()} | parts
    return bytes([0x80 | len(packed)]) + b"".join(msgpack.packb(key) + value for key, value in packed.items())


def array(length: int) -> bytes:
    return b"\xdd" + length.to_bytes(4, "big")


KEYS = b"".join(msgpack.packb(f"{number:x}") + b"\xc0" for number in range(9000))
COSTLY = {
    "long arrays in each other": header(fields=b"\x81\xa1x" + array(60_000) * 1000 + b"\xc0" * 59_000),
    "empty arrays": header(fields=b"\x81\xa1x" + array(64_000) + b"\x90" * 64_000),
    "empty maps": header(fields=b"\x81\xa1x" + array(64_000) + b"\x80" * 64_000),
    "bytes": header(fields=b"\x81\xa1x" + array(32_000) + b"\xc4\0" * 32_000),
    "labels that are none": header(type=b"\xa7welcome", fields=b"\x81\xa6labels" + array(64_000) + b"\xc0" * 64_000),
    "rows that are none": header(tensors=array(9999) + b"\x80" * 9999),
    "more rows than may be": header(tensors=array(64_000) + b"\x80" * 64_000),
    "sizes that are none": header(tensors=b"\x91\x81\xa5shape" + array(64_000) + b"\xc0" * 64_000),
    "fields that are not known": header(fields=b"\xdf" + (9000).to_bytes(4, "big") + KEYS),
    "keys that are not known": b"\xdf" + (9006).to_bytes(4, "big") + header()[1:] + KEYS,
    "a row of keys that are not known": header(tensors=b"\x91\xdf" + (9000).to_bytes(4, "big") + KEYS),
}


@pytest.mark.parametrize("what", COSTLY)
def test_64_kib_from_a_stranger_cost_no_more_than_8_mib(what: str) -> None:
    """An array is made as long as it says, and an error for each thing that is wrong; so both are bounded first."""
    packed = COSTLY[what]
    head = encoder.MAGIC + b"\1\0\0\0" + len(packed).to_bytes(4, "little") + packed
    whole = head + bytes(-len(head) % 64)
    assert len(whole) <= MAX_HANDSHAKE_MESSAGE_BYTES
    found, peak = traced([whole], MAX_HANDSHAKE_MESSAGE_BYTES)
    assert found is None
    assert peak <= OBJECTS


def test_no_two_tensors_can_overlap() -> None:
    """There is no offset to lie about: each begins where the one before has ended."""
    assert set(TensorRow.model_fields) == {"name", "dtype", "shape", "length"}
    message = TaskRequest(
        request_id="1", worker="a", round=1, task="t", tensors={name: torch.ones(3) for name in "abc"}
    )
    decoder = Decoder()
    decoder.feed(data(message))
    found = decoder.build_message()
    assert isinstance(found, TaskRequest)
    found.tensors["b"].zero_()
    assert [tensor.sum().item() for tensor in found.tensors.values()] == [3, 0, 3]


# --------------------------------------------------------------------------- the handshake

_hello = Hello(run="r", node="alice", protocol=encoder.PROTOCOL_VERSION, nonce="ab" * 32)
_guess = Proof(
    proof=handshake.compute_proof(bytes(32), "coordinator", _hello, "alice", "ab" * 32), takeover_key=TAKEOVER
)
REFLECT = "the node's own proof"
_words = st.one_of(
    st.just(data(_hello)), st.just(data(_guess)), st.just(REFLECT), st.sampled_from([*map(data, messages())]), broken()
)


@CALM
@given(st.lists(st.tuples(_words, st.lists(st.integers(0, 2**16), max_size=3)), max_size=6))
def test_whatever_a_peer_without_the_key_says_it_is_not_welcomed(
    words: list[tuple[bytes | str, list[int]]],
) -> None:
    asyncio.run(asyncio.wait_for(_said(words), PATIENCE))


async def _said(words: list[tuple[bytes | str, list[int]]]) -> None:
    async with serve(worker(), "memory://fuzzed", Limits(), KEY) as url:
        channel = await MemoryTransport().connect(url, Limits())
        assert isinstance(channel, MemoryChannel)
        proof = "00" * 32
        try:
            for word, places in words:
                said = data(Proof(proof=proof, takeover_key=TAKEOVER)) if isinstance(word, str) else word
                await channel.send_raw(cut(said, places))
                while not channel._inbox.empty():
                    answer = await channel.receive()
                    assert not isinstance(answer, Welcome | TaskRequest)
                    proof = answer.proof if isinstance(answer, Challenge) else proof
        except LinkLost:
            pass
        await channel.close()
        with pytest.raises(LinkError):
            while True:
                assert not isinstance(await channel.receive(), Welcome)
