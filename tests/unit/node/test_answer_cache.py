"""An order that is asked once more, because its answer may not have arrived."""

import math
from dataclasses import replace

import pytest
import torch

from fedws.node.answer_cache import AnswerCache
from fedws.protocol.messages import TaskFailure, TaskRequest, TaskResult
from fedws.protocol.run_claim import RunClaim

ORDER = TaskRequest(
    request_id="1/alice",
    worker="alice",
    round=1,
    task="t",
    state_round=0,
    seed=7,
    settings={"lr": 0.1, "sizes": [1, 2]},
    tensors={"w": torch.arange(3.0), "b": torch.zeros(())},
)
REPORT = TaskResult(request_id="1/alice", worker="alice", round=1, num_examples=3, tensors={"w": torch.ones(3)})


def answered(answer: TaskResult | TaskFailure = REPORT, order: TaskRequest = ORDER, run: str = "run") -> AnswerCache:
    """A node that has sent this answer, and whose link is lost."""
    node = AnswerCache("alice")
    node.start_link(RunClaim(run, "coordinator"))
    assert node.find_result(order) is None
    node.save(order, answer)
    return node


def test_the_same_order_on_the_next_link_has_the_same_report() -> None:
    """Its id is another one, and so may be what the coordinator says it holds."""
    node = answered()
    node.start_link(RunClaim("run", "coordinator"))
    again = node.find_result(replace(ORDER, request_id="1/alice/again", resume_offsets={"0" * 64: 5}))
    assert again is not None and again.request_id == "1/alice/again"
    assert again.tensors["w"] is REPORT.tensors["w"] and replace(
        again, request_id=REPORT.request_id, tensors={}
    ) == replace(REPORT, tensors={})


def test_it_may_get_lost_again_and_again() -> None:
    node, order = answered(), ORDER
    for number in range(5):
        node.start_link(RunClaim("run", "coordinator"))
        order = replace(ORDER, request_id=f"again {number}")
        again = node.find_result(order)
        assert again is not None
        node.save(order, again)


DIFFERENT = {
    "worker": {"worker": "bob"},
    "round": {"round": 2},
    "task": {"task": "u"},
    "base": {"state_round": 1},
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
    node.start_link(RunClaim("run", "coordinator"))
    assert node.find_result(replace(ORDER, request_id="2", **DIFFERENT[what])) is None  # type: ignore[arg-type]


def test_what_is_no_number_is_like_nothing() -> None:
    """Such an order is carried out again."""
    order = replace(ORDER, tensors={"w": torch.full((3,), math.nan)})
    node = answered(order=order)
    node.start_link(RunClaim("run", "coordinator"))
    assert node.find_result(order) is None


def test_on_the_same_link_the_same_order_is_carried_out_again() -> None:
    """Somebody wants it so, as to measure a node."""
    node = answered()
    assert node.find_result(ORDER) is None


def test_only_the_first_order_on_a_link_can_be_one_that_was_asked_before() -> None:
    node = answered()
    node.start_link(RunClaim("run", "coordinator"))
    assert node.find_result(replace(ORDER, round=2)) is None
    assert node.find_result(ORDER) is None


@pytest.mark.parametrize(("run", "coordinator"), [("other", "coordinator"), ("run", "other")])
def test_another_run_finds_nothing(run: str, coordinator: str) -> None:
    node = answered()
    before = node.start_link(RunClaim("run", "coordinator"))
    assert node.start_link(RunClaim("run", "coordinator")) is before, "the transfers go on"
    assert node.start_link(RunClaim(run, coordinator)) is not before
    assert node.find_result(ORDER) is None


def test_a_run_without_an_id_may_be_any() -> None:
    node = answered(run="")
    assert node.start_link(RunClaim("", "coordinator")) is not node.start_link(RunClaim("", "coordinator"))
    assert node.find_result(ORDER) is None


@pytest.mark.parametrize(
    "answer",
    [
        TaskFailure(request_id="1/alice", worker="alice", round=1, kind="failed", reason="no"),
        replace(REPORT, request_id="of another order"),
    ],
    ids=["a failure", "a report of another order"],
)
def test_only_reports_are_kept(answer: TaskResult | TaskFailure) -> None:
    """What failed may go well the next time."""
    node = answered(answer)
    node.start_link(RunClaim("run", "coordinator"))
    assert node.find_result(ORDER) is None


def test_a_report_that_has_arrived_is_forgotten() -> None:
    node = answered()
    node.discard_answer()
    node.start_link(RunClaim("run", "coordinator"))
    assert node.find_result(ORDER) is None


def test_a_report_is_forgotten_when_another_order_begins_to_arrive() -> None:
    """Its body replaces the one that is here: the coordinator has gone on."""
    node = answered()
    node.start_link(RunClaim("run", "coordinator"))._on_replaced()
    assert node.find_result(ORDER) is None
