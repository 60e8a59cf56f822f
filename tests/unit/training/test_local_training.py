"""Local training and gradients, compared with the algorithm written out."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from fedws.core.errors import TaskCancelled, TaskError
from fedws.training.evaluation import evaluate
from fedws.training.local_training import compute_gradient, train
from fedws.training.task_context import TaskContext
from tests.helpers.point_training import Points, net, same, scoring, space, training


def by_hand(
    module: nn.Module, data: Points, size: int, most: int, epochs: int, lr: float, seed: int
) -> tuple[float, int]:
    """What McMahan's ClientUpdate says, without any of fedws."""
    torch.manual_seed(seed)
    shuffle = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(module.parameters(), lr)
    module.train()
    taken, total, samples = 0, 0.0, 0
    for _ in range(epochs):
        order = torch.randperm(len(data), generator=shuffle).tolist()
        for start in range(0, len(order), size):
            if taken == most:
                return total / samples, samples
            taken += 1
            chosen = order[start : start + size]
            inputs = torch.stack([data[index][0] for index in chosen])
            targets = torch.stack([data[index][1] for index in chosen])
            optimizer.zero_grad()
            loss = functional.nll_loss(module(inputs), targets)
            loss.backward()
            optimizer.step()
            total += loss.item() * len(chosen)
            samples += len(chosen)
    return total / samples, samples


@pytest.mark.parametrize(
    ("samples", "size", "most", "epochs"),
    [
        (50, 8, 3, 1),  # the limit ends the epoch
        (50, 8, 100, 1),  # a last batch of 2
        (48, 8, 6, 1),  # the limit is the epoch
        (50, 8, 100, 3),
        (50, 8, 9, 3),  # the limit is within the second epoch
        (48, 8, 6, 2),  # the limit is where the second epoch begins
        (50, 8, 1, 4),
        (50, 8, 7, 4),
        (50, 64, 2, 3),  # a batch takes all
    ],
)
def test_training_is_the_loop_of_the_paper_to_the_bit(samples: int, size: int, most: int, epochs: int) -> None:
    mine, wanted = net(), net()
    work = space(samples)
    done = train(mine, work, training(batch_size=size, max_local_batches=most, epochs=epochs, lr=0.3), seed=11)
    torch.random.manual_seed(0)
    loss, used = by_hand(wanted, Points(samples), size, most, epochs, 0.3, seed=11)
    assert same(mine, wanted) and all(torch.isfinite(value).all() for value in mine.state_dict().values())
    assert (done.num_examples, done.device) == (used, "cpu") and done.loss == pytest.approx(loss, rel=1e-6)


def test_training_depends_on_the_seed_and_not_on_the_global_generator() -> None:
    modules = [net() for _ in range(3)]
    for module, seed in zip(modules, (1, 1, 2), strict=True):
        torch.rand(1)
        before = torch.get_rng_state()
        train(module, space(), training(), seed)
        assert torch.equal(torch.get_rng_state(), before)
    assert same(modules[0], modules[1]) and not same(modules[0], modules[2])


def test_the_optimizer_and_the_loss_are_those_of_the_settings() -> None:
    mine, wanted = net(), net()
    train(mine, space(8), training(optimizer="adam:beta1=0.5", loss="cross_entropy", batch_size=8), 1)
    torch.manual_seed(1)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    optimizer = torch.optim.Adam(wanted.parameters(), 0.1, betas=(0.5, 0.999))
    functional.cross_entropy(wanted.train()(Points(8).inputs[order]), Points(8).answers[order]).backward()
    optimizer.step()
    assert same(mine, wanted)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"loss": "nil"}, "unknown loss 'nil'; did you mean 'nll'?"),
        ({"optimizer": "sdg"}, "unknown optimizer 'sdg'; did you mean 'sgd'?"),
        ({"optimizer": "sgd:momentum=x"}, "optimizer sgd: momentum: "),
    ],
)
@pytest.mark.parametrize("learn", [train, compute_gradient])
def test_pieces_that_are_not_there_are_a_task_error(
    learn: Callable[..., Any], options: dict[str, str], text: str
) -> None:
    if learn is compute_gradient and "optimizer" in options:
        options, text = {"loss": "nil"}, "unknown loss"
    with pytest.raises(TaskError, match=text.replace("?", r"\?")):
        learn(net(), space(), training(**options), 1)


@pytest.mark.parametrize("learn", [train, compute_gradient])
def test_a_node_without_samples_cannot_train(learn: Callable[..., Any]) -> None:
    with pytest.raises(TaskError, match="alice has no samples"):
        learn(net(), space(0), training(), 1)


class Telling(Points):
    """Stops the node when a sample of the third batch is read."""

    def __init__(self, samples: int, stop: threading.Event) -> None:
        super().__init__(samples)
        self.stop, self.read = stop, 0

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        self.read += 1
        if self.read == 17:
            self.stop.set()
        return super().__getitem__(index)


@pytest.mark.parametrize("what", [train, compute_gradient, evaluate])
def test_a_task_that_is_told_to_stop_stops_at_the_next_batch(what: Callable[..., Any]) -> None:
    stop = threading.Event()
    data = Telling(800, stop)
    work = TaskContext("alice", "points", data, stop)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    with pytest.raises(TaskCancelled):
        if what is evaluate:
            evaluate(net(), work, scoring(batch_size=8))
        else:
            what(net(), work, training(batch_size=8, max_local_batches=100), 1)
    assert data.read == 24
    assert torch.equal(torch.get_rng_state(), before)


def test_the_gradient_is_that_of_the_mean_over_the_samples() -> None:
    mine = nn.Sequential(nn.Linear(2, 2), nn.LogSoftmax(dim=1))
    data = Points(50)
    done = compute_gradient(mine, space(), training(batch_size=8, max_local_batches=4), 5)
    chosen = torch.randperm(50, generator=torch.Generator().manual_seed(5))[:32]
    wanted = [parameter.detach().clone().double().requires_grad_() for parameter in mine.parameters()]
    outputs = functional.log_softmax(data.inputs[chosen].double() @ wanted[0].t() + wanted[1], dim=1)
    loss = functional.nll_loss(outputs, data.answers[chosen])
    loss.backward()
    assert done.num_examples == 32 and done.loss == pytest.approx(loss.item())
    for parameter, double in zip(mine.parameters(), wanted, strict=True):
        assert parameter.grad is not None and double.grad is not None
        assert torch.allclose(parameter.grad.double(), double.grad, atol=1e-7)
