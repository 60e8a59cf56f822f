"""An order that is asked once more, because its answer may not have arrived."""

import math
from dataclasses import replace

import pytest
import torch

from fedws.node.answer_cache import Unfinished
from fedws.protocol.messages import Failure, Order, Report
from fedws.protocol.run_claim import Claim

ORDER = Order(
    id="1/alice",
    worker="alice",
    round=1,
    task="t",
    base=0,
    seed=7,
    settings={"lr": 0.1, "sizes": [1, 2]},
    tensors={"w": torch.arange(3.0), "b": torch.zeros(())},
)
REPORT = Report(order="1/alice", worker="alice", round=1, samples=3, tensors={"w": torch.ones(3)})


def answered(answer: Report | Failure = REPORT, order: Order = ORDER, run: str = "run") -> Unfinished:
    """A node that has sent this answer, and whose link is lost."""
    node = Unfinished("alice")
    node.begin(Claim(run, "coordinator"))
    assert node.again(order) is None
    node.keep(order, answer)
    return node


def test_the_same_order_on_the_next_link_has_the_same_report() -> None:
    """Its id is another one, and so may be what the coordinator says it holds."""
    node = answered()
    node.begin(Claim("run", "coordinator"))
    again = node.again(replace(ORDER, id="1/alice/again", held={"0" * 64: 5}))
    assert again is not None and again.order == "1/alice/again"
    assert again.tensors["w"] is REPORT.tensors["w"] and replace(again, order=REPORT.order, tensors={}) == replace(
        REPORT, tensors={}
    )


def test_it_may_get_lost_again_and_again() -> None:
    node, order = answered(), ORDER
    for number in range(5):
        node.begin(Claim("run", "coordinator"))
        order = replace(ORDER, id=f"again {number}")
        again = node.again(order)
        assert again is not None
        node.keep(order, again)


DIFFERENT = {
    "worker": {"worker": "bob"},
    "round": {"round": 2},
    "task": {"task": "u"},
    "base": {"base": 1},
    "seed": {"seed": 8},
    "settings": {"settings": {"lr": 0.2, "sizes": [1, 2]}},
    "a value": {"tensors": {"w": torch.tensor([0.0, 1.0, 3.0]), "b": torch.zeros(())}},
    "a shape": {"tensors": {"w": torch.arange(3.0)[None], "b": torch.zeros(())}},
    "a type": {"tensors": {"w": torch.arange(3.0), "b": torch.zeros((), dtype=torch.float64)}},
    "the order of tensors": {"tensors": {"b": torch.zeros(()), "w": torch.arange(3.0)}},
    "a name": {"tensors": {"w": torch.arange(3.0), "c": torch.zeros(())}},
    "one more": {"tensors": {**ORDER.tensors, "c": torch.zeros(())}},
    "one less": {"tensors": {"w": torch.arange(3.0)}},
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_another_order_is_carried_out(what: str) -> None:
    node = answered()
    node.begin(Claim("run", "coordinator"))
    assert node.again(replace(ORDER, id="2", **DIFFERENT[what])) is None  # type: ignore[arg-type]


def test_what_is_no_number_is_like_nothing() -> None:
    """Such an order is carried out again."""
    order = replace(ORDER, tensors={"w": torch.full((3,), math.nan)})
    node = answered(order=order)
    node.begin(Claim("run", "coordinator"))
    assert node.again(order) is None


def test_on_the_same_link_the_same_order_is_carried_out_again() -> None:
    """Somebody wants it so, as to measure a node."""
    node = answered()
    assert node.again(ORDER) is None


def test_only_the_first_order_on_a_link_can_be_one_that_was_asked_before() -> None:
    node = answered()
    node.begin(Claim("run", "coordinator"))
    assert node.again(replace(ORDER, round=2)) is None
    assert node.again(ORDER) is None


@pytest.mark.parametrize(("run", "coordinator"), [("other", "coordinator"), ("run", "other")])
def test_another_run_finds_nothing(run: str, coordinator: str) -> None:
    node = answered()
    before = node.begin(Claim("run", "coordinator"))
    assert node.begin(Claim("run", "coordinator")) is before, "the transfers go on"
    assert node.begin(Claim(run, coordinator)) is not before
    assert node.again(ORDER) is None


def test_a_run_without_an_id_may_be_any() -> None:
    node = answered(run="")
    assert node.begin(Claim("", "coordinator")) is not node.begin(Claim("", "coordinator"))
    assert node.again(ORDER) is None


@pytest.mark.parametrize(
    "answer",
    [
        Failure(order="1/alice", worker="alice", round=1, kind="failed", reason="no"),
        replace(REPORT, order="of another order"),
    ],
    ids=["a failure", "a report of another order"],
)
def test_only_reports_are_kept(answer: Report | Failure) -> None:
    """What failed may go well the next time."""
    node = answered(answer)
    node.begin(Claim("run", "coordinator"))
    assert node.again(ORDER) is None


def test_a_report_that_has_arrived_is_forgotten() -> None:
    node = answered()
    node.forget()
    node.begin(Claim("run", "coordinator"))
    assert node.again(ORDER) is None


def test_a_report_is_forgotten_when_another_order_begins_to_arrive() -> None:
    """Its body replaces the one that is here: the coordinator has gone on."""
    node = answered()
    node.begin(Claim("run", "coordinator"))._replaced()
    assert node.again(ORDER) is None
