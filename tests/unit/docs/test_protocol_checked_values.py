"""Values that docs/topics/protocol.md defines are checked: findings 2, 3, 7, 11 and 17 of an independent worker."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgpack
import pytest
import torch

from fedws.coordinator.handshake import CoordinatorHandshake
from fedws.coordinator.open_requests import OpenRequests
from fedws.core.errors import LinkRefused, ProtocolError
from fedws.core.limits import CHUNK_BYTES
from fedws.protocol.decoder import Decoder, PartialBody
from fedws.protocol.messages import TaskRequest, TaskResult, Welcome
from fedws.protocol.run_claim import RunClaim
from fedws.security.credentials import INSECURE
from tests.helpers.decoded_messages import decoded
from tests.helpers.handmade_messages import changed, field, raw
from tests.helpers.protocol_page import WORDS, section, table

REQUEST = TaskRequest(request_id="1/alice", worker="alice", round=1, task="t")
RESULT = TaskResult(request_id="1/alice", worker="alice", round=1, num_examples=3)
WELCOME = Welcome(node="alice", role="worker", dataset="mnist", num_examples=3)


def check(answer: TaskResult) -> None:
    """Check an answer to REQUEST as a coordinator does."""
    open_requests = OpenRequests("alice")
    open_requests.add(REQUEST, lambda answer: None)
    open_requests.check_answer(answer)


def welcome_labels(labels: list[int]) -> bytes:
    fields = {"node": "alice", "role": "worker", "dataset": "mnist", "num_examples": 3, "labels": labels}
    return raw(changed(type="welcome", fields=fields, tensors=[]), b"")


def test_a_result_of_no_samples_is_a_protocol_error() -> None:
    """Finding 2."""
    check(RESULT)
    with pytest.raises(ProtocolError, match="num_examples is 0, expected 1 or more"):
        check(replace(RESULT, num_examples=0))
    (row,) = (row for row in table(section("`task_result`"), "field") if row["field"] == "num_examples")
    assert "rejects 0 from a node as a protocol error" in row["meaning"]
    assert "a result with a `num_examples` of 0" in section("Protocol errors")


@pytest.mark.parametrize("labels", [[9, 8], [8, 8], [-1], [100_000]])
def test_labels_that_are_not_ascending_and_unique_are_a_protocol_error(labels: list[int]) -> None:
    """Finding 2."""
    assert decoded(welcome_labels([8, 9, 99_999])) == replace(WELCOME, labels=[8, 9, 99_999])
    with pytest.raises(ProtocolError, match=r"welcome: labels"):
        decoded(welcome_labels(labels))
    (row,) = (row for row in table(section("`welcome`"), "field") if row["field"] == "labels")
    assert "each from 0 to 99999, ascending and unique" in row["meaning"]


def test_the_welcome_of_another_node_is_rejected() -> None:
    """Finding 2."""
    handshake = CoordinatorHandshake(RunClaim("r"), "alice", "worker", "mnist", INSECURE)
    assert handshake._check_answer(WELCOME) == WELCOME
    with pytest.raises(LinkRefused, match="this is bob, not alice") as refused:
        handshake._check_answer(replace(WELCOME, node="bob"))
    assert refused.value.kind == "node"
    assert "The `challenge` or the `welcome` has another `node` than the `hello`." in WORDS


@pytest.mark.parametrize(
    ("name", "bad", "good"),
    [("round", 0, 1), ("state_round", -1, 0), ("seed", -1, 0), ("seed", 2**64, 2**64 - 1)],
)
def test_numbers_of_a_request_below_their_range_are_a_protocol_error(name: str, bad: int, good: int) -> None:
    """Finding 2."""
    assert getattr(decoded(raw(field(**{name: good}))), name) == good
    with pytest.raises((ProtocolError, OverflowError)):
        decoded(raw(field(**{name: bad})))


@pytest.mark.parametrize("transfer", ["other", "Store", "store ", "x" * 64])
def test_an_unknown_transfer_is_a_protocol_error(transfer: str) -> None:
    """Finding 3."""
    decoded(raw(changed(transfer="")))
    with pytest.raises(ProtocolError, match=f"unknown transfer {transfer!r}, expected 'store' or ''"):
        decoded(raw(changed(transfer=transfer)))
    (row,) = (row for row in table(section("The header"), "key") if row["key"] == "transfer")
    assert row["value"].endswith('otherwise `""`; any other value is an error')


SIZE = 2 * CHUNK_BYTES + 100
DIGEST = "ab" * 32
OFFSETS = [
    # offset, received bytes of the kept body, error (empty: accepted)
    (CHUNK_BYTES, CHUNK_BYTES, ""),
    (0, 2 * CHUNK_BYTES, ""),
    (CHUNK_BYTES, 2 * CHUNK_BYTES, ""),
    (SIZE, SIZE, ""),
    (0, SIZE, ""),
    (2 * CHUNK_BYTES, CHUNK_BYTES, "no partial body with this digest"),
    (CHUNK_BYTES - 1, CHUNK_BYTES, f"not a multiple of {CHUNK_BYTES} bytes"),
    (CHUNK_BYTES + 64, 2 * CHUNK_BYTES, f"not a multiple of {CHUNK_BYTES} bytes"),
    (CHUNK_BYTES, SIZE, "the body is already complete"),
]


def feed_header(offset: int, find_partial: Callable[[str], PartialBody | None], digest: str | None = DIGEST) -> None:
    row = {"name": "w", "dtype": "uint8", "shape": [SIZE], "length": SIZE}
    Decoder(find_partial=find_partial).feed(raw(changed(tensors=[row], digest=digest, offset=offset), b""))


@pytest.mark.parametrize(("offset", "received", "error"), OFFSETS)
def test_an_offset_is_checked(offset: int, received: int, error: str) -> None:
    """Finding 7."""
    kept = PartialBody(DIGEST, torch.zeros(SIZE, dtype=torch.uint8), received)
    if not error:
        return feed_header(offset, lambda digest: kept)
    with pytest.raises(ProtocolError, match=error):
        feed_header(offset, lambda digest: kept)
    return None


def test_an_offset_without_a_kept_body_of_this_digest_and_length_is_a_protocol_error() -> None:
    """Finding 7."""
    other = PartialBody(DIGEST, torch.zeros(SIZE + 1, dtype=torch.uint8), CHUNK_BYTES)
    kept = PartialBody(DIGEST, torch.zeros(SIZE, dtype=torch.uint8), CHUNK_BYTES)
    cases: list[tuple[Any, str | None]] = [(None, DIGEST), (other, DIGEST), (kept, None)]
    for found, digest in cases:
        with pytest.raises(ProtocolError, match="no partial body with this digest"):
            feed_header(CHUNK_BYTES, lambda _, found=found: found, digest)  # type: ignore[misc]
    words = " ".join(section("Resumed bodies").split())
    for rule in (
        "The message has no digest, or the receiver does not have a part of the body with this digest.",
        "The offset is above the number of bytes that the receiver has.",
        f"The offset is neither a multiple of {CHUNK_BYTES:,} nor the length of the body.",
        "The receiver has the complete body, and the offset is not the length of the body.",
    ):
        assert rule in words


@pytest.mark.parametrize("change", [{"round": 2}, {"worker": "bob"}, {"request_id": "2/alice"}])
def test_an_answer_that_fits_no_open_request_is_a_protocol_error(change: dict[str, Any]) -> None:
    """Finding 11."""
    with pytest.raises(ProtocolError, match="answer to the unknown request"):
        check(replace(RESULT, **change))
    words = section("Protocol errors")
    assert "an answer whose `request_id` belongs to no open request" in words
    assert "an answer with another `worker` or another `round` than its request" in words


def packed_twice(key: str) -> bytes:
    one: bytes = msgpack.packb(key)
    return b"\x82" + one + b"\x01" + one + b"\x01"


@pytest.mark.parametrize("depth", [0, 1])
def test_a_duplicate_key_is_a_protocol_error_in_any_map(depth: int) -> None:
    """Finding 17."""
    header = {**field(settings={}), "type": "task_request"}
    empty = msgpack.packb({"settings": {}})[1:]
    data = msgpack.packb(header)
    twice = packed_twice("lr")
    inner = data.replace(empty, msgpack.packb("settings") + twice)
    outer = bytes([data[0] + 1]) + data[1:] + msgpack.packb("offset") + msgpack.packb(0)
    with pytest.raises(ProtocolError, match=f"duplicate key '{'lr' if depth else 'offset'}'"):
        decoded(raw(inner if depth else outer))
    assert "each key must occur once. fedws rejects a duplicate key in any map of the header." in WORDS
