"""A run's record: its directory with plan, log, metrics, TensorBoard events, model and curves."""

import contextlib
import json
import logging
import math
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from fedws.core import private_files, tensor_file
from fedws.core.errors import RunFailed
from fedws.core.plan import Plan
from fedws.core.tensors import Tensors
from fedws.core.untrusted_text import CLEAN, line, printable, words
from fedws.recording import curves, stored_records

log = logging.getLogger("fedws")

Record = Mapping[str, Any]
"""One line of ``metrics.jsonl``."""
NOTHING: Mapping[str, Any] = {"log": 0, "waiting": []}
"""The place of a record that has not begun."""
FORMAT = "%(asctime)s | %(message)s"


@dataclass
class _Entry:
    """Lines that wait, or (``None``) are not known yet."""

    texts: Sequence[str] | None = None
    about: Any = None


class Lines:
    """Log lines in the order of what they tell of, however late some become known.

    >>> lines = Lines(print)
    >>> held = lines.hold()
    >>> lines.say("round 2")
    >>> held("scores of round 1")
    scores of round 1
    round 2
    """

    def __init__(self, emit: Callable[[str], None]) -> None:
        self._emit = emit
        self._queue: deque[_Entry] = deque()

    def say(self, *texts: str) -> None:
        """Emit lines, once all that is held before them has been said."""
        if texts:
            self._queue.append(_Entry(texts=[line(text) for text in texts]))
            self._flush()

    def hold(self, about: Any = None) -> Callable[..., None]:
        """Keep a place; the function given back takes the lines that belong there, once.

        ``about`` is for whoever would keep that place again, see :meth:`waiting`.
        """
        entry = _Entry(about=about)
        self._queue.append(entry)

        def fill(*texts: str) -> None:
            entry.texts = [line(text) for text in texts]
            self._flush()

        return fill

    def waiting(self) -> list[dict[str, Any]]:
        """What was not said yet, in its order: ``{"about": ...}`` for a place that is kept, ``{"lines": [...]}``."""
        return [{"about": it.about} if it.texts is None else {"lines": list(it.texts)} for it in self._queue]

    def _flush(self) -> None:
        while self._queue and (texts := self._queue[0].texts) is not None:
            self._queue.popleft()
            for text in texts:
                self._emit(text)


class _LogFile(logging.FileHandler):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """A full disk is told once, by the metrics that cannot be written either; not here for every line."""


