"""A model as it is scored after its head was trained on encoded features: encoded like them, and without noise."""

from collections.abc import Iterator

import pytest
import torch

from fedws.core.errors import TaskError
from fedws.core.plan import Scoring
from fedws.split_learning.encoded_model import encoded
from fedws.training.learning import initial
from tests.nodes import registered

POINTS = torch.randn(200, 4, generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True, scope="module")
def _pieces() -> Iterator[None]:
    with registered():
        yield


def scoring(encoding: str, cut: str = "relu") -> Scoring:
    return Scoring(model="points_net", loss="nll", dataset="points", cut=cut, encoding=encoding)


@pytest.mark.parametrize("encoding", ["bits:epsilon=0.1", "sue:epsilon=0.1", "oue:epsilon=0.1", "clear_bits"])
def test_bits_are_scored_without_the_noise_that_they_leave_with(encoding: str) -> None:
    """With so little epsilon nearly half of them would be flipped."""
    module = initial("points_net", seed=1)
    state = module.state_dict()
    with torch.inference_mode():
        features = torch.relu(POINTS @ state["inner.weight"].T + state["inner.bias"])
        by_hand = torch.log_softmax((features > 0).float() @ state["outer.weight"].T + state["outer.bias"], 1)
        found = encoded(module, scoring(encoding))(POINTS)
    assert torch.allclose(found, by_hand, atol=1e-6)


def test_floats_give_what_the_model_gives() -> None:
    module = initial("points_net", seed=1)
    with torch.inference_mode():
        assert torch.equal(encoded(module, scoring("floats"))(POINTS), module(POINTS))


@pytest.mark.parametrize(("encoding", "cut"), [("morse", "relu"), ("bits", "nowhere"), ("bits:epsilon=0", "relu")])
def test_what_cannot_be_is_the_orders_fault(encoding: str, cut: str) -> None:
    with pytest.raises(TaskError):
        encoded(initial("points_net", seed=1), scoring(encoding, cut))
