"""Settings, model and device of a task, as its context checks and makes them."""

from typing import Any

import pytest
import torch

from fedws.core.errors import TaskError
from fedws.core.task_settings import TrainSettings
from fedws.protocol.messages import TaskRequest
from fedws.training import objective
from fedws.training.model_building import build_model
from tests.helpers.point_training import space, training


def order(**settings: Any) -> TaskRequest:
    return TaskRequest(request_id="1", worker="alice", round=1, task="t", settings=settings)


def test_settings_are_checked() -> None:
    assert space().parse_settings(order(model="m", dataset="points"), TrainSettings) == training().model_copy(
        update={"model": "m"}
    )
    wrongs: list[tuple[dict[str, Any], str]] = [
        ({"model": "m", "dataset": "mnist"}, "alice has data set 'points', not 'mnist'"),
        ({"dataset": "points"}, "settings: model: Field required"),
        ({"model": "m", "dataset": "points", "lr": "1"}, "settings: lr: Input should be a valid number, not '1'"),
        ({"model": "m", "dataset": "points", "sudo": 1}, "settings: unknown setting 'sudo'"),
    ]
    for wrong, text in wrongs:
        with pytest.raises(TaskError) as caught:
            space().parse_settings(order(**wrong), TrainSettings)
        assert str(caught.value) == text


def test_a_module_holds_a_copy_of_the_tensors() -> None:
    spec = "linear:inputs=2,outputs=2"
    tensors = {key: torch.ones_like(value) for key, value in build_model(spec, 1).state_dict().items()}
    module = space().build_model(spec, tensors)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    assert all(bool((tensor == 1).all()) for tensor in tensors.values())


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (
            "linear:inputs=2,outputs=3",
            "model 'linear:inputs=2,outputs=3' differs on alice: dense.weight has shape",
        ),
        ("mlp", "model 'mlp' differs on alice: fc1.weight is missing"),
        ("linear:inputs=-1", "linear: -1 x 10 weights"),
        ("linearr", "unknown model 'linearr'; did you mean 'linear'?"),
        ("linear:=", "is not key=value"),
    ],
)
def test_a_foreign_model_is_a_task_error(spec: str, text: str) -> None:
    with pytest.raises(TaskError) as caught:
        space().build_model(spec, build_model("linear:inputs=2,outputs=2", 1).state_dict())
    assert text in str(caught.value)


def test_the_cpu_is_used_where_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert objective.select_device(True) == objective.select_device(False) == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert objective.select_device(True) == torch.device("cuda") and objective.select_device(False) == torch.device(
        "cpu"
    )
