"""Every registered loss: a mean over the samples of a batch, with a gradient."""

import pytest
import torch
from torch.nn import functional

from fedws.core import registry
from fedws.core.errors import TaskError
from fedws.training.base import Loss


def batch(kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(1)
    if kind == "classes":
        return functional.log_softmax(torch.randn(12, 5, generator=random), dim=1), torch.arange(12) % 5
    return torch.randn(12, generator=random), torch.randn(12, generator=random)


def taken(loss: Loss) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch of the first kind that the loss takes."""
    for kind in ("classes", "values"):
        try:
            loss(*batch(kind))
        except (TaskError, RuntimeError):
            continue
        return batch(kind)
    raise AssertionError("it takes neither classes nor values; add its own kind of batch")


@pytest.mark.parametrize("name", registry.list_pieces("loss"))
def test_it_is_the_mean_over_samples(name: str) -> None:
    loss = registry.build_piece("loss", name)
    outputs, targets = taken(loss)
    whole = loss(outputs, targets)
    assert whole.shape == () and torch.isfinite(whole)
    parts = 5 * loss(outputs[:5], targets[:5]) + 7 * loss(outputs[5:], targets[5:])
    assert torch.allclose(parts / 12, whole)


@pytest.mark.parametrize("name", registry.list_pieces("loss"))
def test_its_gradient_leads_down(name: str) -> None:
    loss = registry.build_piece("loss", name)
    outputs, targets = taken(loss)
    outputs.requires_grad_()
    before = loss(outputs, targets)
    before.backward()
    assert outputs.grad is not None
    assert loss(outputs.detach() - 0.1 * outputs.grad, targets) < before
