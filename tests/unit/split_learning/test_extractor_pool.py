"""Several extractors for one head: joined and parted, and trained in turn."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fedws.core.errors import UsageError
from fedws.core.plan import Training
from fedws.core.tensors import detached, digest
from fedws.protocol.header import misnamed
from fedws.split_learning.extractor_pool import Shared, join, joined, parts
from fedws.split_learning.model_split import split
from fedws.training import building, local, task_context
from tests.helpers.federation import Points, registered


@pytest.fixture(autouse=True, scope="module")
def _pieces() -> Iterator[None]:
    with registered():
        yield


def extractor(seed: int) -> dict[str, torch.Tensor]:
    return split(building.initial("points_net", seed), "relu")[0].state_dict()


def test_what_is_joined_comes_apart_again_in_order() -> None:
    several = [extractor(seed) for seed in range(12)]
    together = join(several)
    assert [digest(one) for one in parts(together)] == [digest(one) for one in several]
    assert all(joined(name) and not misnamed(name) for name in together)
    assert not any(joined(name) for name in building.initial("points_net", 1).state_dict())
    assert parts({}) == []


def test_what_was_not_joined_is_not_taken_for_it() -> None:
    assert parts({"w": torch.ones(1), "2:w": torch.ones(1), "../0:w": torch.ones(1)}) == []


def test_outside_of_training_it_is_the_model() -> None:
    module = building.initial("points_net", 1)
    shared, points = Shared(module, "relu", [extractor(2)]).eval(), torch.randn(5, 4)
    assert torch.equal(shared(points), module(points)) and torch.equal(shared(points), module(points))


def test_all_of_it_learns_and_the_model_is_the_one_that_was_given() -> None:
    module, others = building.initial("points_net", 1), [extractor(2), extractor(3)]
    shared = Shared(module, "relu", others)
    before = detached(module.state_dict())
    settings = Training(model="points_net", dataset="points", batches=3, batch_size=40)
    local.train(shared, task_context.Workspace("alice", "points", Points(Path(), True)), settings, seed=1)
    after, rest = shared.whole(), parts(shared.others())
    assert sorted(after) == sorted(before) and all(
        torch.equal(after[name], module.state_dict()[name]) for name in after
    )
    assert all(not torch.equal(after[name], before[name]) for name in before)
    for one, start in zip(rest, others, strict=True):
        assert all(not torch.equal(one[name], start[name]) for name in start)
    assert len({digest(one) for one in [detached({name: after[name] for name in others[0]}), *rest]}) == 3


def test_extractors_of_another_cut_do_not_fit() -> None:
    module = building.initial("points_net", 1)
    with pytest.raises(RuntimeError, match=r"inner\.bias"):
        Shared(module, "relu", [{"inner.weight": torch.zeros(11, 4)}])
    with pytest.raises(UsageError, match="there is no such cut"):
        Shared(module, "nowhere", [])
