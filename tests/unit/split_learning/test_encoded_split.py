"""A model as it is scored after its head was trained on encoded features: encoded like them, and without noise."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fedws.core.errors import TaskError
from fedws.core.task_settings import EvalSettings
from fedws.split_learning.wrappers.encoded_split import encoded_split
from fedws.training.model_building import build_model
from fedws.training.task_context import TaskContext
from tests.helpers.federation import Points, registered

POINTS = torch.randn(200, 4, generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True, scope="module")
def _pieces() -> Iterator[None]:
    with registered():
        yield


def scoring(wrapper: str, **options: str) -> EvalSettings:
    return EvalSettings(model="points_net", loss="nll", dataset="points", wrapper=wrapper, wrapper_options=options)


def scored(settings: EvalSettings) -> torch.nn.Module:
    work = TaskContext("testing", "points", Points(Path(), False))
    return work.build_eval_model(settings, build_model("points_net", seed=1).state_dict())


@pytest.mark.parametrize("encoding", ["bits:epsilon=0.1", "sue:epsilon=0.1", "oue:epsilon=0.1", "bits_without_noise"])
def test_bits_are_scored_without_the_noise_that_they_leave_with(encoding: str) -> None:
    """With so little epsilon nearly half of them would be flipped."""
    state = build_model("points_net", seed=1).state_dict()
    module = scored(scoring("encoded_split", split_at="relu", encoding=encoding))
    with torch.inference_mode():
        features = torch.relu(POINTS @ state["inner.weight"].T + state["inner.bias"])
        by_hand = torch.log_softmax((features > 0).float() @ state["outer.weight"].T + state["outer.bias"], 1)
        found = module(POINTS)
    assert torch.allclose(found, by_hand, atol=1e-6)


def test_floats_give_what_the_model_gives() -> None:
    module = build_model("points_net", seed=1)
    with torch.inference_mode():
        assert torch.equal(encoded_split(module, split_at="relu", encoding="floats")(POINTS), module(POINTS))


@pytest.mark.parametrize(
    ("wrapper", "options"),
    [
        ("encoded_split", {"split_at": "relu", "encoding": "morse"}),
        ("encoded_split", {"split_at": "nowhere", "encoding": "bits"}),
        ("encoded_split", {"split_at": "relu", "encoding": "bits:epsilon=0"}),
        ("encoded_split", {"split_at": "relu"}),
        ("encoded_split", {"split_at": "relu", "encoding": "bits", "depth": "2"}),
        ("gift", {}),
    ],
)
def test_what_cannot_be_is_the_orders_fault(wrapper: str, options: dict[str, str]) -> None:
    with pytest.raises(TaskError):
        scored(scoring(wrapper, **options))
