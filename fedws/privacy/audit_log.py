"""What left this node: a file with a line for every answer, each bound to the line before by a hash.

A line is written, and on the disk, before its answer leaves. Next to the file, ``FILE.head`` holds how many lines there
are and the hash of the last one, so that lines missing at the end are noticed too. Whoever can write both files can
write a new history; who wants to be safe from that too keeps the hash that ``fedws audit --verify`` prints elsewhere.

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
from fedws.core.untrusted_text import printable, words
from fedws.privacy.usage_counts import DAY, Counted, Counts

GENESIS = "0" * 64
"""What the first line is bound to."""
_HEAD = 159  # bytes; with its line's end a head is a part of one sector, which is written whole or not at all


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line."""

    time: str
    """ISO 8601, UTC."""
    node: str
    coordinator: str
    run: str
    """The first 8 characters of its public id."""
    order: str
    round: int
    task: str
    model: str
    answer: str
    """``report``, ``refused`` or ``failed``."""
    data: str
    """What kind of data left: ``tensors`` or ``features`` (with numbers), ``numbers``, or no more than a ``reason``."""
    bytes: int
    """Of the answer, with what frames it but the transport's own."""
    upload: str = ""
    """Id of the upload of which the answer is a part; new noise has a new id. Empty for any other answer."""
    reason: str = ""
    """Why it was refused or failed."""
    epsilon: float | None = None
    """Privacy spent of each record that left; None where no mechanism was used: there is no bound then."""
    privacy: str = ""
    """Of features, in words: what was spent for each of them, for a label, and for the record."""
    again: bool = False
    """Whether it is a report that was sent before, on a link that was lost; it does not count a second time."""
    dataset: str = ""
    """Name of the data set that the node holds."""
    peer: str = ""
    """Id in the coordinator's certificate; empty where none was shown, and ``coordinator`` is not proved."""
    counts: Counted = ""
    """What it counts as for ``rounds_per_day``: an answer to a ``request``, a part of an ``upload``, or nothing."""


class Audit:
    """The log of one node. Several processes may write it at a time."""

    def __init__(self, path: Path) -> None:
        """Raises UsageError when it cannot be written, or is not whole."""
        self.path = path
        self._lock = _alone(path)
        self._counts = Counts()
        self._read = 0  # bytes of the log that this knows
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._lock:
                path.touch(mode=0o600)
                if path.stat().st_size == 0 and not _beside(path).exists():
                    _set_head(path, Head())
                _end(path)
        except OSError as error:
            why = error.strerror or error
            raise UsageError(
                f"the audit log {path} cannot be gone on with ({why}); name another with --audit, or move it away"
            ) from None

    def alone(self) -> AbstractContextManager[object]:
        """Return a block in which no other process writes the log: what is counted in it holds for the line added."""
        return self._lock

    def add(self, entry: Entry) -> None:
        """Write a line; when this returns it is on the disk. Raises OSError."""
        with self._lock:
            end = _end(self.path)
            line = {"number": end.lines + 1, **asdict(entry), "before": end.hash}
            line = {key: printable(value) if isinstance(value, str) else value for key, value in line.items()}
            line["hash"] = _hash(line)
            data = _text(line)
            with self.path.open("r+b") as file:
                file.truncate(end.size)  # what lies behind was being written when the node was killed: it did not leave
                file.seek(end.size)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            _set_head(self.path, Head(end.lines + 1, line["hash"], end.size + len(data)))

    def left(self, node: str, since: timedelta = DAY) -> dict[str, float]:
        """Return what a node's answers of that time count as: see :meth:`fedws.privacy.usage_counts.Counts.left`.
        Raises OSError."""
        if not self._counts.days:
            self._counts, self._read = Counts(days=True), 0
        self._catch_up()
        return self._counts.left(printable(node), since)

    def uploads(self, node: str, dataset: str, peer: str) -> set[str]:
        """Return the uploads that left a node: see :meth:`fedws.privacy.usage_counts.Counts.uploads`. Raises
        OSError."""
        self._catch_up()
        return self._counts.uploads(printable(node), printable(dataset), peer)  # as the lines have them

    def _catch_up(self) -> None:
        """Count the lines that were written since, by whatever process. The log may be larger than the memory."""
        with self._lock, self.path.open("rb") as file:
            end = _end(self.path)
            file.seek(self._read)
            for text in file:
                if self._read >= end.size:
                    break
                self._read += len(text)
                line = _parsed(text)
                if line is not None:
                    self._counts.add(line)


