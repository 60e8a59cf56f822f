"""How many samples a request can make a node hold at a time: what the owner allows, or what the node chooses."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import fedws
from fedws.coordinator import server_trainer_main
from fedws.privacy.policy import Policy
from fedws.protocol.messages import TaskRequest, TaskResult
from fedws.split_learning.feature_store import FeatureStore
from tests.helpers import mistnet_requests
from tests.helpers.federation import Points
from tests.helpers.model_build_probe import MADE, answered, asked, refused, watched, weights


@pytest.fixture(autouse=True)
def _pieces() -> Iterator[None]:
    with watched():
        yield


class Counted:
    """Points, the same again and again; notes how many are read at a time."""

    def __init__(self, samples: int) -> None:
        points = Points(Path(), True)
        self._inputs = torch.stack([points[index % len(points)][0] for index in range(samples)])
        self.targets = torch.tensor([int(points[index % len(points)][1]) for index in range(samples)])
        self.read: list[int] = []

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> Any:
        return self._inputs[index], self.targets[index]

    def batch(self, indices: torch.Tensor) -> Any:
        self.read.append(len(indices))
        return self._inputs[indices], self.targets[indices]


@pytest.mark.parametrize("task", ["fedavg.fit", "fedsgd.gradient"])
def test_a_batch_above_the_policys_bound_is_refused_before_a_sample_is_read(task: str) -> None:
    data = Counted(1025)
    reason = refused(asked(task, "watched", weights(), batch_size=15_000), data=data)
    assert reason == (
        "policy: batches of 1,025 samples requested, at most 1,024 allowed; "
        "use a smaller --batch-size, or raise max_batch_size in the node's policy"
    )
    assert max(data.read, default=0) <= 1 and MADE == [], "a node looks at one sample when it starts"


def test_the_bound_is_the_owners_and_counts_what_a_batch_would_really_hold() -> None:
    order = asked("fedavg.fit", "watched", weights(), batch_size=2**40)
    assert "batches of 120 samples requested, at most 119 allowed;" in refused(order, Policy(max_batch_size=119))
    assert isinstance(answered(order, Policy(max_batch_size=120)), TaskResult), "the node holds 120 samples"
    default = asked("fedavg.fit", "watched", weights())
    assert "batches of 32 samples requested, at most 31 allowed;" in refused(default, Policy(max_batch_size=31))


def test_adapting_an_extractor_has_the_same_bound() -> None:
    order = mistnet_requests.extraction(extractor_epochs=1, changes={"train_batch_size": 15_000})
    assert "batches of 120 samples requested, at most 119 allowed;" in refused(
        order, Policy(max_batch_size=119, tasks=("mistnet.fine_tune",))
    )


@pytest.mark.parametrize("task", ["evaluate", "mistnet.extract"])
def test_a_node_takes_no_more_samples_at_a_time_than_its_own_number(task: str) -> None:
    """Whatever is requested, since it must not show in the result; so it is no reason to refuse either."""
    data = Counted(300)
    answer = answered(asked(task, "watched", weights(), batch_size=15_000), data=data)
    assert isinstance(answer, TaskResult), answer
    assert max(data.read) == 128 and sum(data.read) >= 300
    assert isinstance(answered(asked(task, "watched", weights()), Policy(max_batch_size=1)), TaskResult), (
        "of training alone"
    )


def test_a_smaller_number_at_a_time_is_taken() -> None:
    data = Counted(300)
    assert isinstance(answered(asked("evaluate", "watched", weights(), batch_size=7), data=data), TaskResult)
    assert max(data.read) == 7


def test_the_coordinators_own_node_has_no_such_bounds(tmp_path: Path) -> None:
    """Its user chose model and batch, and named them on this machine."""
    order = replace(asked("fedavg.fit", "watched", weights(), batch_size=2**40), worker="coordinator")
    store = FeatureStore(tmp_path)
    answer = server_trainer_main._execute(order, store, {"fedavg.fit": _policy})
    assert isinstance(answer, TaskResult) and answer.metrics == {"parameters": 2**63, "batch_size": 2**63}


def _policy(order: TaskRequest, workspace: fedws.TaskContext) -> TaskResult:
    policy = workspace.policy
    return workspace.build_result(order, {"parameters": policy.max_parameters, "batch_size": policy.max_batch_size})
