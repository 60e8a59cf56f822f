"""Several extractors for one head: joined and parted, and trained in turn."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fedws.core.errors import UsageError
from fedws.core.task_settings import TrainSettings
from fedws.core.tensors import copy_to_cpu, hash_tensors
from fedws.protocol.header import explain_invalid_name
from fedws.split_learning.extractor_pool import (
    MultiExtractorModel,
    is_packed_name,
    pack_state_dicts,
    unpack_state_dicts,
)
from fedws.split_learning.model_split import split_model
from fedws.training import local_training, model_building, task_context
from tests.helpers.federation import Points, registered


@pytest.fixture(autouse=True, scope="module")
def _pieces() -> Iterator[None]:
    with registered():
        yield


def extractor(seed: int) -> dict[str, torch.Tensor]:
    return split_model(model_building.build_model("points_net", seed), "relu")[0].state_dict()


def test_what_is_joined_comes_apart_again_in_order() -> None:
    several = [extractor(seed) for seed in range(12)]
    together = pack_state_dicts(several)
    assert [hash_tensors(one) for one in unpack_state_dicts(together)] == [hash_tensors(one) for one in several]
    assert all(is_packed_name(name) and not explain_invalid_name(name) for name in together)
    assert not any(is_packed_name(name) for name in model_building.build_model("points_net", 1).state_dict())
    assert unpack_state_dicts({}) == []


def test_what_was_not_joined_is_not_taken_for_it() -> None:
    assert unpack_state_dicts({"w": torch.ones(1), "2:w": torch.ones(1), "../0:w": torch.ones(1)}) == []


def test_outside_of_training_it_is_the_model() -> None:
    module = model_building.build_model("points_net", 1)
    shared, points = MultiExtractorModel(module, "relu", [extractor(2)]).eval(), torch.randn(5, 4)
    assert torch.equal(shared(points), module(points)) and torch.equal(shared(points), module(points))


def test_all_of_it_learns_and_the_model_is_the_one_that_was_given() -> None:
    module, others = model_building.build_model("points_net", 1), [extractor(2), extractor(3)]
    shared = MultiExtractorModel(module, "relu", others)
    before = copy_to_cpu(module.state_dict())
    settings = TrainSettings(model="points_net", dataset="points", max_local_batches=3, batch_size=40)
    local_training.train(shared, task_context.TaskContext("alice", "points", Points(Path(), True)), settings, seed=1)
    after, rest = shared.model_state(), unpack_state_dicts(shared.pack_extra_extractors())
    assert sorted(after) == sorted(before) and all(
        torch.equal(after[name], module.state_dict()[name]) for name in after
    )
    assert all(not torch.equal(after[name], before[name]) for name in before)
    for one, start in zip(rest, others, strict=True):
        assert all(not torch.equal(one[name], start[name]) for name in start)
    assert len({hash_tensors(one) for one in [copy_to_cpu({name: after[name] for name in others[0]}), *rest]}) == 3


def test_extractors_of_another_cut_do_not_fit() -> None:
    module = model_building.build_model("points_net", 1)
    with pytest.raises(RuntimeError, match=r"inner\.bias"):
        MultiExtractorModel(module, "relu", [{"inner.weight": torch.zeros(11, 4)}])
    with pytest.raises(UsageError, match="unknown split point"):
        MultiExtractorModel(module, "nowhere", [])
