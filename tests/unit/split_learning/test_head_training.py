"""The coordinator's own node trains the head on what was sent."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import fedws
from fedws.algorithms.mistnet import train
from fedws.core import registry
from fedws.core.errors import TaskError
from fedws.core.plan import Training
from fedws.core.tensors import Tensors, digest
from fedws.node.worker import Worker
from fedws.protocol.messages import Order, Report
from fedws.split_learning import head_training
from fedws.split_learning.feature_store import FeatureStore, Records
from fedws.split_learning.head_training import Epoch
from fedws.split_learning.model_split import split
from fedws.training import building, task_context
from fedws.training.optimizer_state import PREFIX
from tests.helpers.federation import registered
from tests.helpers.mistnet_requests import extraction, order, part, reason, strategy, weights, worker


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


def test_maps_are_cropped_where_that_is_wanted() -> None:
    packed = torch.randint(256, (6, 360), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    records = Records([{"features": packed, "labels": torch.arange(6)}])
    work = task_context.Workspace("coordinator", "features", records)
    found = []
    for crop in (0, 0, 2):
        made = registry.build("strategy", f"mistnet:crop={crop}", Training(model="mnist_cnn", dataset="digits"))
        settings = Epoch.model_validate(made.epoch({}, {}, 10, (20, 12, 12), 1).settings)
        module = building.initial("mnist_cnn", 1)
        found.append(digest(head_training.trained(module, {}, records, settings, work, seed=1)[1]))
    assert found[0] == found[1] != found[2]


def test_labels_that_are_no_classes_are_learnt_with_the_runs_loss() -> None:
    """Here what another head gives for the same features."""
    points = torch.randn(200, 11, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted = split(building.initial("points_net", 5), "relu")[1](points)
    records = Records([{"features": points.view(torch.uint8), "labels": wanted}])
    training = Training(model="points_net", dataset="points", loss="mse", optimizer="adam", lr=0.03)
    made = registry.build("strategy", "mistnet:cut=relu,labels=clear,encoding=floats", training)
    settings = Epoch.model_validate(made.epoch({}, {}, 0, (11,), 1).settings)
    work, module = task_context.Workspace("coordinator", "features", records), building.initial("points_net", 1)
    memory: Tensors = {}
    losses = []
    for number in range(1, 20):
        loss, tensors = head_training.trained(module, memory, records, settings, work, seed=number)
        memory = {name: tensor for name, tensor in tensors.items() if name.startswith(PREFIX)}
        losses.append(loss)
    assert losses[-1] < losses[0] / 10


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"shape": [11]}, "features of the shape [11] cannot be shifted so far"),
        ({"crop": 12}, "features of the shape [20, 12, 12] cannot be shifted so far"),
        (
            {"classes": 0, "label_epsilon": None},
            "labels that are no classes may be places, which would have to move",
        ),
    ],
)
def test_what_cannot_be_cropped_is_told(changes: dict[str, Any], why: str) -> None:
    records = Records([{"features": torch.zeros(6, 360, dtype=torch.uint8), "labels": torch.arange(6)}])
    made = registry.build("strategy", "mistnet:crop=2", Training(model="mnist_cnn", dataset="digits"))
    asked = made.epoch({}, {}, 10, (20, 12, 12), 1).settings
    work = task_context.Workspace("coordinator", "features", records)
    with pytest.raises(TaskError, match=re.escape(why)):
        head_training.trained(
            building.initial("mnist_cnn", 1), {}, records, Epoch.model_validate({**asked, **changes}), work, 1
        )


def test_a_loss_of_ones_own_is_used_for_clear_labels() -> None:
    calls = []

    def mine(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        calls.append(targets)
        return (outputs.exp()[:, 0]).mean()

    fedws.register("loss", "mine")(lambda: mine)
    try:
        packed = torch.zeros(6, 2, dtype=torch.uint8)
        records = Records([{"features": packed, "labels": torch.arange(6)}])
        training = Training(model="points_net", dataset="points", loss="mine")
        made = registry.build("strategy", "mistnet:cut=relu,labels=clear", training)
        settings = Epoch.model_validate(made.epoch({}, {}, 10, (11,), 1).settings)
        work = task_context.Workspace("coordinator", "features", records)
        head_training.trained(building.initial("points_net", 1), {}, records, settings, work, seed=1)
    finally:
        del registry._pieces["loss", "mine"]
    assert sum(map(len, calls)) == 6


def test_every_record_weighs_the_same_also_in_the_last_batch() -> None:
    """Else one of two records, with the steps of thirty-two, could undo an epoch."""
    packed = torch.tensor([[200, 32], [17, 64], [99, 0], [255, 224]], dtype=torch.uint8)  # eleven bits each
    records = Records([{"features": packed, "labels": torch.arange(4)}])
    work, moved = task_context.Workspace("coordinator", "features", records), []
    for size in (4, 3):
        training = Training(model="points_net", dataset="points", lr=1e-3, batch_size=size)
        made = registry.build("strategy", "mistnet:cut=relu", training)
        settings = Epoch.model_validate(made.epoch({}, {}, 10, (11,), 1).settings)
        module = building.initial("points_net", 1)
        before = module.state_dict()["outer.weight"].clone()
        _, tensors = head_training.trained(module, {}, records, settings, work, seed=1)
        moved.append((tensors["outer.weight"] - before) * size)
    one, other = moved
    assert torch.allclose(one, other, rtol=0.05, atol=1e-6)