@dataclass(frozen=True)
class Head:
    """Where a log ends."""

    lines: int = 0
    hash: str = GENESIS
    size: int = 0
    """Bytes."""


def own(node: str) -> Path:
    """Where a node's log is, unless it is told another place. Raises UsageError."""
    return (
        user_dirs.own("state", "say with --audit where its answers are to be written down") / "audit" / f"{node}.jsonl"
    )


def now() -> str:
    """The time of a line."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def read(path: Path, size: float = math.inf) -> Iterator[dict[str, Any] | None]:
    """Yield every line of the first ``size`` bytes; None for one that no node wrote like that. Raises OSError."""
    with path.open("rb") as file:
        for text in file:
            if size <= 0:
                return
            size -= len(text)
            yield _parsed(text)


def verify(path: Path) -> tuple[Head, list[str]]:
    """Where the log ends, and everything that is wrong with it. Raises OSError."""
    problems, name, behind = [], _beside(path).name, 0
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # of a copy that is read only, whose end no node is writing just now
            stack.enter_context(_alone(path))
        end = Head(size=path.stat().st_size)
        try:
            head: Head | None = _head(path)
        except OSError as error:
            head = None
            problems += [words(error)] if end.size else []
    for line in read(path, end.size):  # without the lock, which each answer of the node needs
        if head is not None and end.lines == head.lines:
            behind += 1
            continue
        number = end.lines + 1
        if line is None or line.get("hash") != _hash(line):
            problems.append(f"line {number} was edited")
        elif line.get("before") != (end.hash or line.get("before")) or line.get("number") != number:
            problems.append(f"line {number} does not follow the line before it: one was removed, added or moved")
        end = Head(number, str(line.get("hash")) if line is not None else "", end.size)  # "": what it was is lost
    if head is not None and end.lines < head.lines:
        problems.append(f"{head.lines - end.lines} missing at the end: {name} counts {head.lines} lines")
    elif head is not None and end.hash != head.hash and not problems:
        problems.append(f"it does not end as {name} says")
    if behind:
        problems.append(f"{behind} at the end that {name} does not count: added, or the node was killed as it wrote")
    return end, problems


def _alone(path: Path) -> filelock.BaseFileLock:
    return filelock.FileLock(path.with_name(f"{path.name}.lock"), mode=0o600)


def _hash(line: Mapping[str, Any]) -> str:
    """SHA-256 of a line without its hash, which includes the hash of the line before."""
    bound = {key: value for key, value in line.items() if key != "hash"}
    return hashlib.sha256(json.dumps(bound).encode()).hexdigest()


def _text(line: Mapping[str, Any]) -> bytes:
    return json.dumps(line).encode() + b"\n"


def _parsed(text: bytes) -> dict[str, Any] | None:
    """A line, if it is written to the byte as a node writes it: a key twice, say, would show a reader another value."""
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return line if isinstance(line, dict) and _text(line) == text else None


def _end(path: Path) -> Head:
    """Where the log ends: as its head says, or behind that, where a node was killed before the head could say so.

    Raises OSError when lines are missing, or the head is.
    """
    end = _head(path)
    if path.stat().st_size < end.size:
        raise OSError("lines are missing at its end")
    with path.open("rb") as file:
        file.seek(end.size)
        for text in file:
            line = _parsed(text)
            if line is None or line.get("hash") != _hash(line) or line.get("before") != end.hash:
                break
            end = Head(end.lines + 1, str(line["hash"]), end.size + len(text))
    return end


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.head")


def _head(path: Path) -> Head:
    try:
        found = json.loads(_beside(path).read_text(encoding="ascii"))
        head = Head(found["lines"], found["hash"], found["size"])
        if type(head.lines) is int and type(head.size) is int and 0 <= head.lines <= head.size:
            return head
    except FileNotFoundError:
        raise OSError(f"{_beside(path).name} is missing") from None
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    raise OSError(f"{_beside(path).name} is damaged")


def _set_head(path: Path, head: Head) -> None:
    """Write where the log ends, in place: one that is older after a power cut is caught up with by :func:`_end`."""
    handle = os.open(_beside(path), os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        os.write(
            handle, json.dumps(asdict(head)).encode().ljust(_HEAD) + b"\n"
        )  # of one length, so nothing is left over
    finally:
        os.close(handle)
