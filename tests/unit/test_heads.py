"""The coordinator's own node trains the head on what was sent."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fedws import registry
from fedws.algorithms.mistnet import train
from fedws.featurestore import FeatureStore
from fedws.messages import Order, Report
from fedws.tensors import Tensors, digest
from fedws.worker import Worker
from tests.mistnet import extraction, order, part, reason, strategy, weights, worker
from tests.nodes import registered


@pytest.fixture(autouse=True, scope="module")
def _pieces() -> Iterator[None]:
    with registered():
        yield


def stored(folder: Path, **options: Any) -> FeatureStore:
    """What alice sent."""
    node, store = worker(folder), FeatureStore(folder / "features")
    node.answer(extraction(**options))
    sent = node.answer(part())
    assert isinstance(sent, Report)
    store.put(0, 0, sent.tensors)
    return store


def own(store: FeatureStore, **options: Any) -> Worker:
    return Worker("coordinator", "features", store.records(), labels=[], tasks=strategy(**options).own)


def epoch(model: Tensors, number: int, **options: Any) -> Order:
    ask = strategy(**options).epoch(model, {}, 10, (11,), number)
    return replace(order(ask, number), worker="coordinator", seed=number)


def test_training_makes_the_loss_fall_and_leaves_the_extractor_alone(tmp_path: Path) -> None:
    node, model, losses = own(stored(tmp_path, epsilon=8)), weights(), []
    for number in range(1, 16):
        found = node.answer(epoch(model, number, epsilon=8))
        assert isinstance(found, Report)
        model = found.tensors
        losses.append(found.metrics["loss"])
        assert found.metrics["samples"] == 120
    assert losses[-1] < losses[0] - 0.1
    before = weights()
    assert all(torch.equal(model[name], before[name]) for name in ("inner.weight", "inner.bias"))
    assert not torch.equal(model["outer.weight"], before["outer.weight"])


def test_an_epoch_is_the_same_again(tmp_path: Path) -> None:
    """So that one that was lost with the coordinator gives what it would have given."""
    store = stored(tmp_path)
    one, other = (own(store).answer(epoch(weights(), 1)) for _ in range(2))
    assert isinstance(one, Report) and isinstance(other, Report)
    assert digest(one.tensors) == digest(other.tensors)


def test_a_worker_does_not_train_for_the_coordinator(tmp_path: Path) -> None:
    assert "mistnet.train" not in registry.names("task") and train is not None
    answer = worker(tmp_path).answer(epoch(weights(), 1))
    assert reason(answer).startswith("unknown task 'mistnet.train'")
