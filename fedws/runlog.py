"""A run's record: its directory with plan, log, metrics, TensorBoard events, model and curves."""

import contextlib
import json
import logging
import math
import re
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import tomli_w

from fedws import curves
from fedws.errors import RunFailed, UsageError
from fedws.plan import Plan
from fedws.tensors import Tensors

log = logging.getLogger("fedws")

Record = Mapping[str, Any]
"""One line of ``metrics.jsonl``."""
FORMAT = "%(asctime)s | %(message)s"


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
        self._queue: deque[list[str] | None] = deque()
        self._first = 0  # number of the queue's first entry

    def say(self, *texts: str) -> None:
        """Emit lines, once all that is held before them has been said."""
        self._queue.append(list(texts))
        self._flush()

    def hold(self) -> Callable[..., None]:
        """Keep a place; the function given back takes the lines that belong there, once."""
        place = self._first + len(self._queue)
        self._queue.append(None)

        def fill(*texts: str) -> None:
            self._queue[place - self._first] = list(texts)
            self._flush()

        return fill

    def _flush(self) -> None:
        while self._queue and self._queue[0] is not None:
            for text in self._queue.popleft() or ():
                self._emit(text)
            self._first += 1


class _LogFile(logging.FileHandler):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """A full disk is told once, by the metrics that cannot be written either; not here for every line."""


class RunLog:
    """Writes the record of one run. ``directory`` must be new or empty; it is made here."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.lines = Lines(log.info)
        self.records: list[Record] = []
        self.observers: list[Callable[[Record], None]] = []
        self._made = [path for path in (directory, *directory.parents) if not path.exists()]
        try:
            directory.mkdir(parents=True, exist_ok=True)
            if any(directory.iterdir()):
                raise UsageError(f"--run-dir {directory} is not empty; name a new or an empty directory")
            (directory / "run.log").open("x").close()  # the directory is taken, also while workers are awaited
        except FileExistsError as error:
            what = "is a file" if directory.is_file() else "was taken by another run just now"
            raise UsageError(f"--run-dir {directory} {what}; name a new or an empty directory") from error
        except OSError as error:
            raise UsageError(f"--run-dir {directory} cannot be written: {error.strerror or error}") from None
        self._metrics: Any = None
        self._handler: logging.Handler | None = None

    def open(self, plan: Plan, groups: Mapping[str, Sequence[int]]) -> None:
        """Begin the record, when every worker is there: ``groups`` are the labels each of them declares."""
        (self.directory / "plan.toml").write_text(tomli_w.dumps(plan.model_dump()), encoding="utf-8")
        (self.directory / "workers.json").write_text(json.dumps(groups) + "\n", encoding="utf-8")
        self._handler = _LogFile(self.directory / "run.log", encoding="utf-8")
        self._handler.setFormatter(logging.Formatter(FORMAT))
        log.addHandler(self._handler)
        if log.getEffectiveLevel() > logging.INFO:
            log.setLevel(logging.INFO)  # the file has every line, also where nobody set up logging
        self._metrics = (self.directory / "metrics.jsonl").open("a", encoding="utf-8")

    def record(self, kind: str, **fields: Any) -> None:
        """Write one line of metrics and show it to the observers."""
        record = {"kind": kind, **fields}
        self.records.append(record)
        # JSON has no NaN and no Infinity, which a loss may be
        known = {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in record.items()}
        try:
            self._metrics.write(json.dumps(known, allow_nan=False) + "\n")
            self._metrics.flush()
        except OSError as error:
            raise RunFailed(f"the record in {self.directory} cannot be written: {error.strerror or error}") from None
        for observe in self.observers:
            observe(record)

    def finish(self, model: Tensors | None, plan: Plan, groups: Mapping[str, Sequence[int]]) -> None:
        """Write what stands at the end: the model, if there is one, and the curves. Raises RunFailed."""
        if model is None:
            return
        write_tensors(self.directory / "model.safetensors", model)
        try:
            curves.draw(self.records, groups, self.directory / "curves.png", title(plan.model_dump()))
        except OSError as error:
            raise RunFailed(f"{self.directory / 'curves.png'} cannot be written: {error.strerror or error}") from None

    def close(self) -> None:
        """End the record; a directory in which nothing began is removed again, as far as it was made here."""
        if self._handler is not None:
            log.removeHandler(self._handler)
            with contextlib.suppress(OSError):  # a full disk, which has been told
                self._handler.close()
                self._metrics.close()
        else:
            with contextlib.suppress(OSError):  # another run may have come to use the parent
                (self.directory / "run.log").unlink()
                for path in self._made:
                    path.rmdir()


def write_tensors(path: Path, tensors: Tensors) -> Path:
    """Write a safetensors file through a temporary name; gives the path. Raises RunFailed when it cannot be written."""
    part = path.with_name(path.name + ".part")
    try:
        safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, part)
        return part.replace(path)
    except (OSError, safetensors.SafetensorError) as error:
        part.unlink(missing_ok=True)
        raise RunFailed(f"{path} cannot be written: {error}") from None


def title(plan: Mapping[str, Any]) -> str:
    """What a run's curves are called: its strategy, data set and model."""
    return ", ".join(str(plan[name]) for name in ("strategy", "dataset", "model") if plan.get(name))


def new_directory(strategy: str, parent: Path = Path("runs")) -> Path:
    """A run directory that does not exist yet: ``runs/<time>-<strategy>``."""
    name = time.strftime("%Y%m%d-%H%M%S-") + re.sub(r"[^A-Za-z0-9.=]+", "-", strategy)
    path, number = parent / name, 1
    while path.exists():
        number += 1
        path = parent / f"{name}-{number}"
    return path
