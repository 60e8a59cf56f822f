"""Live progress line of a run, shown only on a terminal."""

import sys
from types import TracebackType
from typing import Any, Self

from tqdm import tqdm

from fedws.recording.evaluation_lines import FEDERATED_MODEL
from fedws.recording.stored_records import Record


class ProgressBar:
    """Progress line with rounds, the last federated accuracy and the time left.

    It prints nothing if standard error is not a terminal.
    """

    def __init__(self, rounds: int) -> None:
        self._bar: Any = None
        if sys.stderr.isatty():
            form = "{desc} {n_fmt}/{total_fmt} |{bar}| {elapsed}, {remaining} left{postfix}"
            self._bar = tqdm(total=rounds, desc="Round", bar_format=form, leave=False, dynamic_ncols=True)

    def update(self, record: Record) -> None:
        """Update the line from one record of the run."""
        if self._bar is None:
            return
        if record["kind"] == "round":
            self._bar.update(record["round"] - self._bar.n)  # a resumed run starts at a later round
        elif record["model"] == FEDERATED_MODEL and record["accuracy"] is not None:
            self._bar.set_postfix_str(f"accuracy {100 * record['accuracy']:.2f}%")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
