"""The protocol that sinks implement."""

from typing import Protocol

from fedws.recording.stored_records import Record


class Sink(Protocol):
    """A writer of a run's records in another format.

    Its factory is ``(directory: Path, *, options)``, registered as ``sink``. The factory raises UsageError if it cannot
    write to the run directory. A new sink replaces the output of an earlier one in the directory, because all records
    are written again when a run is resumed.
    """

    def write(self, record: Record) -> None:
        """Write one record of ``metrics.jsonl``.

        The record is stored when this method returns. Raises OSError if it cannot be stored.
        """

    def close(self) -> None:
        """Release files and connections.

        A second call does nothing.
        """
