"""An optimizer that was put away and taken up again goes on as if nothing had happened."""

from typing import Any

import pytest
import torch

from fedws.core import registry
from fedws.core.tensors import copy_to_cpu
from fedws.protocol.header import explain_invalid_name
from fedws.training.optimizer_state import STATE_PREFIX, get_state_tensors, load_state_tensors


def steps(parameters: list[torch.nn.Parameter], optimizer: torch.optim.Optimizer, count: int) -> None:
    for number in range(count):
        optimizer.zero_grad()
        torch.stack([((it - number) ** 2).sum() for it in parameters]).sum().backward()
        optimizer.step()


@pytest.mark.parametrize("spec", ["sgd", "sgd:momentum=0.9", "adam"])
def test_it_goes_on_as_if_it_had_never_been_put_away(spec: str) -> None:
    def made() -> list[torch.nn.Parameter]:
        return [torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(2, 2))]

    whole: Any = made()
    optimizer = registry.build_piece("optimizer", spec, whole, 0.1)
    steps(whole, optimizer, 3)
    halves: Any = made()
    first = registry.build_piece("optimizer", spec, halves, 0.1)
    steps(halves, first, 3)
    kept = copy_to_cpu(get_state_tensors(first))
    second = registry.build_piece("optimizer", spec, halves, 0.1)
    load_state_tensors(second, {"weight": torch.ones(1), **kept})
    steps(whole, optimizer, 3)
    steps(halves, second, 3)
    assert all(torch.equal(one, other) for one, other in zip(whole, halves, strict=True))
    assert bool(kept) == (spec != "sgd")
    assert all(name.startswith(STATE_PREFIX) and not explain_invalid_name(name) for name in kept), (
        "they travel to the own node"
    )
