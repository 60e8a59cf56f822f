"""Tensors, names and settings that the encoder refuses."""

from typing import Any

import numpy as np
import pytest
import torch

from fedws.core.errors import UsageError
from fedws.protocol.encoder import encode_message
from fedws.protocol.messages import Hello, Message, TaskRequest, TaskResult
from tests.helpers.decoded_messages import data_of, decoded, order
from tests.helpers.handmade_messages import MISNAMED, nested

ONE = torch.ones(1)


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (order(w=torch.eye(2).to_sparse()), "tensor 'w' cannot travel: it is torch.sparse_coo, and only strided"),
        (order(w=ONE.to("meta")), "tensor 'w' cannot travel: it is on the device meta, and so has no values"),
        (order(w=torch.zeros(1, dtype=torch.uint8).view(torch.bits8)), "tensor 'w' cannot travel: it is torch.bits8; "),
        (order(w=torch.zeros([1] * 17)), "tensor 'w' cannot travel: it has 17 dimensions; use at most 16"),
        (
            TaskResult(request_id="1", worker="a", round=1, num_examples=1, metrics={"x": 2**64}),
            "a task_result cannot travel: ",
        ),
        (
            TaskResult(request_id="1", worker="a", round=1, num_examples=1, metrics={"x": np.float32(1)}),
            "a task_result cannot travel: ",
        ),
        (Hello(run="\ud800", node="a", protocol=1), "a hello cannot travel: "),
    ],
)
def test_what_cannot_travel_is_said(message: Message, text: str) -> None:
    with pytest.raises(UsageError) as caught:
        encode_message(message)
    assert str(caught.value).startswith(text)


@pytest.mark.parametrize("name", [*MISNAMED, "", "w" * 257, 1])
def test_no_tensor_is_sent_under_a_name_that_nobody_takes(name: Any) -> None:
    with pytest.raises(UsageError, match=r"^tensor .*: (no name is|a name is a text of 1 to 256 characters$)"):
        encode_message(TaskRequest(**{**vars(order()), "tensors": {name: ONE}}))


def test_names_of_ordinary_modules_pass() -> None:
    class Odd(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.__private = torch.nn.Linear(1, 1)
            self.größe = torch.nn.ParameterDict(
                {"a b": torch.ones(1), "key:1": torch.ones(1), "list[0]": torch.ones(1)}
            )
            self.towers = torch.nn.ModuleDict({"sensor/1": torch.nn.Linear(1, 1), "sensor/": torch.nn.Linear(1, 1)})
            self.blocks = torch.nn.ModuleDict({"conv-1": torch.nn.BatchNorm2d(1), "nanny": torch.nn.GRU(1, 1)})
            self.bound = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(1, 1))
            self.layers = torch.nn.TransformerEncoderLayer(4, 2, 4)

    tensors = {**Odd().state_dict(), **{f"gradient:{name}": ONE for name in ("0.weight", "nan.x")}}
    assert len(tensors) > 30
    found = decoded(data_of(order(**tensors)))
    assert isinstance(found, TaskRequest) and list(found.tensors) == list(tensors)


def test_settings_that_are_nested_too_deeply_are_not_sent() -> None:
    message = TaskResult(request_id="1", worker="a", round=1, num_examples=1, metrics=nested(14))
    assert decoded(data_of(message)) == message
    with pytest.raises(
        UsageError, match="a task_result cannot travel: header: more than 16 maps and arrays in each other"
    ):
        encode_message(TaskResult(request_id="1", worker="a", round=1, num_examples=1, metrics=nested(15)))
