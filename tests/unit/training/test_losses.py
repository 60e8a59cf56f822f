"""Values of the losses that ship with fedws, which the contract tests do not cover."""

import pytest
import torch
from torch.nn import functional

from fedws.core import registry
from fedws.core.errors import TaskError


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
