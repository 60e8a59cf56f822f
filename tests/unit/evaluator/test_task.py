"""The evaluator application's task, from a request to what the coordinator records of the result."""

import logging

import pytest
import torch

import fedws
from evaluator import task
from evaluator.task import evaluate
from fedws.core.limits import DEFAULT_MESSAGE_LIMITS
from fedws.updates.metrics import select_tables


class Points:
    """Samples of four values, each of the class that stands beside it."""

    def __init__(self, targets: list[int]) -> None:
        self.targets = torch.tensor(targets)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return (torch.arange(4) == index).float(), self.targets[index]


def answer(classes: int, targets: list[int], requests: int = 1) -> fedws.TaskResult:
    """Return the last result of a node that evaluates a linear model, which always predicts class 0, some times."""
    node = fedws.Worker("testing", "points", Points(targets), tasks={"evaluate": evaluate}, evaluator=True)
    settings = {"model": f"linear:inputs=4,outputs={classes}", "loss": "cross_entropy", "dataset": "points"}
    tensors = {"dense.weight": torch.zeros(classes, 4), "dense.bias": torch.zeros(classes)}
    for number in range(requests):
        request = fedws.TaskRequest(
            request_id=f"{number}", worker="testing", round=1, task="evaluate", settings=settings, tensors=tensors
        )
        result = node.execute(request, DEFAULT_MESSAGE_LIMITS)
    assert isinstance(result, fedws.TaskResult), result
    return result


@pytest.fixture(autouse=True)
def log_again() -> None:
    """Log what is logged once for each node."""
    task._log_missing_matrix.cache_clear()


def test_a_model_of_100_classes_has_its_matrix_recorded(caplog: pytest.LogCaptureFixture) -> None:
    table = select_tables(answer(100, [0, 1, 99]).metrics)["confusion"]
    assert [len(row) for row in table] == [100] * 100
    assert table[0][0] == table[1][0] == table[99][0] == 1 and sum(map(sum, table)) == 3
    assert caplog.messages == []


@pytest.mark.parametrize("classes", [101, 1000])
def test_a_model_of_more_classes_is_evaluated_without_a_matrix(classes: int, caplog: pytest.LogCaptureFixture) -> None:
    """Its table would not be recorded, or not even fit into a message; a line says so, once."""
    result = answer(classes, [0, 1, classes - 1], requests=3)
    assert result.metrics["num_correct"] == 1 and result.metrics["predicted_label_counts"][0] == 3
    assert "confusion" not in result.metrics
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith("testing: no confusion matrix for a model with more than 100 classes")


def test_a_target_to_ignore_fails_no_evaluation() -> None:
    result = answer(2, [0, -100, 1])
    assert result.metrics["confusion"] == [[1, 0], [1, 0]]
    assert result.metrics["num_examples"] == 3 and result.metrics["num_correct"] == 1
