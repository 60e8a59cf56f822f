"""A model that a request names costs nothing until the request is known to fit it."""

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from fedws.core.errors import UsageError
from fedws.privacy.policy import Policy
from fedws.protocol.messages import TaskFailure, TaskResult
from fedws.training.model_building import build_complete_model, build_outline, count_elements
from tests.helpers.model_build_probe import MADE, TASKS, Watched, answered, asked, refused, watched, weights

every = pytest.mark.parametrize("task", TASKS)


@pytest.fixture(autouse=True)
def _pieces() -> Iterator[None]:
    with watched():
        yield


# --------------------------------------------------------------------------- no memory for a model that does not fit


@every
def test_a_model_that_the_tensors_do_not_fit_is_never_built_with_values(task: str) -> None:
    reason = refused(asked(task, "watched:width=200", weights()))
    assert MADE and set(MADE) == {"meta"}
    assert "differs on" in reason and "inner.weight has shape [11, 4], expected [200, 4]" in reason


@every
def test_a_model_that_fits_is_built_and_used(task: str) -> None:
    answer = answered(asked(task, "watched", weights()))
    assert isinstance(answer, TaskResult), answer
    assert MADE[0] == "meta" and MADE[-1] == "cpu"


@every
def test_a_model_with_more_parameters_than_the_policy_allows_is_never_built(task: str) -> None:
    policy = Policy(max_parameters=174)
    reason = refused(asked(task, "watched", weights()), policy)
    assert reason == (
        "policy: model 'watched' has 175 parameters, at most 174 allowed; "
        "use a smaller model, or raise max_parameters in the node's policy"
    )
    assert set(MADE) == {"meta"}
    assert isinstance(answered(asked(task, "watched", weights()), Policy(max_parameters=175)), TaskResult)


def test_a_request_of_few_bytes_for_the_largest_model_takes_no_memory() -> None:
    """The attack: 192 bytes that name a model of 300 million parameters, of which 1.2 GB were built."""
    for model in ("mlp:hidden=10000,inputs=10000,outputs=10000", "linear:inputs=1,outputs=100000000"):
        reason = refused(asked("fedavg.fit", model, {}))
        assert "at most 100,000,000 allowed" in reason and (f"model {model!r} has 3" in reason or "has 2" in reason)


@pytest.mark.parametrize(("model", "tries"), [("mlp", 1), ("watched", 2)])
def test_only_a_model_of_the_owners_own_is_built_with_values_where_meta_fails(
    model: str, tries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices = []

    def fails(spec: str, seed: int) -> nn.Module:
        devices.append(torch.empty(0).device.type)
        raise UsageError("it fails")

    monkeypatch.setattr("fedws.training.model_building.build_model", fails)
    assert "it fails" in refused(asked("fedavg.fit", model, weights())) and devices == ["meta", "cpu"][:tries]


def test_buffers_count_and_tied_weights_count_once() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    module.append(module[0])
    assert count_elements(module) == 6 + 4 + 5


# --------------------------------------------------------------------------- factories that cannot be built there


@every
def test_a_factory_that_fails_without_values_is_built_as_usual(task: str) -> None:
    given = weights()
    assert isinstance(answered(asked(task, "reading", given)), TaskResult)
    assert "inner.weight has shape" in refused(asked(task, "reading:width=12", given))
    assert "at most 174 allowed" in refused(asked(task, "reading", given), Policy(max_parameters=174))
    assert "cpu" in MADE


def test_a_factory_that_keeps_tensors_fails_and_the_log_says_what_to_do(caplog: pytest.LogCaptureFixture) -> None:
    given = {**weights(), "inner.weight": torch.zeros(11, 4)}
    answer = answered(asked("fedavg.fit", "keeping", given))
    assert isinstance(answer, TaskFailure) and answer.kind == "failed", answer
    assert "its factory reused tensors of an earlier call" in caplog.text and 'torch.device("cpu")' in caplog.text


def test_an_unknown_model_and_a_wrong_option_read_as_before() -> None:
    assert refused(asked("fedavg.fit", "watchet", {})).startswith("unknown model 'watchet'; did you mean 'watched'")
    assert "mlp: hidden, inputs and outputs must be 1 to 10,000" in refused(asked("fedavg.fit", "mlp:20000", {}))


def test_neither_the_random_state_nor_the_default_device_changes() -> None:
    torch.manual_seed(3)
    wanted = torch.rand(4)
    torch.manual_seed(3)
    real, found = build_complete_model("watched"), build_outline("watched")
    assert isinstance(real, Watched) and isinstance(found, Watched)
    assert (real.inner.weight.device.type, found.inner.weight.device.type) == ("cpu", "meta")
    assert torch.equal(torch.rand(4), wanted)
