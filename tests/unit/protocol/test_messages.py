import dataclasses
import re
import typing

import pytest
import torch

from fedws.protocol.messages import (
    MESSAGE_TYPES,
    Challenge,
    Hello,
    Join,
    Message,
    Proof,
    Refusal,
    TaskFailure,
    TaskRequest,
    TaskResult,
    Welcome,
)
from fedws.scheduling.events import (
    Event,
    ResponseTimed,
    RoundTimeout,
    WorkerAvailable,
    WorkerConnected,
    WorkerDisconnected,
)
from tests.helpers.support import TAKEOVER

EXAMPLES: list[Message | Event] = [
    Join(node="alice", protocol=1, instance_id="0" * 64),
    Hello(run="r", node="alice", protocol=1),
    Challenge(node="alice", nonce="0" * 64, proof="0" * 64),
    Proof(proof="0" * 64, takeover_key=TAKEOVER),
    Welcome(node="alice", role="worker", dataset="mnist", num_examples=3),
    Refusal(kind="busy", reason="busy"),
    TaskRequest(request_id="1/alice", worker="alice", round=1, task="fedavg.fit"),
    TaskResult(request_id="1/alice", worker="alice", round=1, num_examples=3),
    TaskFailure(request_id="1/alice", worker="alice", round=1, kind="failed", reason="no"),
    WorkerConnected(worker="alice"),
    WorkerDisconnected(worker="alice", reason="gone"),
    ResponseTimed(worker="alice", seconds=0.5),
    RoundTimeout(version=1),
    WorkerAvailable(worker="alice"),
]


def test_every_message_and_event_is_among_the_examples() -> None:
    assert {type(example) for example in EXAMPLES} == {*typing.get_args(Message), *typing.get_args(Event)}


def test_the_list_of_messages_is_the_union_under_the_names_of_the_classes() -> None:
    assert {
        re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower(): kind for kind in typing.get_args(Message)
    } == MESSAGE_TYPES


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: type(example).__name__)
def test_it_cannot_be_changed(example: Message | Event) -> None:
    for field in dataclasses.fields(example):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(example, field.name, None)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: type(example).__name__)
def test_fields_are_given_by_name_only(example: Message | Event) -> None:
    assert all(field.kw_only for field in dataclasses.fields(example))


def test_two_messages_share_no_default() -> None:
    one, other = (TaskRequest(request_id="1", worker="a", round=1, task="t") for _ in range(2))
    one.settings["lr"] = 1
    assert other.settings == {} and one.tensors is not other.tensors


def test_an_order_starts_from_no_state_unless_it_says_so() -> None:
    assert TaskRequest(request_id="1", worker="a", round=1, task="t").state_round == 0


def test_weights_are_not_printed() -> None:
    order = TaskRequest(request_id="1", worker="a", round=1, task="t", tensors={"weights": torch.zeros(1)})
    report = TaskResult(request_id="1", worker="a", round=1, num_examples=1, tensors={"weights": torch.zeros(1)})
    assert "weights" not in repr(order) + repr(report)
