"""The event log of a simulated run: what happened when, in virtual time, one JSON line each."""

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any, TextIO

from fedws.core import private_files


class EventLog:
    """Writes events to a file, which is made by the first one, until it is closed; then it takes no more."""

    def __init__(self, path: Path) -> None:
        self.counts: Counter[str] = Counter()
        """How many events of each kind there were."""
        self._path = path
        self._file: TextIO | None = None
        self._closed = False

    def write(self, event: str, **fields: Any) -> None:
        """Write one event, with the time in virtual seconds. Raises OSError when it cannot be written."""
        if self._closed:
            return
        if self._file is None:
            self._file = private_files.open_text(self._path, "w")
        self.counts[event] += 1
        now = round(asyncio.get_running_loop().time(), 6)
        self._file.write(json.dumps({"t": now, "event": event, **fields}) + "\n")

    def close(self) -> None:
        """Take no more events: those of the devices being put away are none of the run."""
        self._closed = True
        if self._file is not None:
            self._file.close()
