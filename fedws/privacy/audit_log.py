"""The audit log of a node: a file with a line for every answer, which a hash binds to the previous line.

A line is on the disk before its answer leaves. Next to the file, ``FILE.head`` holds the number of lines and the hash
of the last one, so that lines missing at the end are detected too. An attacker who can write both files can replace the
whole log. To detect that too, store the hash that ``fedws audit --verify`` prints in another place.

A node that is killed between the two writes leaves a line that the head does not count. The next process that writes
the log includes that line.
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
    """The audit log of one node, which several processes may write at the same time."""

    def __init__(self, path: Path) -> None:
        """Open or create the log. Raises UsageError if the file cannot be written or is incomplete."""
        self.path = path
        self._lock = file_lock(path)
        self._counts = UsageCounts()
        self._bytes_read = 0  # bytes of the log that are counted already
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
                f"cannot append to audit log {path}: {why}; choose another with --audit-log, or move it"
            ) from None

    def lock(self) -> AbstractContextManager[object]:
        """Return a context manager that keeps other processes from writing the log.

        Counts that are read inside the block are still valid for a line that is added inside it.
        """
        return self._lock

    def append(self, entry: AuditEntry) -> None:
        """Write a line, which is on the disk when this method returns. Raises OSError."""
        with self._lock:
            end = find_end(self.path)
            line = {"number": end.num_lines + 1, **asdict(entry), "prev_hash": end.last_hash}
            line = {key: to_printable(value) if isinstance(value, str) else value for key, value in line.items()}
            line["hash"] = line_hash(line)
            data = encode_line(line)
            with self.path.open("r+b") as file:
                # Remove an incomplete line: the node was killed while writing it, so its answer did not leave.
                file.truncate(end.num_bytes)
                file.seek(end.num_bytes)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            write_head(self.path, LogHead(end.num_lines + 1, line["hash"], end.num_bytes + len(data)))

    def answer_ages(self, node: str, period: timedelta = COUNTING_PERIOD) -> dict[str, float]:
        """Return the ages in seconds of a node's answers that count for a limit within ``period``.

        See ``fedws.privacy.usage_counts.UsageCounts.answer_ages``. Raises OSError.
        """
        if not self._counts.track_recent:
            self._counts, self._bytes_read = UsageCounts(track_recent=True), 0
        self._count_new_lines()
        return self._counts.answer_ages(to_printable(node), period)

    def sent_upload_ids(self, node: str, dataset: str, peer: str) -> set[str]:
        """Return the ids of the uploads that left a node.

        See ``fedws.privacy.usage_counts.UsageCounts.sent_upload_ids``. Raises OSError.
        """
        self._count_new_lines()
        # The lines of the log contain the names in printable form.
        return self._counts.sent_upload_ids(to_printable(node), to_printable(dataset), peer)

    def _count_new_lines(self) -> None:
        """Count the lines that any process has written since the last call.

        Lines are read one at a time, since the log may be larger than the memory.
        """
        with self._lock, self.path.open("rb") as file:
            end = find_end(self.path)
            file.seek(self._bytes_read)
            for text in file:
                if self._bytes_read >= end.num_bytes:
                    break
                self._bytes_read += len(text)
                line = decode_line(text)
                if line is not None:
                    check_format(line)  # skipping the line would release what it counts for a limit
                    self._counts.add(line)


def default_audit_path(node: str) -> Path:
    """Return the default path of a node's audit log. Raises UsageError if the user has no state directory."""
    return (
        user_dirs.find_user_dir("state", "choose a file for the audit log with --audit-log") / "audit" / f"{node}.jsonl"
    )
