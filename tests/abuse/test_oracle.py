"""A coordinator that reads the evaluator's pictures from the scores of models made for that purpose."""

from pathlib import Path
from typing import Any

import pytest
import torch

from fedws.core import registry
from fedws.node.evaluator import create_evaluator
from fedws.node.worker import Worker
from fedws.privacy.audit_chain import read_lines
from fedws.privacy.audit_log import AuditLog
from fedws.privacy.policy import Policy
from fedws.protocol.messages import TaskFailure, TaskRequest, TaskResult


class Pictures:
    """Forty pictures of four pixels; the first pixel of the last picture is brighter than any other one."""

    def __init__(self) -> None:
        self.targets = torch.zeros(40, dtype=torch.int64)
        self.pixels = torch.rand(40, 4, generator=torch.Generator().manual_seed(1)) / 2
        self.pixels[-1, 0] = 0.7

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.pixels[index], self.targets[index]


def node(folder: Path, **policy: Any) -> Worker:
    return create_evaluator(
        "testing", "pictures", Pictures(), policy=Policy(**policy), audit_log=AuditLog(folder / "log")
    )


def brighter(number: int, threshold: float, pixel: int = 0, weight: float = 1e6) -> TaskRequest:
    """Return a request to evaluate a model whose prediction is 1 if that pixel is brighter, else 0."""
    weights = torch.zeros(2, 4)
    weights[1, pixel] = weight
    tensors = {"dense.weight": weights, "dense.bias": torch.tensor([0.0, -weight * threshold])}
    settings = {"model": "linear:inputs=4,outputs=2", "loss": "nll", "dataset": "pictures"}
    return TaskRequest(
        request_id=f"{number}", worker="testing", round=1, task="evaluate", settings=settings, tensors=tensors
    )


def search(worker: Worker, steps: int) -> tuple[float, list[TaskResult | TaskFailure]]:
    """Return the brightest first pixel, found by bisection, and the evaluator's answers."""
    low, high, answers = 0.0, 1.0, []
    for number in range(steps):
        middle = (low + high) / 2
        answers.append(worker.execute(brighter(number, middle)))
        if isinstance(answers[-1], TaskResult):
            low, high = (middle, high) if answers[-1].metrics["num_correct"] < 40 else (low, middle)
    return (low + high) / 2, answers


def test_a_day_has_no_more_scores_than_the_policy_allows(tmp_path: Path) -> None:
    """Without a limit, 784 pixels of one picture were read in 9,460 requests."""
    found, answers = search(node(tmp_path, max_answers_per_day=3), 12)
    assert [isinstance(answer, TaskResult) for answer in answers] == 3 * [True] + 9 * [False]
    assert {answer.code for answer in answers[3:] if isinstance(answer, TaskFailure)} == {"retry_later"}
    assert abs(found - 0.7) > 0.01, "three bits of it"
    assert [line["counted_as"] for line in read_lines(tmp_path / "log") if line] == 3 * ["request"] + 9 * [""]
    again = node(tmp_path, max_answers_per_day=3).execute(brighter(99, 0.5))
    assert isinstance(again, TaskFailure) and again.code == "retry_later", "also after a new start"


def test_without_a_limit_a_pixel_can_be_read(tmp_path: Path) -> None:
    """The security page states this risk for the owner of an evaluator, even if the policy requires many samples."""
    found, _ = search(node(tmp_path, min_samples=40), 20)
    assert abs(found - 0.7) < 1e-5


@pytest.mark.parametrize(
    ("samples", "threshold", "histogram"),
    [
        (1, 0.6, [39, 1]),
        (2, 0.6, None),
        (2, 0.9, [40, 0]),
        (2, -1.0, [0, 40]),
        (40, 0.6, None),
        (40, 0.9, [40, 0]),
    ],
)
def test_a_histogram_with_a_cell_of_too_few_samples_does_not_leave(
    samples: int, threshold: float, histogram: Any, tmp_path: Path
) -> None:
    answer = node(tmp_path, min_samples=samples).execute(brighter(1, threshold))
    assert isinstance(answer, TaskResult) and answer.metrics["predicted_label_counts"] == histogram
    assert answer.metrics["num_examples"] == 40 and answer.metrics["num_correct"] is not None


def test_the_loss_of_a_score_is_rounded(tmp_path: Path) -> None:
    """Otherwise one pixel, times a small weight, could be read from its last digits."""
    worker, losses = node(tmp_path), []
    for pixel in (1, 2):
        answer = worker.execute(brighter(pixel, 0.25, pixel, weight=1e-5))
        assert isinstance(answer, TaskResult)
        losses.append(answer.metrics["loss"])
    assert losses[0] == losses[1] == 0.69315


def test_one_score_tells_digits_of_one_sample_where_the_model_ignores_the_others(tmp_path: Path) -> None:
    """As the page states, neither ``samples`` nor rounding prevents this; only the number of scores does."""
    mlp = "mlp:inputs=4,hidden=1,outputs=2"
    tensors = {
        "fc1.weight": torch.eye(4)[:1],
        "fc1.bias": torch.tensor([-0.6]),  # only the last picture is brighter
        "fc2.weight": torch.ones(1, 1),
        "fc2.bias": torch.zeros(1),
        "fc3.weight": torch.tensor([[0.0], [1e8]]),
        "fc3.bias": torch.zeros(2),
    }
    settings = {"model": mlp, "loss": "nll", "dataset": "pictures"}
    asked = TaskRequest(request_id="1", worker="testing", round=1, task="evaluate", settings=settings, tensors=tensors)
    answer = node(tmp_path, min_samples=40).execute(asked)
    assert isinstance(answer, TaskResult)
    assert abs(answer.metrics["loss"] * 40 / 1e8 + 0.6 - 0.7) < 1e-5


@pytest.mark.parametrize("size", [1, 8, 128])
@pytest.mark.parametrize("index", [0, 39])
def test_a_warning_is_of_as_many_samples_as_a_number(size: int, index: int, tmp_path: Path) -> None:
    """It was of the first batch, whose size the coordinator chooses, so it could be of one sample."""
    data = Pictures()
    data.pixels[:, 3] = 0.0
    data.pixels[index, 3] = 1.0
    logits = registry.register("model", "logits")(Logits)
    tensors = {
        "weight": torch.tensor([[0.0, 0.0, 0.0, 9.0], [0.0, 0.0, 0.0, 0.0]]),
        "bias": torch.full((2,), 0.5).log(),
    }
    settings = {"model": "logits", "loss": "nll", "dataset": "pictures", "batch_size": size}
    asked = TaskRequest(request_id="1", worker="testing", round=1, task="evaluate", settings=settings, tensors=tensors)
    try:
        made = create_evaluator(
            "testing", "pictures", data, policy=Policy(min_samples=40), audit_log=AuditLog(tmp_path / "log")
        )
        answer = made.execute(asked)
    finally:
        registry._pieces.pop(("model", "logits"))
    assert logits is Logits and isinstance(answer, TaskResult)
    assert answer.metrics["warnings"] == ["not_log_probabilities"], "wherever the sample is"


class Logits(torch.nn.Linear):
    """A model of an owner, whose outputs are not log-probabilities by themselves."""

    def __init__(self) -> None:
        super().__init__(4, 2)
