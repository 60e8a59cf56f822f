"""The record of a run in its directory: log, metrics, TensorBoard events, final model and curves."""

import contextlib
import json
import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from fedws.core import private_files, tensor_file
from fedws.core.atomic_files import atomic_write
from fedws.core.errors import RunFailed
from fedws.core.plan import Plan
from fedws.core.tensors import Tensors
from fedws.core.untrusted_text import PRINTABLE_FILTER, get_error_text, to_printable
from fedws.recording import curves, stored_records
from fedws.recording.base import Sink
from fedws.recording.ordered_log import OrderedLog
from fedws.recording.run_layout import CURVES_FILE, LOG_FILE, METRICS_FILE, MODEL_FILE, WORKER_LABELS_FILE
from fedws.recording.stored_records import Record

log = logging.getLogger("fedws")

START_POSITION: Mapping[str, Any] = {"log_bytes": 0, "pending": []}
"""Position of a record that is still empty."""
LOG_FORMAT = "%(asctime)s | %(message)s"


class _RunLogHandler(logging.FileHandler):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Ignore the error; ``RunLog.write_record`` reports a full disk, once instead of for every line."""


class RunLog:
    """A writer of the log lines and records of one run into its directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.lines = OrderedLog(log.info)
        self.records: list[Record] = []
        self.observers: list[Callable[[Record], None]] = []
        self.checkpoint_extra: dict[str, Any] = {}
        """Data that ``position`` returns in addition to the position."""
        self.worker_labels: dict[str, list[int]] = {}
        """Labels that each worker declares."""
        self._dropped_records: list[str] = []
        self._metrics_file: Any = None
        self._handler: logging.Handler | None = None

    def open(self) -> None:
        """Open the log and the metrics for appending, and create them if they are missing."""
        private_files.open_text(self.directory / LOG_FILE, "a").close()  # creates a private file for the handler
        self._handler = _RunLogHandler(self.directory / LOG_FILE, encoding="utf-8")
        self._handler.setFormatter(logging.Formatter(LOG_FORMAT))
        self._handler.addFilter(PRINTABLE_FILTER)
        log.addHandler(self._handler)
        if log.getEffectiveLevel() > logging.INFO:
            log.setLevel(logging.INFO)  # the file gets every line, even if logging is not configured
        self._metrics_file = private_files.open_text(self.directory / METRICS_FILE, "a")
        self.lines.emit(*self._dropped_records)

    def add_sink(self, sink: Sink) -> None:
        """Write all records to ``sink`` too, first those that a resumed run already has.

        Errors of the sink are passed on.
        """
        for record in self.records:
            sink.write(record)
        self.observers.append(sink.write)

    def position(self) -> dict[str, Any]:
        """Return the position in the record, for a checkpoint.

        It holds the size of the log in bytes, the lines that are not emitted yet, and ``checkpoint_extra``.
        """
        return {
            "log_bytes": (self.directory / LOG_FILE).stat().st_size,
            "pending": self.lines.pending(),
            **self.checkpoint_extra,
        }

    def sync(self) -> None:
        """Wait until all records are on disk, where they survive a crash of the machine.

        Raises RunFailed if they cannot be written.
        """
        try:
            os.fsync(self._metrics_file.fileno())
        except OSError as error:
            raise RunFailed(f"cannot write the record in {self.directory}: {error.strerror or error}") from None

    def truncate(self, version: int, position: Mapping[str, Any]) -> None:
        """Remove all log lines after ``position`` and all records after ``version``.

        Call this method before ``open``. Raises RunFailed if a file cannot be read or written.
        """
        path, log_file = self.directory / METRICS_FILE, self.directory / LOG_FILE
        # The labels are not truncated, because the workers declare them again.
        self.worker_labels, self._dropped_records = stored_records.load_worker_labels(
            self.directory / WORKER_LABELS_FILE
        )
        try:
            os.truncate(log_file, min(position["log_bytes"], log_file.stat().st_size))
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
            self.records = [record for record in self._parse_records(lines) if record["round"] <= version]
            atomic_write(path, "".join(json.dumps(record) + "\n" for record in self.records).encode())
        except OSError as error:
            raise RunFailed(f"cannot truncate the record in {self.directory}: {error.strerror or error}") from None

    def _parse_records(self, lines: Sequence[str]) -> Iterator[Record]:
        """Yield the valid records of ``lines``, and keep a log line about each invalid one for ``open``."""
        for number, text in enumerate(lines, 1):
            try:
                yield stored_records.parse_record(text)
            except ValueError as error:
                if text.endswith("}"):  # otherwise the line is incomplete because the write was interrupted
                    self._dropped_records.append(f"{METRICS_FILE}: line {number} was dropped ({get_error_text(error)})")

    def set_worker_labels(self, worker_labels: Mapping[str, list[int]]) -> None:
        """Store the labels that each worker declares.

        A worker without labels, such as one that is not connected, keeps the labels that it declared before.
        """
        worker_labels = {
            worker: labels or self.worker_labels.get(worker, []) for worker, labels in worker_labels.items()
        }
        if worker_labels != self.worker_labels:
            self.worker_labels = worker_labels
            atomic_write(self.directory / WORKER_LABELS_FILE, f"{json.dumps(worker_labels)}\n".encode())

    def write_record(self, kind: str, **fields: Any) -> None:
        """Write one line of metrics, and pass the record to the observers.

        Raises RunFailed if the line cannot be written.
        """
        record: Record = _make_printable({"kind": kind, **fields})
        self.records.append(record)
        try:
            self._metrics_file.write(json.dumps(_replace_nonfinite(record), allow_nan=False) + "\n")
            self._metrics_file.flush()
        except OSError as error:
            raise RunFailed(f"cannot write the record in {self.directory}: {error.strerror or error}") from None
        for observe in self.observers:
            observe(record)

    def write_results(self, model: Tensors | None, plan: Plan) -> None:
        """Write the final model and the curves, or nothing without a model.

        Raises RunFailed if a file cannot be written.
        """
        if model is None:
            return
        write_model(self.directory / MODEL_FILE, model)
        try:
            path, title = self.directory / CURVES_FILE, run_title(plan.model_dump())
            curves.draw_curves(self.records, self.worker_labels, path, title, shared=False)
        except OSError as error:
            raise RunFailed(f"cannot write {self.directory / CURVES_FILE}: {error.strerror or error}") from None

    def close(self) -> None:
        """Close the log and the metrics."""
        if self._handler is not None:
            log.removeHandler(self._handler)
            with contextlib.suppress(OSError):  # a full disk, which is already reported
                self._handler.close()
                self._metrics_file.close()


def _make_printable(value: Any) -> Any:
    """Return a value of a record, with each text in it printable and short."""
    if isinstance(value, str):
        return to_printable(value)
    if isinstance(value, Mapping):
        return {_make_printable(key): _make_printable(item) for key, item in value.items()}
    return [_make_printable(item) for item in value] if isinstance(value, list | tuple) else value


def _replace_nonfinite(record: Record) -> Record:
    """Return a record that JSON can represent, with None for a loss or metric that is NaN or infinite."""
    found = {key: _replace_nonfinite(value) if isinstance(value, Mapping) else value for key, value in record.items()}
    return {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in found.items()}


def write_model(path: Path, model: Tensors) -> Path:
    """Write a model atomically, and return the path.

    Raises RunFailed if the file cannot be written.
    """
    try:
        tensor_file.save_tensors(model, path)
    except (OSError, SafetensorError) as error:
        raise RunFailed(f"cannot write {path}: {error}") from None
    return path


def run_title(plan: Mapping[str, Any]) -> str:
    """Return the title of a run's curves: its algorithm, data set and model."""
    return ", ".join(str(plan[name]) for name in ("algorithm", "dataset", "model") if plan.get(name))
