"""Results and metrics in docs/topics/protocol.md agree with the code: findings 8, 9 and 10 of an independent worker."""

import math
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from fedws.coordinator.evaluation_round import build_record
from fedws.core.limits import MAX_EXAMPLES
from fedws.protocol.evaluation_result import EvalResult
from fedws.protocol.header import explain_invalid_name
from fedws.protocol.messages import TaskResult
from fedws.recording.run_log import _replace_nonfinite
from fedws.scheduling.result_checks import find_result_problem
from fedws.split_learning.upload_progress import UploadManifest
from fedws.updates import metrics
from tests.helpers.protocol_page import TEXT, section, table

MODEL = {"w": torch.zeros(2), "steps": torch.zeros((), dtype=torch.int64)}


def words(title: str) -> str:
    return " ".join(section(title).split())


def result(values: dict[str, Any] | None = None, **tensors: torch.Tensor) -> TaskResult:
    return TaskResult(
        request_id="1/alice",
        worker="alice",
        round=1,
        num_examples=7,
        metrics=values or {},
        tensors={**MODEL, **tensors},
    )


class Algorithm:
    """An algorithm whose results are models."""

    def worker_model(self, model: Any, answer: TaskResult) -> Any:
        return answer.tensors


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_tensor_that_is_not_finite_is_rejected_and_a_metric_is_not(value: float) -> None:
    """Finding 8."""
    assert not find_result_problem(Algorithm(), MODEL, result({"loss": value}))
    assert "contains" in find_result_problem(Algorithm(), MODEL, result(w=torch.tensor([0.0, value])))
    weighted = [metrics.weigh_metrics(result({"loss": loss})) for loss in (0.5, value)]
    mean = metrics.average_metrics(weighted)["loss"]
    assert math.isnan(mean) and _replace_nonfinite({"kind": "round", "metrics": {"loss": mean}}) == {
        "kind": "round",
        "metrics": {"loss": None},
    }
    text = words("Results of all tasks that train")
    assert "Floating-point and complex values must be finite." in text
    assert "It counts as NaN, the mean is then NaN, and the record contains null." in text


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_the_loss_of_an_evaluation_may_not_be_finite(value: float) -> None:
    """Finding 8."""
    record = build_record(1, "federated", {"num_examples": 3, "loss": value, "own": value})
    assert _replace_nonfinite(record)["loss"] is None and _replace_nonfinite(record)["metrics"] == {"own": None}
    assert "required, may be NaN or infinite" in words("`evaluate`")
    assert "It records a number that is NaN or infinite as null." in words("`evaluate`")


def test_no_metric_of_a_training_task_is_required() -> None:
    """Finding 9."""
    assert metrics.weigh_metrics(result()) == metrics.WeightedMetrics(7, {})
    for weight in (0, MAX_EXAMPLES + 1, True, 2.0, "3"):
        assert metrics.weigh_metrics(result({"num_examples": weight})).weight == 7
    assert metrics.weigh_metrics(result({"num_examples": 3})).weight == 3
    text = words("Results of all tasks that train")
    assert "No metric of these tasks is required." in text
    assert "Without a valid one (1 to 2^40), the weight is the `num_examples` of the result." in text
    assert MAX_EXAMPLES == 2**40
    assert (
        f"at most {metrics.MAX_METRICS} metrics of a result, with names of 1 to {metrics.MAX_METRIC_NAME_CHARS}" in text
    )


def test_the_required_metrics_of_an_evaluation() -> None:
    """Finding 9."""
    complete = {"num_examples": 3, "loss": 0.5, "num_correct": 2, "predicted_label_counts": [1, 2]}
    rows = {
        row["result"].removeprefix("metric `").rstrip("`"): row["value"]
        for row in table(section("`evaluate`"), "result")
    }
    adapter = TypeAdapter(EvalResult)
    for name in complete:
        rest = {key: value for key, value in complete.items() if key != name}
        if "required" in rows[name]:
            with pytest.raises(ValidationError):
                adapter.validate_python(rest)
        else:
            assert getattr(adapter.validate_python(rest), name) is None
    for wrong in (
        {**complete, "num_correct": 4},
        {**complete, "num_correct": None},
        {**complete, "predicted_label_counts": [1, 1]},
    ):
        with pytest.raises(ValidationError):
            build_record(1, "federated", wrong)


def test_the_required_metrics_of_an_extraction() -> None:
    """Finding 9."""
    required = {name for name, field in UploadManifest.model_fields.items() if field.is_required()}
    rows = [row["result"] for row in table(section("`mistnet.extract`"), "result")]
    named = {name for row in rows for name in UploadManifest.model_fields if f"`{name}`" in row}
    assert named == set(UploadManifest.model_fields)
    assert named - required == {"label_shape", "label_dtype"}
    assert "When absent: `[]` and `int64`" in words("`mistnet.extract`")
    manifest: dict[str, Any] = {"num_records": 1, "feature_bytes": 1, "feature_shape": [1], "encoding": "bits"}
    manifest |= {"epsilon": 2.0, "label_epsilon": None}
    assert UploadManifest.model_validate(manifest).label_format == "int64 []"
    with pytest.raises(ValidationError):
        UploadManifest.model_validate({**manifest, "warnings": []})
    assert "further metrics are not allowed" in words("`mistnet.extract`")


def test_the_rules_on_tensors_stand_once_and_for_all_tasks() -> None:
    """Finding 10."""
    assert TEXT.index("### Results of all tasks that train") < TEXT.index("### `fedavg.fit`")
    text = words("Results of all tasks that train")
    assert (
        "Names, dtypes and shapes must be those that the task defines. The order of the tensors does not matter."
        in text
    )
    backwards = TaskResult(
        request_id="1/alice", worker="alice", round=1, num_examples=7, tensors=dict(reversed(MODEL.items()))
    )
    assert not find_result_problem(Algorithm(), MODEL, backwards)
    for wrong in (result(v=torch.zeros(1)), result(w=torch.zeros(3)), result(w=torch.zeros(2).double())):
        assert find_result_problem(Algorithm(), MODEL, wrong)


@pytest.mark.parametrize(
    ("name", "is_valid"),
    [
        ("layers.0.weight", True),
        ("a/b.c/d", True),
        ("n" * 256, True),
        ("nan.weight", True),
        ("", False),
        ("n" * 257, False),
        (".hidden", False),
        ("a\\b", False),
        ("a\x00", False),
        ("a\x9f", False),
        ("a//b", False),
        ("a/../b", False),
        ("/a", False),
        ("-NaN", False),
    ],
)
def test_the_rules_on_names_hold_for_every_message(name: str, is_valid: bool) -> None:
    """Finding 10."""
    assert (explain_invalid_name(name) == "") == is_valid
    assert "These rules apply to the name of a tensor in every message:" in words("The table of tensors")
