"""Every registered optimizer: it learns, keeps to its parameters, and is deterministic."""

import pytest
import torch

from fedws.core import registry


def descend(name: str, lr: float, steps: int) -> tuple[torch.Tensor, list[float]]:
    """The weights after some steps towards (1, 2, 3), and the losses on the way."""
    weights, goal = torch.nn.Parameter(torch.zeros(3)), torch.tensor([1.0, 2.0, 3.0])
    optimizer = registry.build_piece("optimizer", name, [weights], lr)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = ((weights - goal) ** 2).mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return weights.detach(), losses


@pytest.mark.parametrize("name", registry.list_pieces("optimizer"))
def test_it_learns(name: str) -> None:
    _, losses = descend(name, 0.05, 20)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", registry.list_pieces("optimizer"))
def test_it_does_the_same_again(name: str) -> None:
    assert torch.equal(descend(name, 0.05, 5)[0], descend(name, 0.05, 5)[0])


@pytest.mark.parametrize("name", registry.list_pieces("optimizer"))
def test_the_learning_rate_is_the_one_given(name: str) -> None:
    optimizer = registry.build_piece("optimizer", name, [torch.nn.Parameter(torch.zeros(1))], 0.25)
    assert isinstance(optimizer, torch.optim.Optimizer)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25]


@pytest.mark.parametrize("name", registry.list_pieces("optimizer"))
def test_a_smaller_rate_goes_less_far(name: str) -> None:
    assert descend(name, 0.001, 1)[0].norm() < descend(name, 0.1, 1)[0].norm()
