"""Protocol of sinks."""

from typing import Protocol

from fedws.recording.stored_records import Record


class Sink(Protocol):
    """Writes a run's records in another format.

    Factory: ``(directory: Path, records: Iterable[Record], *, options)``, registered as ``sink``; ``records`` are those
    of a run that is resumed. Raises UsageError when it cannot write to the run directory.
    """

    def write(self, record: Record) -> None:
        """Write one line of ``metrics.jsonl``; it is stored when this returns. Raises OSError."""

    def close(self) -> None:
        """Release files and connections. A second call does nothing."""
