"""What left this node: a file with a line for every answer, each bound to the line before by a hash.

A line is written, and on the disk, before its answer leaves. Next to the file, ``FILE.head`` holds how many lines there
are and the hash of the last one, so that lines missing at the end are noticed too. Whoever can write both files can
write a new history; who wants to be safe from that too keeps the hash that ``fedws audit --verify`` prints
elsewhere.

A node that was killed between the two wrote a line that the head does not count; the next one to write takes it in.
"""

import os
from contextlib import AbstractContextManager
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

from fedws.core import private_files, user_dirs
from fedws.core.errors import UsageError
from fedws.core.untrusted_text import to_printable
from fedws.privacy.audit_chain import (
    LogHead,
    check_format,
    decode_line,
    encode_line,
    file_lock,
    find_end,
    head_path,
    line_hash,
    write_head,
)
from fedws.privacy.audit_entry import AuditEntry
from fedws.privacy.usage_counts import COUNTING_PERIOD, UsageCounts


class AuditLog:
    """The log of one node. Several processes may write it at a time."""

    def __init__(self, path: Path) -> None:
        """Raises UsageError when it cannot be written, or is not whole."""
        self.path = path
        self._lock = file_lock(path)
        self._counts = UsageCounts()
        self._bytes_read = 0  # bytes of the log that this knows
        try:
            private_files.create_dir(path.parent, parents=True, exist_ok=True)
            with self._lock:
                path.touch(mode=private_files.FILE_MODE)
                if path.stat().st_size == 0 and not head_path(path).exists():
                    write_head(path, LogHead())
                find_end(path)
        except OSError as error:
            why = error.strerror or error
            raise UsageError(
                f"the audit log {path} cannot be continued ({why}); name another with --audit-log, or move it away"
            ) from None

    def lock(self) -> AbstractContextManager[object]:
        """Return a block in which no other process writes the log: what is counted in it holds for the line added."""
        return self._lock

    def append(self, entry: AuditEntry) -> None:
        """Write a line; when this returns it is on the disk. Raises OSError."""
        with self._lock:
            end = find_end(self.path)
            line = {"number": end.num_lines + 1, **asdict(entry), "prev_hash": end.last_hash}
            line = {key: to_printable(value) if isinstance(value, str) else value for key, value in line.items()}
            line["hash"] = line_hash(line)
            data = encode_line(line)
            with self.path.open("r+b") as file:
                file.truncate(
                    end.num_bytes
                )  # what lies behind was being written when the node was killed: it did not leave
                file.seek(end.num_bytes)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            write_head(self.path, LogHead(end.num_lines + 1, line["hash"], end.num_bytes + len(data)))

    def answer_ages(self, node: str, period: timedelta = COUNTING_PERIOD) -> dict[str, float]:
        """Return what a node's answers of that time count as: see
        :meth:`fedws.privacy.usage_counts.UsageCounts.answer_ages`. Raises OSError."""
        if not self._counts.track_recent:
            self._counts, self._bytes_read = UsageCounts(track_recent=True), 0
        self._count_new_lines()
        return self._counts.answer_ages(to_printable(node), period)

    def sent_upload_ids(self, node: str, dataset: str, peer: str) -> set[str]:
        """Return the uploads that left a node: see :meth:`fedws.privacy.usage_counts.UsageCounts.sent_upload_ids`.
        Raises OSError."""
        self._count_new_lines()
        return self._counts.sent_upload_ids(to_printable(node), to_printable(dataset), peer)  # as the lines have them

    def _count_new_lines(self) -> None:
        """Count the lines that were written since, by whatever process. The log may be larger than the memory."""
        with self._lock, self.path.open("rb") as file:
            end = find_end(self.path)
            file.seek(self._bytes_read)
            for text in file:
                if self._bytes_read >= end.num_bytes:
                    break
                self._bytes_read += len(text)
                line = decode_line(text)
                if line is not None:
                    check_format(line)  # skipped, it would free what it counts
                    self._counts.add(line)


def default_audit_path(node: str) -> Path:
    """Where a node's log is, unless it is told another place. Raises UsageError."""
    return (
        user_dirs.find_user_dir("state", "say with --audit-log where its answers are to be written down")
        / "audit"
        / f"{node}.jsonl"
    )
