"""Pretraining: what it learns from, and what it finds out about the model."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from fedws.core import seeds
from fedws.core.errors import TaskError
from fedws.core.tensors import Tensors, detached, digest
from fedws.split_learning.extractor_pool import parts
from fedws.split_learning.pretraining import Lesson, beginnings, examine, learn
from fedws.training import building, local, task_context
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


def work(data: Points | None = None) -> task_context.Workspace:
    return task_context.Workspace("public", "points", data or Points(Path(), True))


def lesson(**changes: Any) -> Lesson:
    return Lesson(**{"model": "points_net", "dataset": "points", "cut": "relu", "batches": 4, **changes})


def test_without_others_it_is_plain_training() -> None:
    one, other = (building.initial("points_net", 1) for _ in range(2))
    trained, tensors = learn(one, {}, work(), lesson(), seed=2)
    assert trained == local.train(other, work(), lesson(), seed=2)
    assert digest(tensors) == digest(detached(other.state_dict()))


def test_others_learn_with_it_and_come_back_under_their_numbers() -> None:
    others = beginnings("points_net", "relu", 2)
    assert len({digest(one) for one in parts(others)}) == 2, "they begin differently"
    _, tensors = learn(building.initial("points_net", 1), others, work(), lesson(), seed=2)
    assert set(tensors) == {*building.initial("points_net", 1).state_dict(), *others}
    assert all(not torch.equal(tensors[name], others[name]) for name in others)


def test_every_extractor_learns_also_where_an_epoch_has_fewer_batches() -> None:
    """Within some epochs: that one of three is never begun with has a chance of 3 (2 / 3)^60 < 1e-9, and none here."""
    others = beginnings("points_net", "relu", 2)
    tensors: Tensors = others
    module = building.initial("points_net", 1)
    for epoch in range(60):
        further, seed = {name: tensors[name] for name in others}, seeds.order_seed(1, "public", epoch)
        _, tensors = learn(module, further, work(), lesson(batches=1), seed)
    assert all(not torch.equal(tensors[name], others[name]) for name in others)


def test_classes_are_found_in_what_the_model_gives_and_in_the_labels() -> None:
    module = building.initial("points_net", 1)
    assert examine(module, work(), lesson()) == (10, "int64 []")
    assert examine(module, work(Lines(Path(), True)), lesson(clear=True)) == (0, "float32 [4]")


def test_labels_that_cannot_be_randomised_are_told() -> None:
    module = building.initial("points_net", 1)
    with pytest.raises(TaskError, match="points_net tells no classes of points apart; labels can be sent as"):
        examine(module, work(Lines(Path(), True)), lesson())


def test_samples_that_do_not_fit_are_told() -> None:
    with pytest.raises(TaskError, match="samples of points do not fit points_net:inputs=5: pretrain it on others"):
        examine(building.initial("points_net:inputs=5", 1), work(), lesson(model="points_net:inputs=5"))
