"""Evaluation of a model: loss, accuracy, predicted labels and threads."""

import math
import threading

import pytest
import torch
from torch import nn

from fedws.core.errors import TaskError
from fedws.protocol.evaluation_result import EvalResult
from fedws.training.evaluation import evaluate
from fedws.training.task_context import TaskContext
from tests.helpers.point_training import Points, net, same, scoring, space


def oracle(module: nn.Module, data: Points) -> tuple[float, int, list[int]]:
    """Loss, correct and histogram of a classifier, in float64 and all at once."""
    with torch.no_grad():
        outputs = module.eval()(data.inputs)
    each = -outputs.double()[torch.arange(len(data)), data.answers]
    predicted = outputs.argmax(1)
    return float(each.mean()), int((predicted == data.answers).sum()), predicted.bincount(minlength=2).tolist()


@pytest.mark.parametrize("size", [1, 7, 50, 128])
@pytest.mark.parametrize("threads", [1, 3])
def test_a_score_is_the_true_mean_over_samples(size: int, threads: int) -> None:
    found = evaluate(net(), space(threads=threads), scoring(batch_size=size))
    loss, correct, histogram = oracle(net(), Points(50))
    assert (found.num_examples, found.num_correct, found.predicted_label_counts) == (50, correct, histogram)
    assert found.loss == pytest.approx(loss, rel=1e-6)
    assert found.accuracy == correct / 50 and sum(histogram) == 50


@pytest.mark.parametrize("size", [1, 3, 16])
def test_a_score_is_the_same_to_the_bit_with_any_number_of_threads(size: int) -> None:
    scores = [evaluate(net(), space(333, threads=threads), scoring(batch_size=size)) for threads in (1, 2, 3)]
    assert scores[0] == scores[1] == scores[2]


class Constant(Points):
    """Inputs are the numbers of the samples; the answers are all the same."""

    def __init__(self, samples: int, answer: float) -> None:
        super().__init__(samples)
        self.inputs, self.answers = torch.arange(samples).float(), torch.full((samples,), answer)


class Zero(nn.Module):
    """Nothing, for any input."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(inputs)


def test_a_mean_of_many_batches_does_not_drift() -> None:
    """Losses are added in float64: 1,000 times 0.01 in float32 is 9.9998."""
    found = evaluate(Zero(), TaskContext("a", "points", Constant(1000, 0.1)), scoring(loss="mse", batch_size=1))
    assert found.loss == pytest.approx(float(torch.tensor(0.1) ** 2), rel=1e-12)


def test_losses_are_added_in_the_order_of_the_batches_whoever_is_first() -> None:
    """The first batch, done after two others, has so large a loss that each of them vanishes beside it, not both."""
    others = threading.Barrier(2)

    class Slow(nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            number = int(inputs[0])
            if number in (0, 2):
                others.wait(60)
            if number == 0:
                others.wait(60)
            if number == 3:
                others.wait(60)
            return torch.full_like(inputs, 2.0**27 if number == 0 else 1.5**0.5)

    found = evaluate(Slow(), TaskContext("a", "points", Constant(4, 0.0), threads=2), scoring(loss="mse", batch_size=1))
    assert found.loss == 2.0**54 / 4


def test_scoring_changes_nothing() -> None:
    module, before = net(), net()
    torch.manual_seed(1)
    state = torch.get_rng_state()
    evaluate(module, space(), scoring())
    assert same(module, before) and torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None and not parameter.is_inference() for parameter in module.parameters())


@pytest.mark.parametrize("shape", [(2, 1), (2,)])
def test_a_regression_has_a_loss_and_no_accuracy(shape: tuple[int, ...]) -> None:
    class Sum(nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return 2 * inputs.sum(1, keepdim=shape == (2, 1))

    data = Points(50, regression=True)
    found = evaluate(Sum(), TaskContext("a", "points", data), scoring(loss="mse", batch_size=8))
    assert found == EvalResult(50, found.loss) and found.accuracy is None
    assert found.loss == pytest.approx(float((data.answers.double() ** 2).mean()), rel=1e-6)


def test_outputs_that_are_no_classes_have_no_accuracy() -> None:
    class Wide(nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return inputs.unsqueeze(2).expand(-1, -1, 3).log_softmax(1)

    class Many(Points):
        def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
            return self.inputs[index], torch.zeros(3, dtype=torch.int64)

    found = evaluate(Wide(), TaskContext("a", "points", Many(9)), scoring())
    assert found.num_correct is None and found.num_examples == 9 and math.isfinite(found.loss)


def test_classes_that_are_never_predicted_are_counted_too() -> None:
    class Third(nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return torch.tensor([0.0, 0.0, 5.0, 0.0]).expand(len(inputs), 4).log_softmax(1)

    found = evaluate(Third(), space(), scoring(batch_size=16))
    assert found.predicted_label_counts == [0, 0, 50, 0] and found.num_correct == 0


def test_a_score_of_nothing_is_refused() -> None:
    with pytest.raises(TaskError, match="alice has no samples"):
        evaluate(net(), space(0), scoring())


def test_an_unknown_loss_is_a_task_error() -> None:
    with pytest.raises(TaskError, match="unknown loss"):
        evaluate(net(), space(), scoring(loss="nil"))


@pytest.mark.parametrize("threads", [1, 3])
def test_what_a_model_raises_comes_out(threads: int) -> None:
    class Broken(nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            raise KeyError("no")

    with pytest.raises(KeyError):
        evaluate(Broken(), space(threads=threads), scoring(batch_size=4))


def test_a_data_set_is_read_by_one_thread_at_a_time() -> None:
    class Alone(Points):
        def __init__(self) -> None:
            super().__init__(60)
            self.turn = threading.Lock()

        def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
            assert self.turn.acquire(blocking=False)
            try:
                threading.Event().wait(1e-4)  # lets another thread in, if one may come
                return super().__getitem__(index)
            finally:
                self.turn.release()

    assert evaluate(net(), TaskContext("a", "points", Alone(), threads=3), scoring(batch_size=2)).num_examples == 60
