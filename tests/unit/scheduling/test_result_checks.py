"""Results that the scheduler rejects, and the reasons."""

import math

import pytest
import torch

from fedws.core.errors import RejectedUpdate
from fedws.core.tensors import Tensors
from fedws.protocol.messages import TaskRequest, TaskResult, build_failure
from fedws.scheduling.result_checks import find_result_problem
from tests.helpers.participant_events import report


class Judge:
    def __init__(self, own: Tensors | None = None, error: str = "") -> None:
        self.own, self.error = own, error

    def worker_model(self, model: Tensors, report: TaskResult) -> Tensors | None:
        if self.error:
            raise RejectedUpdate(self.error)
        return self.own


MODEL = {"w": torch.zeros(2), "n": torch.zeros((), dtype=torch.int64)}
ORDER = TaskRequest(request_id="1/bob", worker="bob", round=1, task="t.do")


@pytest.mark.parametrize(
    ("judge", "tensors", "problem"),
    [
        (Judge(MODEL), {"w": torch.ones(2)}, ""),
        (Judge(None), {"anything": torch.ones(2)}, ""),
        (Judge(MODEL), {"w": torch.tensor([1, math.nan])}, "w contains NaN"),
        (Judge(MODEL), {"w": torch.tensor([-math.inf, 1])}, "w contains Inf"),
        (Judge(None), {"w": torch.tensor([math.inf, math.nan])}, "w contains NaN"),
        (Judge({"w": torch.zeros(2)}), {}, "n is missing"),
        (Judge({**MODEL, "w": torch.zeros(3)}), {}, "w has shape [3], expected [2]"),
        (Judge({**MODEL, "n": torch.zeros(())}), {}, "n is float32, expected int64"),
        (Judge({**MODEL, "w": torch.tensor([math.inf, 1])}), {"w": torch.ones(2)}, "w contains Inf"),
        (Judge(error="it does not fit"), {}, "it does not fit"),
    ],
)
def test_why_a_report_cannot_be_used(judge: Judge, tensors: Tensors, problem: str) -> None:
    assert find_result_problem(judge, MODEL, report(ORDER, tensors)) == problem


def test_a_report_is_looked_through_for_what_is_no_number_before_the_algorithm_sees_it() -> None:
    class Careless:
        def worker_model(self, model: Tensors, report: TaskResult) -> Tensors:
            raise AssertionError("it was not to be asked")

    assert find_result_problem(Careless(), MODEL, report(ORDER, {"w": torch.tensor([math.nan])})) == "w contains NaN"


def test_a_rejected_report_becomes_a_failure_in_one_clean_line() -> None:
    """The problem may quote a tensor's name, which is a peer's text."""
    found = build_failure(report(ORDER), "rejected", "evil\n\x1b[2Jname is not known here")
    assert (found.request_id, found.worker, found.round, found.kind) == ("1/bob", "bob", 1, "rejected")
    assert found.reason == "evil ?[2Jname is not known here"
