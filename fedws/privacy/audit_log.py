"""What left this node: a file with a line for every answer, each bound to the line before by a hash.

A line is written, and on the disk, before its answer leaves. Next to the file, ``FILE.head`` holds how many lines there
are and the hash of the last one, so that lines missing at the end are noticed too. Whoever can write both files can
write a new history; who wants to be safe from that too keeps the hash that ``fedws audit --verify_log`` prints
elsewhere.

A node that was killed between the two wrote a line that the head does not count; the next one to write takes it in.
"""

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import filelock

from fedws.core import user_dirs
from fedws.core.errors import UsageError
from fedws.core.untrusted_text import get_error_text, to_printable
from fedws.privacy.usage_counts import COUNTING_PERIOD, CountedAs, UsageCounts

GENESIS_HASH = "0" * 64
"""What the first line is bound to."""
OLD_FORMAT = "its lines have the format of an older fedws; read it with that version"
"""Why a log cannot be used whose lines have other keys. None of them is skipped: they count for the limits."""
_HEAD_BYTES = 159  # bytes; with its line's end a head is a part of one sector, which is written whole or not at all


@dataclass(frozen=True, kw_only=True)
class AuditEntry:
    """One line."""

    time: str
    """ISO 8601, UTC."""
    node: str
    coordinator: str
    run: str
    """The first 8 characters of its public id."""
    request_id: str
    round: int
    task: str
    model: str
    outcome: str
    """``result``, ``refused`` or ``failed``."""
    payload: str
    """What kind of data left: ``tensors`` or ``features`` (with metrics), ``metrics``, or no more than a ``reason``."""
    num_bytes: int
    """Of the answer, with what frames it but the transport's own."""
    upload_id: str = ""
    """Id of the upload of which the answer is a part; new noise has a new id. Empty for any other answer."""
    reason: str = ""
    """Why it was refused or failed."""
    epsilon: float | None = None
    """Privacy spent of each record that left; None where no mechanism was used: there is no bound then."""
    privacy: str = ""
    """Of features, in words: what was spent for each of them, for a label, and for the record."""
    resent: bool = False
    """Whether it is a result that was sent before, on a link that was lost; it does not count a second time."""
    dataset: str = ""
    """Name of the data set that the node holds."""
    peer: str = ""
    """Id in the coordinator's certificate; empty where none was shown, and ``coordinator`` is not proved."""
    counted_as: CountedAs = ""
    """What counts for ``max_answers_per_day``: an answer to a ``request``, a part of an ``upload``, or nothing."""


class AuditLog:
    """The log of one node. Several processes may write it at a time."""

    def __init__(self, path: Path) -> None:
        """Raises UsageError when it cannot be written, or is not whole."""
        self.path = path
        self._lock = _file_lock(path)
        self._counts = UsageCounts()
        self._bytes_read = 0  # bytes of the log that this knows
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._lock:
                path.touch(mode=0o600)
                if path.stat().st_size == 0 and not _head_path(path).exists():
                    _write_head(path, LogHead())
                _find_end(path)
        except OSError as error:
            why = error.strerror or error
            raise UsageError(
                f"the audit log {path} cannot be continued ({why}); name another with --audit, or move it away"
            ) from None

    def lock(self) -> AbstractContextManager[object]:
        """Return a block in which no other process writes the log: what is counted in it holds for the line added."""
        return self._lock

    def append(self, entry: AuditEntry) -> None:
        """Write a line; when this returns it is on the disk. Raises OSError."""
        with self._lock:
            end = _find_end(self.path)
            line = {"number": end.num_lines + 1, **asdict(entry), "prev_hash": end.last_hash}
            line = {key: to_printable(value) if isinstance(value, str) else value for key, value in line.items()}
            line["hash"] = _line_hash(line)
            data = _encode_line(line)
            with self.path.open("r+b") as file:
                file.truncate(
                    end.num_bytes
                )  # what lies behind was being written when the node was killed: it did not leave
                file.seek(end.num_bytes)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            _write_head(self.path, LogHead(end.num_lines + 1, line["hash"], end.num_bytes + len(data)))

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
            end = _find_end(self.path)
            file.seek(self._bytes_read)
            for text in file:
                if self._bytes_read >= end.num_bytes:
                    break
                self._bytes_read += len(text)
                line = _decode_line(text)
                if line is not None:
                    _check_format(line)  # skipped, it would free what it counts
                    self._counts.add(line)


@dataclass(frozen=True)
class LogHead:
    """Where a log ends."""

    num_lines: int = 0
    last_hash: str = GENESIS_HASH
    num_bytes: int = 0
    """Bytes."""


def default_audit_path(node: str) -> Path:
    """Where a node's log is, unless it is told another place. Raises UsageError."""
    return (
        user_dirs.find_user_dir("state", "say with --audit where its answers are to be written down")
        / "audit"
        / f"{node}.jsonl"
    )


