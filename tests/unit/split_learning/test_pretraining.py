"""Pretraining: what it learns from, and what it finds out about the model."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from fedws.core import seeds
from fedws.core.errors import TaskError
from fedws.core.tensors import Tensors, copy_to_cpu, hash_tensors
from fedws.split_learning.extractor_pool import unpack_state_dicts
from fedws.split_learning.pretraining import PretrainSettings, build_extractors, inspect_labels, pretrain_epoch
from fedws.training import local_training, model_building, task_context
from tests.helpers.federation import Points, registered


@pytest.fixture(autouse=True, scope="module")
def _pieces() -> Iterator[None]:
    with registered():
        yield


class Lines(Points):
    """Points whose label is a point."""

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        point, _ = super().__getitem__(index)
        return point, point / 2


def work(data: Points | None = None) -> task_context.TaskContext:
    return task_context.TaskContext("public", "points", data or Points(Path(), True))


def lesson(**changes: Any) -> PretrainSettings:
    return PretrainSettings(
        **{"model": "points_net", "dataset": "points", "split_at": "relu", "max_local_batches": 4, **changes}
    )


def test_without_others_it_is_plain_training() -> None:
    one, other = (model_building.build_model("points_net", 1) for _ in range(2))
    trained, tensors = pretrain_epoch(one, {}, work(), lesson(), seed=2)
    assert trained == local_training.train(other, work(), lesson(), seed=2)
    assert hash_tensors(tensors) == hash_tensors(copy_to_cpu(other.state_dict()))


def test_others_learn_with_it_and_come_back_under_their_numbers() -> None:
    others = build_extractors("points_net", "relu", 2)
    assert len({hash_tensors(one) for one in unpack_state_dicts(others)}) == 2, "they begin differently"
    _, tensors = pretrain_epoch(model_building.build_model("points_net", 1), others, work(), lesson(), seed=2)
    assert set(tensors) == {*model_building.build_model("points_net", 1).state_dict(), *others}
    assert all(not torch.equal(tensors[name], others[name]) for name in others)


def test_every_extractor_learns_also_where_an_epoch_has_fewer_batches() -> None:
    """Within some epochs: that one of three is never begun with has a chance of 3 (2 / 3)^60 < 1e-9, and none here."""
    others = build_extractors("points_net", "relu", 2)
    tensors: Tensors = others
    module = model_building.build_model("points_net", 1)
    for epoch in range(60):
        further, seed = {name: tensors[name] for name in others}, seeds.request_seed(1, "public", epoch)
        _, tensors = pretrain_epoch(module, further, work(), lesson(max_local_batches=1), seed)
    assert all(not torch.equal(tensors[name], others[name]) for name in others)


def test_classes_are_found_in_what_the_model_gives_and_in_the_labels() -> None:
    module = model_building.build_model("points_net", 1)
    assert inspect_labels(module, work(), lesson()) == (10, "int64 []")
    assert inspect_labels(module, work(Lines(Path(), True)), lesson(clear_labels=True)) == (0, "float32 [4]")


def test_labels_that_cannot_be_randomised_are_told() -> None:
    module = model_building.build_model("points_net", 1)
    with pytest.raises(TaskError, match="points_net is not a classifier of points; to send clear labels"):
        inspect_labels(module, work(Lines(Path(), True)), lesson())


def test_samples_that_do_not_fit_are_told() -> None:
    with pytest.raises(TaskError, match="samples of points do not fit points_net:inputs=5; pretrain the model"):
        inspect_labels(
            model_building.build_model("points_net:inputs=5", 1), work(), lesson(model="points_net:inputs=5")
        )
