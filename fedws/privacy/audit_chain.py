"""The lines of an audit log, its hash chain, and the head file, which describes the end of the log."""

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
"""Hash that the first line contains in place of the hash of a previous line."""

HEAD_BYTES = 159
"""Size in bytes of a head without its newline; it fits in one disk sector, which is written whole or not at all."""


@dataclass(frozen=True)
class LogHead:
    """The end of a log."""

    num_lines: int = 0
    last_hash: str = GENESIS_HASH
    num_bytes: int = 0
    """Size of the log in bytes."""


def read_lines(path: Path, max_bytes: float = math.inf) -> Iterator[dict[str, Any] | None]:
    """Yield each line of the first ``max_bytes`` bytes, or None if a line is not as a node writes it.

    Raises OSError if the file cannot be read, or if an older version of fedws wrote it.
    """
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
    """Return the lock of a log, which all processes of its node share."""
    return filelock.FileLock(path.with_name(f"{path.name}.lock"), mode=private_files.FILE_MODE)


def line_hash(line: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a line without its own hash, but with the hash of the previous line."""
    bound = {key: value for key, value in line.items() if key != "hash"}
    return hashlib.sha256(json.dumps(bound).encode()).hexdigest()


def encode_line(line: Mapping[str, Any]) -> bytes:
    """Return the bytes of a line, including the newline."""
    return json.dumps(line).encode() + b"\n"


def decode_line(data: bytes) -> dict[str, Any] | None:
    """Return the line of ``data``, or None unless the bytes are exactly those that a node writes.

    Other bytes can be ambiguous: with a duplicate key, for example, two readers may see different values.
    """
    try:
        line = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return line if isinstance(line, dict) and encode_line(line) == data else None


def find_end(path: Path) -> LogHead:
    """Return the end of the log.

    The log has more lines than the head file counts if a node was killed before it updated that file. Raises OSError if
    lines or the head file are missing, or if the head file is damaged.
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
    """Return the path of the head file of a log."""
    return path.with_name(f"{path.name}.head")


def read_head(path: Path) -> LogHead:
    """Return the end of the log from its head file. Raises OSError if that file is missing or damaged."""
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
    """Write the head file of a log in place.

    If the head is out of date after a power failure, ``find_end`` finds the lines that it does not count.
    """
    handle = os.open(head_path(path), os.O_WRONLY | os.O_CREAT, private_files.FILE_MODE)
    try:
        # Heads have a fixed length, so no bytes of the old head remain.
        os.write(handle, json.dumps(asdict(head)).encode().ljust(HEAD_BYTES) + b"\n")
    finally:
        os.close(handle)


OLD_FORMAT = "it was written by an older fedws; read it with that version"
"""Error for a log whose lines have other keys; its lines are not skipped, since they count for the limits."""


def check_format(line: Mapping[str, Any]) -> None:
    """Raise OSError if a line has the keys of an older version."""
    if "before" in line and "prev_hash" not in line:
        raise OSError(OLD_FORMAT)