def current_timestamp() -> str:
    """The time of a line."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def read_entries(path: Path, max_bytes: float = math.inf) -> Iterator[dict[str, Any] | None]:
    """Yield every line of the first ``max_bytes`` bytes; None for one that no node wrote like that. Raises OSError."""
    with path.open("rb") as file:
        for text in file:
            if max_bytes <= 0:
                return
            max_bytes -= len(text)
            line = _decode_line(text)
            if line is not None:
                _check_format(line)
            yield line


def verify_log(path: Path) -> tuple[LogHead, list[str]]:
    """Where the log ends, and everything that is wrong with it. Raises OSError."""
    problems, name, behind = [], _head_path(path).name, 0
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # of a copy that is read only, whose end no node is writing just now
            stack.enter_context(_file_lock(path))
        end = LogHead(num_bytes=path.stat().st_size)
        try:
            head: LogHead | None = _read_head(path)
        except OSError as error:
            head = None
            problems += [get_error_text(error)] if end.num_bytes else []
    for line in read_entries(path, end.num_bytes):  # without the lock, which each answer of the node needs
        if head is not None and end.num_lines == head.num_lines:
            behind += 1
            continue
        number = end.num_lines + 1
        if line is None or line.get("hash") != _line_hash(line):
            problems.append(f"line {number} was edited")
        elif line.get("prev_hash") != (end.last_hash or line.get("prev_hash")) or line.get("number") != number:
            problems.append(f"line {number} does not follow the line before it: one was removed, added or moved")
        end = LogHead(
            number, str(line.get("hash")) if line is not None else "", end.num_bytes
        )  # "": what it was is lost
    if head is not None and end.num_lines < head.num_lines:
        problems.append(f"{head.num_lines - end.num_lines} missing at the end: {name} counts {head.num_lines} lines")
    elif head is not None and end.last_hash != head.last_hash and not problems:
        problems.append(f"it does not end as {name} says")
    if behind:
        problems.append(f"{behind} at the end that {name} does not count: added, or the node was killed as it wrote")
    return end, problems


def _file_lock(path: Path) -> filelock.BaseFileLock:
    return filelock.FileLock(path.with_name(f"{path.name}.lock"), mode=0o600)


def _line_hash(line: Mapping[str, Any]) -> str:
    """SHA-256 of a line without its hash, which includes the hash of the line before."""
    bound = {key: value for key, value in line.items() if key != "hash"}
    return hashlib.sha256(json.dumps(bound).encode()).hexdigest()


def _encode_line(line: Mapping[str, Any]) -> bytes:
    return json.dumps(line).encode() + b"\n"


def _decode_line(data: bytes) -> dict[str, Any] | None:
    """A line, if it is written to the byte as a node writes it: a key twice, say, would show a reader another value."""
    try:
        line = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return line if isinstance(line, dict) and _encode_line(line) == data else None


def _check_format(line: Mapping[str, Any]) -> None:
    """Raise OSError for a line whose keys are those of an older version."""
    if "before" in line and "prev_hash" not in line:
        raise OSError(OLD_FORMAT)


def _find_end(path: Path) -> LogHead:
    """Where the log ends: as its head says, or behind that, where a node was killed before the head could say so.

    Raises OSError when lines are missing, or the head is.
    """
    end = _read_head(path)
    if path.stat().st_size < end.num_bytes:
        raise OSError("lines are missing at its end")
    with path.open("rb") as file:
        file.seek(end.num_bytes)
        for text in file:
            line = _decode_line(text)
            if line is None or line.get("hash") != _line_hash(line) or line.get("prev_hash") != end.last_hash:
                break
            end = LogHead(end.num_lines + 1, str(line["hash"]), end.num_bytes + len(text))
    return end


def _head_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.head")


def _read_head(path: Path) -> LogHead:
    try:
        found = json.loads(_head_path(path).read_text(encoding="ascii"))
        if found.keys() == {"lines", "hash", "size"}:
            raise OSError(OLD_FORMAT)
        head = LogHead(found["num_lines"], found["last_hash"], found["num_bytes"])
        if type(head.num_lines) is int and type(head.num_bytes) is int and 0 <= head.num_lines <= head.num_bytes:
            return head
    except FileNotFoundError:
        raise OSError(f"{_head_path(path).name} is missing") from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        pass
    raise OSError(f"{_head_path(path).name} is damaged")


def _write_head(path: Path, head: LogHead) -> None:
    """Write where the log ends, in place: one that is older after a power cut is caught up with by
    :func:`_find_end`."""
    handle = os.open(_head_path(path), os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        os.write(
            handle, json.dumps(asdict(head)).encode().ljust(_HEAD_BYTES) + b"\n"
        )  # of one length, so nothing is left over
    finally:
        os.close(handle)
