"""A sink that writes a run's records as TensorBoard events; the only file that imports tensorboardX.

The ``SummaryWriter`` of tensorboardX passes events to a thread through a bounded queue. When the disk is full, that
thread dies and the next scalar blocks forever. Its ``flush`` does not write the events that are still in the queue.
``TensorBoardWriter`` therefore uses the synchronous writer beneath it, which has neither a thread nor a queue.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary

from fedws.core import private_files
from fedws.core.errors import UsageError
from fedws.core.registry import register
from fedws.recording.run_layout import TENSORBOARD_PATTERN

EVALUATION_METRICS = ("accuracy", "loss")


@register("sink", "tensorboard")
class TensorBoardWriter:
    """A writer of one events file in a directory, which is created if it is missing.

    Earlier events files in the directory are removed. A record is in the file when ``write`` returns, so a killed
    process does not lose any. The constructor raises UsageError if the file cannot be created; later errors of the disk
    raise OSError.
    """

    def __init__(self, directory: Path) -> None:
        try:
            for old in directory.glob(TENSORBOARD_PATTERN):
                old.unlink()
            private_files.create_dir(directory, parents=True, exist_ok=True)
            # tensorboardX names a file after the current second, and truncates a file of the same name.
            self._writer = EventsWriter(str(directory.resolve() / "events"), f".{time.time_ns()}")
            for file in directory.glob(TENSORBOARD_PATTERN):
                private_files.restrict_mode(file)
        except OSError as error:
            raise UsageError(f"cannot write events to {directory}: {error.strerror or error}") from None
        self._is_open = True

    def write(self, record: Mapping[str, Any]) -> None:
        """Write a record of ``metrics.jsonl``.

        Records of other kinds than ``evaluation`` and ``round`` are ignored. Raises OSError.
        """
        if found := to_scalars(record):
            summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in found.items()])
            self._writer.write_event(Event(wall_time=time.time(), step=record["round"], summary=summary))
            self._writer.flush()

    def close(self) -> None:
        """Close the file.

        A second call does nothing.
        """
        if self._is_open:
            self._is_open = False
            self._writer.close()


def to_scalars(record: Mapping[str, Any]) -> dict[str, float]:
    """Return the values of a record that TensorBoard shows, by tag.

    >>> to_scalars({"kind": "evaluation", "round": 1, "model": "alice", "accuracy": 0.25, "loss": None})
    {'accuracy/alice': 0.25}
    >>> to_scalars({"kind": "round", "round": 1, "seconds": 0.5, "num_results": 3})
    {'round/seconds': 0.5, 'round/num_results': 3.0}
    >>> to_scalars({"kind": "round", "round": 1, "metrics": {"loss": 0.25, "steps": 10.0}})
    {'workers/loss': 0.25, 'workers/steps': 10.0}
    """
    more = record.get("metrics") or {}
    if record.get("kind") == "evaluation":
        own = {key: record[key] for key in EVALUATION_METRICS if record.get(key) is not None}
        named = {f"{key}/{record['model']}": value for key, value in {**own, **more, **own}.items()}
    elif record.get("kind") == "round":
        named = {f"round/{key}": value for key, value in record.items() if key != "round"}
        named |= {f"workers/{key}": value for key, value in more.items()}
    else:
        named = {}
    numbers = {tag: v for tag, v in named.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    return {tag: float(value) for tag, value in numbers.items()}
