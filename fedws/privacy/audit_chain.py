"""The lines of an audit log, its hash chain, and the file that tells where the log ends."""

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import filelock

from fedws.core import private_files

GENESIS_HASH = "0" * 64
"""What the first line is bound to."""


HEAD_BYTES = 159  # bytes; with its line's end a head is a part of one sector, which is written whole or not at all


@dataclass(frozen=True)
class LogHead:
    """Where a log ends."""

    num_lines: int = 0
    last_hash: str = GENESIS_HASH
    num_bytes: int = 0
    """Bytes."""


def read_lines(path: Path, max_bytes: float = math.inf) -> Iterator[dict[str, Any] | None]:
    """Yield each line of the first ``max_bytes`` bytes; None for one that no node wrote like that. Raises OSError."""
    with path.open("rb") as file:
        for text in file:
            if max_bytes <= 0:
                return
            max_bytes -= len(text)
            line = decode_line(text)
            if line is not None:
                check_format(line)
            yield line


def file_lock(path: Path) -> filelock.BaseFileLock:
    """Return the lock of a log, which every process of its node takes."""
    return filelock.FileLock(path.with_name(f"{path.name}.lock"), mode=private_files.FILE_MODE)


def line_hash(line: Mapping[str, Any]) -> str:
    """SHA-256 of a line without its hash, which includes the hash of the line before."""
    bound = {key: value for key, value in line.items() if key != "hash"}
    return hashlib.sha256(json.dumps(bound).encode()).hexdigest()


def encode_line(line: Mapping[str, Any]) -> bytes:
    """Return the bytes of a line, with its end."""
    return json.dumps(line).encode() + b"\n"


def decode_line(data: bytes) -> dict[str, Any] | None:
    """A line, if it is written to the byte as a node writes it: a key twice, say, would show a reader another value."""
    try:
        line = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return line if isinstance(line, dict) and encode_line(line) == data else None


def find_end(path: Path) -> LogHead:
    """Where the log ends: as its head says, or behind that, where a node was killed before the head could say so.

    Raises OSError when lines are missing, or the head is.
    """
    end = read_head(path)
    if path.stat().st_size < end.num_bytes:
        raise OSError("lines are missing at its end")
    with path.open("rb") as file:
        file.seek(end.num_bytes)
        for text in file:
            line = decode_line(text)
            if line is None or line.get("hash") != line_hash(line) or line.get("prev_hash") != end.last_hash:
                break
            end = LogHead(end.num_lines + 1, str(line["hash"]), end.num_bytes + len(text))
    return end


def head_path(path: Path) -> Path:
    """Return the file that tells where the log ends."""
    return path.with_name(f"{path.name}.head")


def read_head(path: Path) -> LogHead:
    """Return where the log ends by its head file. Raises OSError for one that is damaged."""
    try:
        found = json.loads(head_path(path).read_text(encoding="ascii"))
        if found.keys() == {"lines", "hash", "size"}:
            raise OSError(OLD_FORMAT)
        head = LogHead(found["num_lines"], found["last_hash"], found["num_bytes"])
        if type(head.num_lines) is int and type(head.num_bytes) is int and 0 <= head.num_lines <= head.num_bytes:
            return head
    except FileNotFoundError:
        raise OSError(f"{head_path(path).name} is missing") from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        pass
    raise OSError(f"{head_path(path).name} is damaged")


def write_head(path: Path, head: LogHead) -> None:
    """Write where the log ends, in place: one that is older after a power cut is caught up with by
    :func:`find_end`."""
    handle = os.open(head_path(path), os.O_WRONLY | os.O_CREAT, private_files.FILE_MODE)
    try:
        os.write(
            handle, json.dumps(asdict(head)).encode().ljust(HEAD_BYTES) + b"\n"
        )  # of one length, so nothing is left over
    finally:
        os.close(handle)


OLD_FORMAT = "its lines have the format of an older fedws; read it with that version"
"""Why a log cannot be used whose lines have other keys. None of them is skipped: they count for the limits."""


def check_format(line: Mapping[str, Any]) -> None:
    """Raise OSError for a line whose keys are those of an older version."""
    if "before" in line and "prev_hash" not in line:
        raise OSError(OLD_FORMAT)
