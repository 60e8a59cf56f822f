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
        (order(w=torch.eye(2).to_sparse()), "cannot send tensor 'w': it has the layout torch.sparse_coo, and only"),
        (order(w=ONE.to("meta")), "cannot send tensor 'w': it is on the meta device and has no values"),
        (
            order(w=torch.zeros(1, dtype=torch.uint8).view(torch.bits8)),
            "cannot send tensor 'w': it has the dtype torch.bits8; ",
        ),
        (order(w=torch.zeros([1] * 17)), "cannot send tensor 'w': it has 17 dimensions; use at most 16"),
        (
            TaskResult(request_id="1", worker="a", round=1, num_examples=1, metrics={"x": 2**64}),
            "cannot encode message 'task_result': ",
        ),
        (
            TaskResult(request_id="1", worker="a", round=1, num_examples=1, metrics={"x": np.float32(1)}),
            "cannot encode message 'task_result': ",
        ),
        (Hello(run="\ud800", node="a", protocol=1), "cannot encode message 'hello': "),
    ],
)
def test_what_cannot_travel_is_said(message: Message, text: str) -> None:
    with pytest.raises(UsageError) as caught:
        encode_message(message)
    assert str(caught.value).startswith(text)


@pytest.mark.parametrize("name", [*MISNAMED, "", "w" * 257, 1])
def test_no_tensor_is_sent_under_a_name_that_nobody_takes(name: Any) -> None:
    with pytest.raises(UsageError, match=r"^tensor .*: a name must (not|have 1 to 256 characters$)"):
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
        UsageError, match="cannot encode message 'task_result': header: maps and arrays are nested more than 16 deep"
    ):
        encode_message(TaskResult(request_id="1", worker="a", round=1, num_examples=1, metrics=nested(15)))
