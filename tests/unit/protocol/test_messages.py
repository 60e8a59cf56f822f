import dataclasses
import typing

import pytest
import torch

from fedws.protocol.messages import (
    MESSAGES,
    Challenge,
    Failure,
    Hello,
    Join,
    Message,
    Order,
    Proof,
    Refusal,
    Report,
    Welcome,
)
from fedws.scheduling.events import Available, Deadline, Event, Joined, Left, Measured
from tests.helpers.support import TAKEOVER

EXAMPLES: list[Message | Event] = [
    Join(node="alice", protocol=1, instance="0" * 64),
    Hello(run="r", node="alice", protocol=1),
    Challenge(node="alice", nonce="0" * 64, proof="0" * 64),
    Proof(proof="0" * 64, takeover=TAKEOVER),
    Welcome(node="alice", role="worker", dataset="mnist", samples=3),
    Refusal(kind="busy", reason="busy"),
    Order(id="1/alice", worker="alice", round=1, task="fedavg.fit"),
    Report(order="1/alice", worker="alice", round=1, samples=3),
    Failure(order="1/alice", worker="alice", round=1, kind="failed", reason="no"),
    Joined(worker="alice"),
    Left(worker="alice", reason="gone"),
    Measured(worker="alice", seconds=0.5),
    Deadline(version=1),
    Available(worker="alice"),
]


def test_every_message_and_event_is_among_the_examples() -> None:
    assert {type(example) for example in EXAMPLES} == {*typing.get_args(Message), *typing.get_args(Event)}


def test_the_list_of_messages_is_the_union_under_the_names_of_the_classes() -> None:
    assert {kind.__name__.lower(): kind for kind in typing.get_args(Message)} == MESSAGES


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: type(example).__name__)
def test_it_cannot_be_changed(example: Message | Event) -> None:
    for field in dataclasses.fields(example):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(example, field.name, None)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: type(example).__name__)
def test_fields_are_given_by_name_only(example: Message | Event) -> None:
    assert all(field.kw_only for field in dataclasses.fields(example))


def test_two_messages_share_no_default() -> None:
    one, other = (Order(id="1", worker="a", round=1, task="t") for _ in range(2))
    one.settings["lr"] = 1
    assert other.settings == {} and one.tensors is not other.tensors


def test_an_order_starts_from_no_state_unless_it_says_so() -> None:
    assert Order(id="1", worker="a", round=1, task="t").base == 0


def test_weights_are_not_printed() -> None:
    order = Order(id="1", worker="a", round=1, task="t", tensors={"weights": torch.zeros(1)})
    report = Report(order="1", worker="a", round=1, samples=1, tensors={"weights": torch.zeros(1)})
    assert "weights" not in repr(order) + repr(report)
