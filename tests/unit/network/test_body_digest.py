"""Digests of bodies: each is made once, and a tensor that was written to has another one."""

from collections.abc import Iterator
from hashlib import sha256

import pytest
import torch

from fedws.core.tensors import Tensors
from fedws.network import body_digest
from fedws.protocol import encoder
from fedws.protocol.messages import TaskRequest


def body(tensors: Tensors) -> list[memoryview]:
    return encoder.encode_message(TaskRequest(request_id="1", worker="a", round=1, task="t", tensors=tensors)).body


class Unread(list[memoryview]):
    """A body that must not be read."""

    def __iter__(self) -> Iterator[memoryview]:
        raise AssertionError("it was digested before")


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    body_digest._cache.clear()
    yield
    body_digest._cache.clear()


def test_it_is_the_sha256_of_the_body() -> None:
    tensors = {"a": torch.arange(5.0), "b": torch.ones(3)}
    whole = b"".join(body(tensors))
    assert len(whole) == 64 + 12
    assert body_digest.hash_body(tensors, body(tensors)) == sha256(whole).hexdigest()


def test_the_same_tensors_are_digested_once() -> None:
    tensors = {"a": torch.arange(5.0), "b": torch.ones(3)}
    made = body_digest.hash_body(tensors, body(tensors))
    assert body_digest.hash_body(dict(tensors), Unread()) == made


def test_tensors_that_were_written_to_are_digested_again() -> None:
    tensors = {"a": torch.arange(5.0)}
    made = body_digest.hash_body(tensors, body(tensors))
    tensors["a"][0] = 7
    assert body_digest.hash_body(tensors, body(tensors)) not in (made, "")
    view = tensors["a"][1:]
    made = body_digest.hash_body(tensors, body(tensors))
    view.zero_()
    assert body_digest.hash_body(tensors, body(tensors)) != made


def test_others_are_not_taken_for_those_that_are_gone() -> None:
    found = set()
    for value in range(50):  # new tensors come to lie where old ones lay
        tensors = {"a": torch.full((5,), float(value))}
        found.add(body_digest.hash_body(tensors, body(tensors)))
    assert len(found) == 50
    assert len(body_digest._cache) <= body_digest._CACHE_SIZE


def test_the_order_of_tensors_shows() -> None:
    a, b = torch.arange(16.0), torch.ones(16)
    one, other = {"a": a, "b": b}, {"b": b, "a": a}
    assert body_digest.hash_body(one, body(one)) != body_digest.hash_body(other, body(other))


def test_tensors_that_do_not_count_writes_are_digested_each_time() -> None:
    with torch.inference_mode():
        tensors = {"a": torch.arange(5.0)}
    assert body_digest.hash_body(tensors, body(tensors)) == sha256(b"".join(body(tensors))).hexdigest()
    assert not body_digest._cache


def test_no_tensors_have_a_digest_too() -> None:
    assert body_digest.hash_body({}, []) == sha256(b"").hexdigest()
