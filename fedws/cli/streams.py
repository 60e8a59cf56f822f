"""Standard output and standard error of a command, which must not end a run."""

import io
import os
import sys
from typing import Any


class _PipeTolerantFile(io.FileIO):
    """A file that discards what is written after the reader of its pipe has exited, as in ``fedws run | head``."""

    def write(self, data: Any, /) -> int:
        """Write bytes, and return how many were written or discarded. Raises OSError except for a broken pipe."""
        try:
            return super().write(data)
        except BrokenPipeError:
            return memoryview(data).nbytes


def set_up_streams() -> None:
    """Replace standard output and standard error by streams on which ``print`` fails less often.

    A character that the terminal's encoding lacks is written as an escape sequence. Output to a pipe without a reader
    is discarded. Streams that do not belong to this process, as in tests, are not replaced.
    """
    if sys.stdout is sys.__stdout__ and isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout = sys.__stdout__ = _rebuild_stream(sys.stdout)  # type: ignore[misc]
    if sys.stderr is sys.__stderr__ and isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr = sys.__stderr__ = _rebuild_stream(sys.stderr)  # type: ignore[misc]


def _rebuild_stream(stream: io.TextIOWrapper) -> io.TextIOWrapper:
    if isinstance(getattr(stream.buffer, "raw", None), _PipeTolerantFile):
        return stream
    stream.flush()
    raw = _PipeTolerantFile(os.dup(stream.fileno()), "w")
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=stream.line_buffering or stream.write_through,  # also for python -u
    )
