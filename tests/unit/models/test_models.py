"""Sizes of the models that ship with fedws, which the contract tests do not cover."""

import pytest
import torch

from fedws.core import registry
from fedws.core.errors import UsageError


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
