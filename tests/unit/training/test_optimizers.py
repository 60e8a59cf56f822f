"""Steps and options of the optimizers that ship with fedws, which the contract tests do not cover."""

import pytest
import torch

from fedws.core import registry
from fedws.core.errors import UsageError


def test_adam_takes_a_step_of_lr() -> None:
    weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = registry.build_piece("optimizer", "adam", [weight], 0.1)
    (weight**2).sum().backward()
    optimizer.step()
    assert weight.tolist() == pytest.approx([0.9, -1.9])


def test_adam_says_what_it_does_not_take() -> None:
    with pytest.raises(UsageError, match="optimizer adam: Invalid beta"):
        registry.build_piece("optimizer", "adam:beta1=2", [torch.nn.Parameter(torch.zeros(1))], 0.1)
