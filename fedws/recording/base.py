"""Protocol of sinks."""

from typing import Protocol

from fedws.recording.stored_records import Record


class Sink(Protocol):
    """Writes a run's records in another format.

    Factory: ``(directory: Path, *, options)``, registered as ``sink``. It replaces what an earlier sink wrote there:
    the records of a run that is resumed are written again. Raises UsageError when it cannot write to the run directory.
    """

    def write(self, record: Record) -> None:
        """Write one line of ``metrics.jsonl``; it is stored when this returns. Raises OSError."""

    def close(self) -> None:
        """Release files and connections. A second call does nothing."""
