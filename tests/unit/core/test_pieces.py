"""Models, losses and optimizers that ship with fedws: what the contract tests cannot know of them."""

import pytest
import torch
from torch.nn import functional

from fedws.core import registry
from fedws.core.errors import TaskError, UsageError


@pytest.mark.parametrize(
    ("model", "parameters"), [("mnist_cnn", 431_080), ("cifar_cnn", 141_034), ("linear", 7_850), ("mlp", 199_210)]
)
def test_the_number_of_parameters(model: str, parameters: int) -> None:
    assert sum(parameter.numel() for parameter in registry.build_piece("model", model).parameters()) == parameters


def test_sizes_are_options() -> None:
    assert registry.build_piece("model", "linear:12,outputs=3")(torch.zeros(2, 3, 4)).shape == (2, 3)
    assert registry.build_piece("model", "mlp:7,inputs=12,outputs=3")(torch.zeros(2, 3, 4)).shape == (2, 3)


@pytest.mark.parametrize("spec", ["linear:0", "linear:outputs=-1", "linear:1000000000000", "mlp:0", "mlp:99999999"])
def test_sizes_are_bounded(spec: str) -> None:
    with pytest.raises(UsageError):
        registry.build_piece("model", spec)


def test_cross_entropy_is_nll_on_log_probabilities() -> None:
    scores, targets = torch.randn(8, 10, generator=torch.Generator().manual_seed(1)), torch.arange(8)
    log_probabilities = functional.log_softmax(scores, dim=1)
    nll, cross_entropy = registry.build_piece("loss", "nll"), registry.build_piece("loss", "cross_entropy")
    assert torch.allclose(cross_entropy(scores, targets), nll(log_probabilities, targets))
    assert torch.allclose(cross_entropy(log_probabilities, targets), nll(log_probabilities, targets))


def test_mse_does_not_broadcast() -> None:
    mse = registry.build_piece("loss", "mse")
    targets = torch.tensor([1.0, 2.0, 3.0])
    assert float(mse(torch.tensor([[1.0], [2.0], [5.0]]), targets)) == pytest.approx(4 / 3)
    assert float(mse(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([1, 2, 3]))) == pytest.approx(1 / 3)
    with pytest.raises(TaskError, match=r"mse: outputs have shape \[3, 10\], targets \[3\]"):
        mse(torch.zeros(3, 10), targets)


def test_adam_takes_a_step_of_lr() -> None:
    weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = registry.build_piece("optimizer", "adam", [weight], 0.1)
    (weight**2).sum().backward()
    optimizer.step()
    assert weight.tolist() == pytest.approx([0.9, -1.9])


def test_adam_says_what_it_does_not_take() -> None:
    with pytest.raises(UsageError, match="optimizer adam: Invalid beta"):
        registry.build_piece("optimizer", "adam:beta1=2", [torch.nn.Parameter(torch.zeros(1))], 0.1)
