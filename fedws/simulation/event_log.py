"""The event log of a simulated run, with one JSON line for each event and its virtual time."""

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any, TextIO

from fedws.core import private_files


class EventLog:
    """A log that writes events to a file until it is closed.

    The first event creates the file. Events after ``close`` are ignored.
    """

    def __init__(self, path: Path) -> None:
        self.counts: Counter[str] = Counter()
        """Number of events by kind."""
        self._path = path
        self._file: TextIO | None = None
        self._closed = False

    def write(self, event: str, **fields: Any) -> None:
        """Write one event with the time in virtual seconds. Raise OSError if the file cannot be written."""
        if self._closed:
            return
        if self._file is None:
            self._file = private_files.open_text(self._path, "w")
        self.counts[event] += 1
        now = round(asyncio.get_running_loop().time(), 6)
        self._file.write(json.dumps({"t": now, "event": event, **fields}) + "\n")

    def close(self) -> None:
        """Close the file and ignore later events, because the shutdown of the devices does not belong to the run."""
        self._closed = True
        if self._file is not None:
            self._file.close()