class RunLog:
    """Writes what happens in one run into its directory: log lines and records."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.lines = Lines(log.info)
        self.records: list[Record] = []
        self.observers: list[Callable[[Record], None]] = []
        self.marks: dict[str, Any] = {}
        """What a checkpoint holds beside the place."""
        self.groups: dict[str, list[int]] = {}
        """The labels that each worker declares."""
        self._dropped: list[str] = []
        self._metrics: Any = None
        self._handler: logging.Handler | None = None

    def open(self) -> None:
        """Begin the record, or go on with it."""
        private_files.text(self.directory / "run.log", "a").close()  # the handler opens it by its name
        self._handler = _LogFile(self.directory / "run.log", encoding="utf-8")
        self._handler.setFormatter(logging.Formatter(FORMAT))
        self._handler.addFilter(CLEAN)
        log.addHandler(self._handler)
        if log.getEffectiveLevel() > logging.INFO:
            log.setLevel(logging.INFO)  # the file has every line, also where nobody set up logging
        self._metrics = private_files.text(self.directory / "metrics.jsonl", "a")
        self.lines.say(*self._dropped)

    def place(self) -> dict[str, Any]:
        """Where the record stands, for a checkpoint: bytes of the log, what was not said yet, and the marks."""
        return {"log": (self.directory / "run.log").stat().st_size, "waiting": self.lines.waiting(), **self.marks}

    def sync(self) -> None:
        """Have all records on the disk, whatever happens to the machine next. Raises RunFailed."""
        try:
            os.fsync(self._metrics.fileno())
        except OSError as error:
            raise RunFailed(f"the record in {self.directory} cannot be written: {error.strerror or error}") from None

    def cut_back(self, version: int, place: Mapping[str, Any]) -> None:
        """Before :meth:`open`: forget all lines after ``place`` and all records after ``version``. Raises RunFailed."""
        path, log_file = self.directory / "metrics.jsonl", self.directory / "run.log"
        self.groups, self._dropped = stored_records.groups(self.directory / "workers.json")  # they will be told again
        try:
            os.truncate(log_file, min(place["log"], log_file.stat().st_size))
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
            self.records = [record for record in self._read(lines) if record["round"] <= version]
            write_text(path, "".join(json.dumps(record) + "\n" for record in self.records))
        except OSError as error:
            raise RunFailed(f"the record in {self.directory} cannot be cut back: {error.strerror or error}") from None

    def _read(self, lines: Sequence[str]) -> Iterator[Record]:
        """Yield the records of lines; of one that cannot be used, say so when the log is open."""
        for number, text in enumerate(lines, 1):
            try:
                yield stored_records.record(text)
            except ValueError as error:
                if text.endswith("}"):  # else it was cut off as it was written
                    self._dropped.append(f"metrics.jsonl: line {number} was dropped ({words(error)})")

    def know(self, groups: Mapping[str, list[int]]) -> None:
        """Take and write the labels that each worker declares; of one that is not there, what it declared before."""
        groups = {worker: labels or self.groups.get(worker, []) for worker, labels in groups.items()}
        if groups != self.groups:
            self.groups = groups
            write_text(self.directory / "workers.json", json.dumps(groups) + "\n")

    def record(self, kind: str, **fields: Any) -> None:
        """Write one line of metrics and show it to the observers. Raises RunFailed."""
        record: Record = _clean({"kind": kind, **fields})
        self.records.append(record)
        try:
            self._metrics.write(json.dumps(_known(record), allow_nan=False) + "\n")
            self._metrics.flush()
        except OSError as error:
            raise RunFailed(f"the record in {self.directory} cannot be written: {error.strerror or error}") from None
        for observe in self.observers:
            observe(record)

    def finish(self, model: Tensors | None, plan: Plan) -> None:
        """Write what stands at the end: the model, if there is one, and the curves. Raises RunFailed."""
        if model is None:
            return
        write_tensors(self.directory / "model.safetensors", model)
        try:
            curves.draw(self.records, self.groups, self.directory / "curves.png", title(plan.model_dump()))
        except OSError as error:
            raise RunFailed(f"{self.directory / 'curves.png'} cannot be written: {error.strerror or error}") from None

    def close(self) -> None:
        """End the record."""
        if self._handler is not None:
            log.removeHandler(self._handler)
            with contextlib.suppress(OSError):  # a full disk, which has been told
                self._handler.close()
                self._metrics.close()


def _clean(value: Any) -> Any:
    """Return what a record holds with each text in it printable and short."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, Mapping):
        return {_clean(key): _clean(item) for key, item in value.items()}
    return [_clean(item) for item in value] if isinstance(value, list | tuple) else value


def _known(record: Record) -> Record:
    """Return a record as JSON can hold it: None for NaN and Infinity, which a loss may be, and likewise a metric."""
    found = {key: _known(value) if isinstance(value, Mapping) else value for key, value in record.items()}
    return {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in found.items()}


def write_tensors(path: Path, tensors: Tensors) -> Path:
    """Write a private safetensors file through a temporary name; gives the path.

    Raises RunFailed when it cannot be written.
    """
    part = path.with_name(path.name + ".part")
    try:
        private_files.touch(part)
        tensor_file.save_file(tensors, part)
        private_files.restrict(part)  # some versions of the library make a file of their own
        return part.replace(path)
    except (OSError, SafetensorError) as error:
        part.unlink(missing_ok=True)
        raise RunFailed(f"{path} cannot be written: {error}") from None


def write_text(path: Path, text: str) -> None:
    """Write a small private file whole or not at all."""
    part = path.with_name(path.name + ".part")
    with private_files.text(part, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def title(plan: Mapping[str, Any]) -> str:
    """What a run's curves are called: its strategy, data set and model."""
    return ", ".join(str(plan[name]) for name in ("strategy", "dataset", "model") if plan.get(name))
