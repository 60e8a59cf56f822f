"""What a node declares of its data: whole numbers that every coordinator can read."""

from typing import Any

import numpy as np
import pytest
import torch

from fedws.core.errors import UsageError
from fedws.node import data_summary
from fedws.node.worker import Worker
from fedws.privacy.policy import Policy
from fedws.protocol.messages import Welcome
from tests.helpers.support import sent_over


class Held:
    def __init__(self, targets: Any) -> None:
        if targets is not None:
            self.targets = targets

    def __len__(self) -> int:
        return 4000

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.zeros(2), 0


BOOLEANS = torch.arange(4000) % 2 == 1


@pytest.mark.parametrize(
    ("targets", "wanted"),
    [
        (BOOLEANS, [0, 1]),
        (BOOLEANS.tolist(), [0, 1]),
        (BOOLEANS.numpy(), [0, 1]),
        (BOOLEANS.to(torch.uint8), [0, 1]),
        (["cat", "dog"] * 2000, []),
        (torch.zeros(4000, 3, dtype=torch.int64), []),
        (torch.arange(4000) - 1, []),
        (None, []),
        ([number % 1000 for number in range(4000)], list(range(1000))),
        ([number % 1001 for number in range(4000)], []),
    ],
)
def test_labels_of_any_type_arrive_as_whole_numbers(targets: Any, wanted: list[int]) -> None:
    arrived = sent_over(Worker("alice", "held", Held(targets))._welcome)
    assert arrived.labels == wanted and all(type(label) is int for label in arrived.labels)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ([True, False, True], [0, 1]),
        (np.array([3, 1, 3]), [1, 3]),
        (torch.tensor([2, 0]), [0, 2]),
        ((5, 5), [5]),
        (range(1000), list(range(1000))),
        (range(1001), []),
    ],
)
def test_labels_that_are_given_arrive_too(given: Any, wanted: list[int]) -> None:
    arrived = sent_over(Worker("alice", "held", Held(None), labels=given)._welcome)
    assert arrived.labels == wanted and all(type(label) is int for label in arrived.labels)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (["cat"], "labels must be whole numbers: .*str.*; number the classes from 0"),
        ([1.0], "labels must be whole numbers: .*float.*; number the classes from 0"),
        ([None], "labels must be whole numbers: .*NoneType.*; number the classes from 0"),
        (7, "labels must be whole numbers: .*int.*; number the classes from 0"),
        ([1, -1], "labels must be 0 or more, got -1; number the classes from 0"),
        ([2**70], "labels must be below 100,000, got 1180591620717411303424; number the classes from 0"),
        ([5, 100_000], "labels must be below 100,000, got 100000; number the classes from 0"),
    ],
)
def test_labels_that_no_coordinator_can_read_are_a_line(given: Any, text: str) -> None:
    with pytest.raises(UsageError, match=f"^{text}$"):
        Worker("alice", "held", Held(None), labels=given)


@pytest.mark.parametrize("data_set", ["x" * 2**16, 7])
def test_what_cannot_pass_a_handshake_is_a_line(data_set: Any) -> None:
    with pytest.raises(UsageError, match=r"^alice cannot declare its data: "):
        data_summary.check_welcome(Welcome(node="alice", role="worker", dataset=data_set, num_examples=1))


def test_labels_of_too_few_samples_are_left_out() -> None:
    """Counted once, against a count label by label."""
    targets = [number % 7 if number < 3000 else 7 for number in range(4000)]
    for least in (2, 428, 429, 430, 1001):
        wanted = [label for label in range(8) if targets.count(label) >= least]
        policy = Policy(min_samples=least)
        assert Worker("alice", "held", Held(targets), policy=policy)._welcome.labels == wanted
        chosen = Worker("alice", "held", Held(targets), policy=policy, labels=[9, 7, 3])._welcome.labels
        assert chosen == [label for label in (3, 7) if label in wanted]
    assert Worker("alice", "held", Held(None), policy=Policy(min_samples=9), labels=[4])._welcome.labels == [4]
