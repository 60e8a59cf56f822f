"""Checks of the stored records of a run when they are read again.

An earlier version may have stored values from nodes that this version rejects.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from fedws.core.untrusted_text import get_error_text
from fedws.core.validation import describe_setting_error
from fedws.protocol.evaluation_result import EvalResult
from fedws.protocol.messages import Labels

Record = Mapping[str, Any]
"""One line of ``metrics.jsonl``."""
WorkerLabels = Mapping[str, Sequence[int]]
"""Labels of each worker's samples."""

_RoundNumber = Annotated[int, Field(ge=0, lt=2**48)]
_FiniteFloat = Annotated[float, Field(allow_inf_nan=False)]


class _Record(BaseModel):
    """A record of any kind; other fields are set by the coordinator itself and are not checked."""

    model_config = ConfigDict(extra="allow", strict=True)

    kind: str
    round: _RoundNumber
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    metrics: dict[str, _FiniteFloat | None] = {}


class _EvaluationRecord(_Record):
    """The evaluation of a model; null represents a loss that is not a finite number."""

    kind: Literal["evaluation"]
    model: Annotated[str, Field(max_length=64)]
    accuracy: Annotated[float, Field(ge=0, le=1)] | None


class _RunInfo(BaseModel):
    """The content of ``run.json`` without the secret."""

    model_config = ConfigDict(extra="allow", strict=True)

    run_id: Annotated[str, Field(min_length=1, max_length=64)]
    finished: bool
    plan: dict[str, Any]


_EVAL_RESULT_ADAPTER, _LABELS_ADAPTER = TypeAdapter(EvalResult), TypeAdapter(Labels)


def parse_record(text: str | bytes) -> dict[str, Any]:
    """Return the record in a line of ``metrics.jsonl``.

    Raises ValueError with the reason if the record is invalid.

    >>> parse_record('{"kind": "round", "round": 1, "seconds": 0.5}')
    {'kind': 'round', 'round': 1, 'seconds': 0.5}
    """
    try:
        found = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(found, dict):
        raise ValueError("not a JSON object")
    _check_storable(found)
    try:
        if found.get("kind") != "evaluation":
            _Record.model_validate(found)
            return found
        _EvaluationRecord.model_validate(found)
        result = {key: found[key] for key in ("num_examples", "loss", "num_correct", "predicted_label_counts")}
        _EVAL_RESULT_ADAPTER.validate_python({**result, "loss": 0.0} if result["loss"] is None else result)
    except KeyError as error:
        raise ValueError(f"missing field of an evaluation: {get_error_text(error)}") from None
    except ValidationError as error:
        raise ValueError(describe_setting_error(error)) from None
    correct, counts = found["num_correct"], found["predicted_label_counts"]
    if (correct is None and counts is not None) or (correct or 0) > found["num_examples"]:
        raise ValueError("inconsistent numbers")
    return found


def run_info_problem(run_info: Mapping[str, Any]) -> str:
    """Return why the content of ``run.json`` is invalid, or an empty string if it is valid."""
    try:
        _RunInfo.model_validate(dict(run_info))
    except ValidationError as error:
        return describe_setting_error(error)
    return ""


def _check_storable(record: Mapping[str, Any]) -> None:
    """Raise ValueError for a text or a number that other files of a run, such as events, cannot hold."""
    try:
        json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("a text is not valid Unicode") from None
    for value in record.values():
        if isinstance(value, int):
            try:
                float(value)
            except OverflowError:
                raise ValueError("a number is too large") from None


def load_worker_labels(path: Path) -> tuple[dict[str, list[int]], list[str]]:
    """Return the labels that each worker declared, from ``worker_labels.json``, and log lines about invalid entries.

    An invalid entry is dropped. Both results are empty if the file is missing or invalid as a whole.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}, []
    known: dict[str, list[int]] = {}
    dropped = []
    for worker, labels in found.items() if isinstance(found, Mapping) else ():
        try:
            known[worker] = _LABELS_ADAPTER.validate_python(labels, strict=True)
        except ValidationError as error:
            dropped.append(f"{path.name}: the labels of {worker} were dropped ({describe_setting_error(error)})")
    return known, dropped
