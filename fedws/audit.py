"""What left this node: a file with a line for every answer, each bound to the line before by a hash.

A line is written, and on the disk, before its answer leaves. Next to the file, ``FILE.head`` holds how many lines there
are and the hash of the last one, so that lines missing at the end are noticed too. Whoever can write both files can
write a new history; who wants to be safe from that too keeps the hash that ``fedws audit --verify`` prints elsewhere.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import filelock
import platformdirs

from fedws.errors import UsageError

GENESIS = "0" * 64
"""What the first line is bound to."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One line."""

    time: str
    """ISO 8601, UTC."""
    node: str
    coordinator: str
    run: str
    """The first 8 characters of its id."""
    order: str
    round: int
    task: str
    model: str
    answer: str
    """``report``, ``refused`` or ``failed``."""
    data: str
    """What kind of data left: ``tensors`` (with numbers), ``numbers``, or no more than a ``reason``."""
    bytes: int
    """Of the answer, with what frames it but the transport's own."""
    epsilon: float | None = None
    """Privacy spent; None where no mechanism was used: there is no bound then."""


class Audit:
    """The log of one node. Several processes may write it at a time."""

    def __init__(self, path: Path) -> None:
        """Raises UsageError when it cannot be written, or is not whole."""
        self.path = path
        self._left: list[tuple[str, str, int]] | None = None
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.touch(mode=0o600)
            with self._alone():
                head = _head(path)
        except OSError as error:
            why = error.strerror or error
            raise UsageError(f"the audit log {path} cannot be written ({why}); name another with --audit") from None
        if path.stat().st_size < head.size:
            raise UsageError(f"the audit log {path} was cut: see 'fedws audit --verify'; move it away to begin anew")

    def add(self, entry: Entry) -> None:
        """Write a line; when this returns it is on the disk. Raises OSError."""
        with self._alone():
            head = _head(self.path)
            line = {"number": head.lines + 1, **asdict(entry), "before": head.hash}
            line["hash"] = _hash(line)
            data = json.dumps(line).encode() + b"\n"
            with self.path.open("r+b") as file:
                file.truncate(
                    head.size
                )  # what lies behind was being written when the node was killed; it did not leave
                file.seek(head.size)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            _set_head(self.path, Head(head.lines + 1, line["hash"], head.size + len(data)))
        if self._left is not None and _left(line):
            self._left.append((entry.time, entry.run, entry.round))

    def rounds(self, since: timedelta = timedelta(days=1)) -> int:
        """In how many rounds, over all runs, tensors have left in that time."""
        if self._left is None:
            lines = (line for line in read(self.path) if line is not None and _left(line))
            self._left = [(str(line["time"]), str(line["run"]), int(line["round"])) for line in lines]
        earliest = (datetime.now(UTC) - since).isoformat()
        self._left = [place for place in self._left if place[0] >= earliest]
        return len({(run, round) for _, run, round in self._left})

    def _alone(self) -> filelock.BaseFileLock:
        return filelock.FileLock(self.path.with_name(f"{self.path.name}.lock"), mode=0o600)


@dataclass(frozen=True)
class Head:
    """Where a log ends."""

    lines: int = 0
    hash: str = GENESIS
    size: int = 0
    """Bytes."""


def own(node: str) -> Path:
    """Where a node's log is, unless it is told another place."""
    return platformdirs.user_state_path("fedws") / "audit" / f"{node}.jsonl"


def now() -> str:
    """The time of a line."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def read(path: Path) -> Iterator[dict[str, Any] | None]:
    """Every line; None for one that is none. Raises OSError."""
    with path.open("rb") as file:
        for text in file:
            try:
                line = json.loads(text)
            except ValueError:
                line = None
            yield line if isinstance(line, dict) and text.endswith(b"\n") else None


def verify(path: Path) -> tuple[Head, list[str]]:
    """Where the log ends, and everything that is wrong with it. Raises OSError."""
    problems, number, before, size = [], 0, GENESIS, 0
    head = _head(path)
    for number, line in enumerate(read(path), 1):
        if number > head.lines:
            break
        if line is None or line.get("hash") != _hash(line):
            problems.append(f"line {number} was edited")
        elif line.get("before") != before or line.get("number") != number:
            problems.append(f"line {number} does not follow the line before it: one was removed, added or moved")
        before = str(line.get("hash")) if line is not None else ""
    if number < head.lines:
        problems.append(f"{head.lines - number} lines are missing at the end")
    elif before != head.hash and not problems:
        problems.append(f"it does not end as {_beside(path).name} says")
    size = path.stat().st_size
    if size and not head.lines:
        problems.append(f"{_beside(path).name} is missing")
    return Head(number, before, size), problems


def _left(line: Mapping[str, Any]) -> bool:
    return str(line.get("data", "")).startswith("tensors")


def _hash(line: Mapping[str, Any]) -> str:
    """SHA-256 of a line without its hash, keys in order, which includes the hash of the line before."""
    bound = {key: value for key, value in line.items() if key != "hash"}
    return hashlib.sha256(json.dumps(bound, sort_keys=True).encode()).hexdigest()


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.head")


def _head(path: Path) -> Head:
    try:
        return Head(**json.loads(_beside(path).read_text(encoding="ascii")))
    except FileNotFoundError:
        return Head()
    except (ValueError, TypeError):
        raise OSError(f"{_beside(path).name} is damaged") from None


def _set_head(path: Path, head: Head) -> None:
    part = _beside(path).with_suffix(".part")
    with part.open("w", encoding="ascii") as file:
        json.dump(asdict(head), file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(_beside(path))
