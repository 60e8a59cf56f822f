"""The models of one round that await their evaluation, and the record of a result."""

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
    """The models of one round that are to be scored, and where its lines go."""

    round: int
    emit: Callable[..., None]
    queued_models: deque[tuple[str, Path]]
    """Name and file of each."""
    log_lines: list[str]
    missing_models: dict[str, list[str]]
    """Which models were not scored, by reason."""
    num_requests: int = 0
    """How many requests to score its models there were."""
    lost_request_count: LostRequestCount = NO_LOSSES
    """Losses in a row of the evaluator while it scored the first of them."""

    def skip_model(self, reason: str, *, keep_file: bool = False) -> None:
        """Give up on the first model that waits, for ``reason``; its file is deleted unless ``keep_file``."""
        model, path = self.queued_models.popleft()
        if not keep_file:
            path.unlink(missing_ok=True)
        self.missing_models.setdefault(reason, []).append(model)


def _check_counts(result: EvalResult) -> EvalResult:
    """Return a score that is possible: a histogram is of a classifier and as many samples. It may be left out."""
    if result.num_correct is None and result.predicted_label_counts is not None:
        raise ValueError("a histogram without the number of correct predictions")
    if (result.num_correct or 0) > result.num_examples:
        raise ValueError(f"{result.num_correct} correct of {result.num_examples} samples")
    if result.predicted_label_counts is not None and sum(result.predicted_label_counts) != result.num_examples:
        raise ValueError(
            f"a histogram of {sum(result.predicted_label_counts)} predictions for {result.num_examples} samples"
        )
    return result


_EVAL_RESULT = TypeAdapter(Annotated[EvalResult, AfterValidator(_check_counts)])
_EVAL_RESULT_FIELDS = {field.name for field in fields(EvalResult)}
"""Metrics of an evaluator that every score has; others are its own."""


def build_record(round_number: int, model: str, reported: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record of an evaluation, from the metrics that the evaluator reported.

    Its own numbers stand under ``metrics``, and its own tables under ``tables``. Raises pydantic's ValidationError for
    metrics that are not those of an evaluation.
    """
    result = _EVAL_RESULT.validate_python(reported)
    record = {"round": round_number, "model": model, "accuracy": result.accuracy, **asdict(result)}
    if numbers := metrics.select_numbers(reported, _EVAL_RESULT_FIELDS):
        record["metrics"] = numbers
    if tables := metrics.select_tables(reported):
        record["tables"] = tables
    return record
