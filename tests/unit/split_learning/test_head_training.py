"""The coordinator's own node trains the head on what was sent."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import fedws
from fedws.core import registry
from fedws.core.errors import TaskError
from fedws.core.task_settings import TrainSettings
from fedws.core.tensors import Tensors, hash_tensors
from fedws.node.worker import Worker
from fedws.protocol.messages import TaskRequest, TaskResult
from fedws.split_learning import head_training
from fedws.split_learning.feature_store import FeatureStore, StoredFeatures
from fedws.split_learning.head_training import HeadTrainSettings
from fedws.split_learning.model_split import split_model
from fedws.split_learning.server_tasks import train
from fedws.training import model_building, task_context
from fedws.training.optimizer_state import STATE_PREFIX
from tests.helpers.federation import registered
from tests.helpers.mistnet_requests import extraction, order, part, reason, strategy, weights, worker


@pytest.fixture(autouse=True, scope="module")
def _pieces() -> Iterator[None]:
    with registered():
        yield


def stored(folder: Path, **options: Any) -> FeatureStore:
    """What alice sent."""
    node, store = worker(folder), FeatureStore(folder / "features")
    node.execute(extraction(**options))
    sent = node.execute(part())
    assert isinstance(sent, TaskResult)
    store.save_chunk(0, 0, sent.tensors)
    return store


def own(store: FeatureStore, **options: Any) -> Worker:
    return Worker("coordinator", "features", store.load_features(), labels=[], tasks=strategy(**options).server_tasks)


def epoch(model: Tensors, number: int, **options: Any) -> TaskRequest:
    ask = strategy(**options).configure_training(model, {}, 10, (11,), number)
    return replace(order(ask, number), worker="coordinator", seed=number)


def test_training_makes_the_loss_fall_and_leaves_the_extractor_alone(tmp_path: Path) -> None:
    node, model, losses = own(stored(tmp_path, epsilon=8)), weights(), []
    for number in range(1, 16):
        found = node.execute(epoch(model, number, epsilon=8))
        assert isinstance(found, TaskResult)
        model = found.tensors
        losses.append(found.metrics["loss"])
        assert found.metrics["num_examples"] == 120
    assert losses[-1] < losses[0] - 0.1
    before = weights()
    assert all(torch.equal(model[name], before[name]) for name in ("inner.weight", "inner.bias"))
    assert not torch.equal(model["outer.weight"], before["outer.weight"])


def test_an_epoch_is_the_same_again(tmp_path: Path) -> None:
    """So that one that was lost with the coordinator gives what it would have given."""
    store = stored(tmp_path)
    one, other = (own(store).execute(epoch(weights(), 1)) for _ in range(2))
    assert isinstance(one, TaskResult) and isinstance(other, TaskResult)
    assert hash_tensors(one.tensors) == hash_tensors(other.tensors)


def test_a_worker_does_not_train_for_the_coordinator(tmp_path: Path) -> None:
    assert "mistnet.train" not in registry.list_pieces("task") and train is not None
    answer = worker(tmp_path).execute(epoch(weights(), 1))
    assert reason(answer).startswith("unknown task 'mistnet.train'")


def test_maps_are_cropped_where_that_is_wanted() -> None:
    packed = torch.randint(256, (6, 360), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    records = StoredFeatures([{"features": packed, "labels": torch.arange(6)}])
    work = task_context.TaskContext("coordinator", "features", records)
    found = []
    for crop in (0, 0, 2):
        made = registry.build_piece(
            "algorithm", f"mistnet:feature_shift={crop}", TrainSettings(model="mnist_cnn", dataset="digits")
        )
        settings = HeadTrainSettings.model_validate(made.configure_training({}, {}, 10, (20, 12, 12), 1).settings)
        module = model_building.build_model("mnist_cnn", 1)
        found.append(hash_tensors(head_training.train_head(module, {}, records, settings, work, seed=1)[1]))
    assert found[0] == found[1] != found[2]


def test_labels_that_are_no_classes_are_learnt_with_the_runs_loss() -> None:
    """Here what another head gives for the same features."""
    points = torch.randn(200, 11, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted = split_model(model_building.build_model("points_net", 5), "relu")[1](points)
    records = StoredFeatures([{"features": points.view(torch.uint8), "labels": wanted}])
    training = TrainSettings(model="points_net", dataset="points", loss="mse", optimizer="adam", lr=0.03)
    made = registry.build_piece("algorithm", "mistnet:split_at=relu,labels=clear,encoding=floats", training)
    settings = HeadTrainSettings.model_validate(made.configure_training({}, {}, 0, (11,), 1).settings)
    work, module = (
        task_context.TaskContext("coordinator", "features", records),
        model_building.build_model("points_net", 1),
    )
    memory: Tensors = {}
    losses = []
    for number in range(1, 20):
        loss, tensors = head_training.train_head(module, memory, records, settings, work, seed=number)
        memory = {name: tensor for name, tensor in tensors.items() if name.startswith(STATE_PREFIX)}
        losses.append(loss)
    assert losses[-1] < losses[0] / 10


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"feature_shape": [11]}, "features of shape [11] cannot be shifted this far"),
        ({"feature_shift": 12}, "features of shape [20, 12, 12] cannot be shifted this far"),
        (
            {"num_classes": 0, "label_epsilon": None},
            "labels that are not classes may be positions, which would have to be shifted, too",
        ),
    ],
)
def test_what_cannot_be_cropped_is_told(changes: dict[str, Any], why: str) -> None:
    records = StoredFeatures([{"features": torch.zeros(6, 360, dtype=torch.uint8), "labels": torch.arange(6)}])
    made = registry.build_piece(
        "algorithm", "mistnet:feature_shift=2", TrainSettings(model="mnist_cnn", dataset="digits")
    )
    asked = made.configure_training({}, {}, 10, (20, 12, 12), 1).settings
    work = task_context.TaskContext("coordinator", "features", records)
    with pytest.raises(TaskError, match=re.escape(why)):
        head_training.train_head(
            model_building.build_model("mnist_cnn", 1),
            {},
            records,
            HeadTrainSettings.model_validate({**asked, **changes}),
            work,
            1,
        )


def test_a_loss_of_ones_own_is_used_for_clear_labels() -> None:
    calls = []

    def mine(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        calls.append(targets)
        return (outputs.exp()[:, 0]).mean()

    fedws.register("loss", "mine")(lambda: mine)
    try:
        packed = torch.zeros(6, 2, dtype=torch.uint8)
        records = StoredFeatures([{"features": packed, "labels": torch.arange(6)}])
        training = TrainSettings(model="points_net", dataset="points", loss="mine")
        made = registry.build_piece("algorithm", "mistnet:split_at=relu,labels=clear", training)
        settings = HeadTrainSettings.model_validate(made.configure_training({}, {}, 10, (11,), 1).settings)
        work = task_context.TaskContext("coordinator", "features", records)
        head_training.train_head(model_building.build_model("points_net", 1), {}, records, settings, work, seed=1)
    finally:
        del registry._pieces["loss", "mine"]
    assert sum(map(len, calls)) == 6


def test_every_record_weighs_the_same_also_in_the_last_batch() -> None:
    """Else one of two records, with the steps of thirty-two, could undo an epoch."""
    packed = torch.tensor([[200, 32], [17, 64], [99, 0], [255, 224]], dtype=torch.uint8)  # eleven bits each
    records = StoredFeatures([{"features": packed, "labels": torch.arange(4)}])
    work, moved = task_context.TaskContext("coordinator", "features", records), []
    for size in (4, 3):
        training = TrainSettings(model="points_net", dataset="points", lr=1e-3, batch_size=size)
        made = registry.build_piece("algorithm", "mistnet:split_at=relu", training)
        settings = HeadTrainSettings.model_validate(made.configure_training({}, {}, 10, (11,), 1).settings)
        module = model_building.build_model("points_net", 1)
        before = module.state_dict()["outer.weight"].clone()
        _, tensors = head_training.train_head(module, {}, records, settings, work, seed=1)
        moved.append((tensors["outer.weight"] - before) * size)
    one, other = moved
    assert torch.allclose(one, other, rtol=0.05, atol=1e-6)
