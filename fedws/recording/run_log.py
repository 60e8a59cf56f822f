"""A run's record: its directory with plan, log, metrics, TensorBoard events, model and curves."""

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
"""The place of a record that has not begun."""
LOG_FORMAT = "%(asctime)s | %(message)s"


class _RunLogHandler(logging.FileHandler):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """A full disk is told once, by the metrics that cannot be written either; not here for every line."""


class RunLog:
    """Writes what happens in one run into its directory: log lines and records."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.lines = OrderedLog(log.info)
        self.records: list[Record] = []
        self.observers: list[Callable[[Record], None]] = []
        self.checkpoint_extra: dict[str, Any] = {}
        """What a checkpoint holds beside the place."""
        self.worker_labels: dict[str, list[int]] = {}
        """The labels that each worker declares."""
        self._dropped_records: list[str] = []
        self._metrics_file: Any = None
        self._handler: logging.Handler | None = None

    def open(self) -> None:
        """Begin the record, or go on with it."""
        private_files.open_text(self.directory / LOG_FILE, "a").close()  # the handler opens it by its name
        self._handler = _RunLogHandler(self.directory / LOG_FILE, encoding="utf-8")
        self._handler.setFormatter(logging.Formatter(LOG_FORMAT))
        self._handler.addFilter(PRINTABLE_FILTER)
        log.addHandler(self._handler)
        if log.getEffectiveLevel() > logging.INFO:
            log.setLevel(logging.INFO)  # the file has every line, also where nobody set up logging
        self._metrics_file = private_files.open_text(self.directory / METRICS_FILE, "a")
        self.lines.emit(*self._dropped_records)

    def add_sink(self, sink: Sink) -> None:
        """Write the records to ``sink`` too, those of a run that is resumed at once. Raises what it raises."""
        for record in self.records:
            sink.write(record)
        self.observers.append(sink.write)

    def position(self) -> dict[str, Any]:
        """Where the record stands, for a checkpoint: bytes of the log, what was not said yet, and the marks."""
        return {
            "log_bytes": (self.directory / LOG_FILE).stat().st_size,
            "pending": self.lines.pending(),
            **self.checkpoint_extra,
        }

    def sync(self) -> None:
        """Have all records on the disk, whatever happens to the machine next. Raises RunFailed."""
        try:
            os.fsync(self._metrics_file.fileno())
        except OSError as error:
            raise RunFailed(f"the record in {self.directory} cannot be written: {error.strerror or error}") from None

    def truncate(self, version: int, position: Mapping[str, Any]) -> None:
        """Before :meth:`open`: forget all lines after ``position`` and all records after ``version``. Raises
        RunFailed."""
        path, log_file = self.directory / METRICS_FILE, self.directory / LOG_FILE
        self.worker_labels, self._dropped_records = stored_records.load_worker_labels(
            self.directory / WORKER_LABELS_FILE
        )  # they will be told again
        try:
            os.truncate(log_file, min(position["log_bytes"], log_file.stat().st_size))
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
            self.records = [record for record in self._parse_records(lines) if record["round"] <= version]
            atomic_write(path, "".join(json.dumps(record) + "\n" for record in self.records).encode())
        except OSError as error:
            raise RunFailed(f"the record in {self.directory} cannot be cut back: {error.strerror or error}") from None

    def _parse_records(self, lines: Sequence[str]) -> Iterator[Record]:
        """Yield the records of lines; of one that cannot be used, say so when the log is open."""
        for number, text in enumerate(lines, 1):
            try:
                yield stored_records.parse_record(text)
            except ValueError as error:
                if text.endswith("}"):  # else it was cut off as it was written
                    self._dropped_records.append(f"{METRICS_FILE}: line {number} was dropped ({get_error_text(error)})")

    def set_worker_labels(self, worker_labels: Mapping[str, list[int]]) -> None:
        """Take and write the labels that each worker declares; of one that is not there, what it declared before."""
        worker_labels = {
            worker: labels or self.worker_labels.get(worker, []) for worker, labels in worker_labels.items()
        }
        if worker_labels != self.worker_labels:
            self.worker_labels = worker_labels
            atomic_write(self.directory / WORKER_LABELS_FILE, f"{json.dumps(worker_labels)}\n".encode())

    def write_record(self, kind: str, **fields: Any) -> None:
        """Write one line of metrics and show it to the observers. Raises RunFailed."""
        record: Record = _make_printable({"kind": kind, **fields})
        self.records.append(record)
        try:
            self._metrics_file.write(json.dumps(_replace_nonfinite(record), allow_nan=False) + "\n")
            self._metrics_file.flush()
        except OSError as error:
            raise RunFailed(f"the record in {self.directory} cannot be written: {error.strerror or error}") from None
        for observe in self.observers:
            observe(record)

    def write_results(self, model: Tensors | None, plan: Plan) -> None:
        """Write what stands at the end: the model, if there is one, and the curves. Raises RunFailed."""
        if model is None:
            return
        write_model(self.directory / MODEL_FILE, model)
        try:
            path, title = self.directory / CURVES_FILE, run_title(plan.model_dump())
            curves.draw_curves(self.records, self.worker_labels, path, title, shared=False)
        except OSError as error:
            raise RunFailed(f"{self.directory / CURVES_FILE} cannot be written: {error.strerror or error}") from None

    def close(self) -> None:
        """End the record."""
        if self._handler is not None:
            log.removeHandler(self._handler)
            with contextlib.suppress(OSError):  # a full disk, which has been told
                self._handler.close()
                self._metrics_file.close()


def _make_printable(value: Any) -> Any:
    """Return what a record holds with each text in it printable and short."""
    if isinstance(value, str):
        return to_printable(value)
    if isinstance(value, Mapping):
        return {_make_printable(key): _make_printable(item) for key, item in value.items()}
    return [_make_printable(item) for item in value] if isinstance(value, list | tuple) else value


def _replace_nonfinite(record: Record) -> Record:
    """Return a record as JSON can hold it: None for NaN and Infinity, which a loss may be, and likewise a metric."""
    found = {key: _replace_nonfinite(value) if isinstance(value, Mapping) else value for key, value in record.items()}
    return {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in found.items()}


def write_model(path: Path, model: Tensors) -> Path:
    """Write a model whole or not at all; return the path. Raises RunFailed when it cannot be written."""
    try:
        tensor_file.save_tensors(model, path)
    except (OSError, SafetensorError) as error:
        raise RunFailed(f"{path} cannot be written: {error}") from None
    return path


def run_title(plan: Mapping[str, Any]) -> str:
    """What a run's curves are called: its algorithm, data set and model."""
    return ", ".join(str(plan[name]) for name in ("algorithm", "dataset", "model") if plan.get(name))
