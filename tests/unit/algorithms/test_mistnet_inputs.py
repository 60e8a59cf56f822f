"""What MistNet takes as inputs, features and outputs, and the batches in which its head trains."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fedws.cli.attack_inputs import check_samples_fit
from fedws.coordinator.setup import prepare_run
from fedws.core import registry
from fedws.core.errors import TaskError, UsageError
from fedws.core.plan import build_plan
from fedws.core.task_settings import TrainSettings
from fedws.core.tensors import copy_to_cpu, hash_tensors
from fedws.privacy import randomised_labels
from fedws.split_learning import head_training, pretraining
from fedws.split_learning.bit_packing import pack_bits
from fedws.split_learning.feature_store import StoredFeatures
from fedws.split_learning.head_training import HeadTrainSettings
from fedws.split_learning.model_split import split_model
from fedws.split_learning.pretraining import PretrainSettings
from fedws.training import model_building, task_context
from tests.helpers.federation import Points, registered
from tests.helpers.mistnet_requests import extraction, on_data, worker


class Logits(nn.Module):
    """As points_net, with its outputs in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.relu, self.outer = nn.Linear(4, 11), nn.ReLU(), nn.Linear(11, 10)

    def forward(self, points: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": self.outer(self.relu(self.inner(points))).log_softmax(1)}


class Normalised(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(4, 11), nn.ReLU(), nn.BatchNorm1d(11), nn.Linear(11, 10), nn.LogSoftmax(1))


class Tokens(Points):
    """Points in a dict."""

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        point, label = super().__getitem__(index)
        return {"point": point}, label


@pytest.fixture(autouse=True)
def _pieces(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with registered():
        monkeypatch.setitem(registry._pieces, ("model", "logits"), Logits)
        monkeypatch.setitem(registry._pieces, ("model", "normalised"), Normalised)
        yield


def lesson(**changes: Any) -> PretrainSettings:
    return PretrainSettings(**{"model": "points_net", "dataset": "points", "split_at": "relu", **changes})


def test_inputs_that_are_not_one_tensor_are_a_task_error() -> None:
    work = task_context.TaskContext("public", "points", Tokens(Path(), True))
    text = "an input of points is a dict of 1; pretraining and MistNet require one tensor"
    with pytest.raises(TaskError, match=text):
        pretraining.inspect_labels(model_building.build_model("points_net", 1), work, lesson())
    with pytest.raises(UsageError, match=text):
        check_samples_fit(model_building.build_model("points_net", 1), work.data, "points_net", "points")
    assert pretraining.input_shape(task_context.TaskContext("public", "points", Points(Path(), True))) == [4]


def test_a_worker_with_such_inputs_does_not_extract(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    node = worker(tmp_path)
    object.__setattr__(node._context, "data", Tokens(Path(), True))
    assert on_data(node.execute(extraction()))
    assert "inputs on alice are a dict of 1; an extractor requires one tensor" in caplog.text


def test_outputs_with_logits_pretrain_and_train_the_head_as_a_tensor_does() -> None:
    work = task_context.TaskContext("public", "points", Points(Path(), True))
    trained = []
    for name in ("points_net", "logits"):
        module = model_building.build_model(name, 1)
        assert pretraining.inspect_labels(module, work, lesson()) == (10, "int64 []")
        _, tensors = pretraining.pretrain_epoch(module, {}, work, lesson(), 2)
        trained.append((hash_tensors(tensors), hash_tensors(head(name, 20)[1])))
    assert trained[0] == trained[1]


def records(count: int) -> StoredFeatures:
    """As many of 11 bits."""
    drawn = torch.randint(2, (count, 11), generator=torch.Generator().manual_seed(1))
    return StoredFeatures([{"features": pack_bits(drawn.bool()), "labels": torch.arange(count) % 10}])


def head(model: str, count: int, **settings: Any) -> tuple[float, Any]:
    """An epoch of the head on as many records."""
    held, training = records(count), TrainSettings(model=model, dataset="points", batch_size=8, **settings)
    strategy = registry.build_piece(
        "algorithm", "mistnet:split_at=1" if model == "normalised" else "mistnet:split_at=relu", training
    )
    asked = HeadTrainSettings.model_validate(strategy.configure_training({}, {}, 10, (11,), 1).settings)
    assert asked.drop_last == training.drop_last
    work = task_context.TaskContext("coordinator", "features", held)
    return head_training.train_head(model_building.build_model(model, 1), {}, held, asked, work, 1)


def batches(model: str, count: int, **settings: Any) -> int:
    """How many batches its batch norm has seen."""
    return int(head(model, count, **settings)[1]["2.num_batches_tracked"])


def test_a_last_record_alone_is_joined_where_the_head_normalises() -> None:
    assert [batches("normalised", count) for count in (16, 17, 18)] == [2, 2, 3]
    assert [batches("normalised", count, drop_last=True) for count in (16, 17, 18, 5)] == [2, 2, 2, 1]
    with pytest.raises(TaskError, match="batch norm on coordinator cannot train on a batch of one sample"):
        head("normalised", 1)


def test_the_mean_loss_is_of_the_records_that_were_used() -> None:
    """The first batch of eight, whose loss is taken before its step."""
    found, _ = head("points_net", 12, drop_last=True)
    packed, targets = records(12).batch(torch.randperm(12, generator=torch.Generator().manual_seed(1))[:8])
    decoded = registry.build_piece("encoding", "bits").decode(packed, (11,))
    outputs = split_model(model_building.build_model("points_net", 1), "relu")[1](decoded)
    assert found == pytest.approx(
        float(randomised_labels.forward_corrected_loss(outputs.detach(), targets, 4.0)), rel=1e-6
    )


def test_epochs_are_not_for_workers_that_do_not_train() -> None:
    given = {"algorithm": "mistnet:split_at=relu,public_dataset=points", "dataset": "points", "model": "points_net"}
    assert prepare_run(build_plan(given))
    with pytest.raises(UsageError, match=r"--epochs requires workers that train; use --server-epochs with mistnet"):
        prepare_run(build_plan({**given, "epochs": 2}))


def test_adapting_leaves_a_short_last_batch_out_only_where_that_is_asked() -> None:
    for drop_last in (False, True):
        training = TrainSettings(model="points_net", dataset="points", drop_last=drop_last)
        strategy = registry.build_piece("algorithm", "mistnet:split_at=relu,extractor_epochs=1", training)
        asked = strategy.configure_extraction(
            copy_to_cpu(model_building.build_model("points_net", 1).state_dict()), {}, 10, send=False
        )
        assert asked.settings.get("drop_last", False) == drop_last and ("drop_last" in asked.settings) == drop_last
