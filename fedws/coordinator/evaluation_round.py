"""The models of one round that wait for their evaluation, and the record of an evaluation."""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, TypeAdapter

from fedws.protocol.evaluation_result import EvalResult
from fedws.scheduling.lost_request_count import NO_LOSSES, LostRequestCount
from fedws.updates import metrics


@dataclass
class EvaluationRound:
    """The models of one round that wait for their evaluation, with the log lines of the round."""

    round: int
    emit: Callable[..., None]
    queued_models: deque[tuple[str, Path]]
    """Pairs of the name and the file of a model."""
    log_lines: list[str]
    missing_models: dict[str, list[str]]
    """Names of the models that were not evaluated, by reason."""
    num_requests: int = 0
    """Number of evaluation requests that were sent for this round."""
    lost_request_count: LostRequestCount = NO_LOSSES
    """Consecutive losses of the evaluator while it evaluated the first queued model."""

    def skip_model(self, reason: str, *, keep_file: bool = False) -> None:
        """Skip the first queued model for ``reason``, and delete its file unless ``keep_file``."""
        model, path = self.queued_models.popleft()
        if not keep_file:
            path.unlink(missing_ok=True)
        self.missing_models.setdefault(reason, []).append(model)


def _check_counts(result: EvalResult) -> EvalResult:
    """Return ``result`` if its counts are consistent. Raise ValueError if they are not.

    A histogram of predicted labels is optional. It requires a classifier, and its sum must be the number of samples.
    """
    if result.num_correct is None and result.predicted_label_counts is not None:
        raise ValueError("predicted_label_counts requires num_correct")
    if (result.num_correct or 0) > result.num_examples:
        raise ValueError(f"{result.num_correct} correct predictions for {result.num_examples} samples")
    if result.predicted_label_counts is not None and sum(result.predicted_label_counts) != result.num_examples:
        raise ValueError(f"{sum(result.predicted_label_counts)} counted predictions for {result.num_examples} samples")
    return result


_EVAL_RESULT = TypeAdapter(Annotated[EvalResult, AfterValidator(_check_counts)])
_EVAL_RESULT_FIELDS = {field.name for field in fields(EvalResult)}
"""Names of the metrics that every evaluation has; an evaluator may add its own."""


def build_record(round_number: int, model: str, reported: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record of an evaluation, from the metrics that the evaluator reported.

    The evaluator's own numbers are stored under ``metrics``, and its own tables under ``tables``. Raises pydantic's
    ValidationError if ``reported`` is not a valid evaluation.
    """
    result = _EVAL_RESULT.validate_python(reported)
    record = {"round": round_number, "model": model, "accuracy": result.accuracy, **asdict(result)}
    if numbers := metrics.select_numbers(reported, _EVAL_RESULT_FIELDS):
        record["metrics"] = numbers
    if tables := metrics.select_tables(reported):
        record["tables"] = tables
    return record
