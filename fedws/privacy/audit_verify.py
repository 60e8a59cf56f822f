"""Verification of an audit log, which finds lines that are missing, changed or out of order."""

import contextlib
from pathlib import Path

from fedws.core.untrusted_text import get_error_text
from fedws.privacy.audit_chain import LogHead, file_lock, head_path, line_hash, read_head, read_lines


def verify_log(path: Path) -> tuple[LogHead, list[str]]:
    """Return the end of the log and a list of all problems in it. Raises OSError."""
    problems, name, behind = [], head_path(path).name, 0
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # a read-only copy cannot be locked, and no node writes it
            stack.enter_context(file_lock(path))
        end = LogHead(num_bytes=path.stat().st_size)
        try:
            head: LogHead | None = read_head(path)
        except OSError as error:
            head = None
            problems += [get_error_text(error)] if end.num_bytes else []
    for line in read_lines(path, end.num_bytes):  # unlocked: every answer of the node requires the lock
        if head is not None and end.num_lines == head.num_lines:
            behind += 1
            continue
        number = end.num_lines + 1
        if line is None or line.get("hash") != line_hash(line):
            problems.append(f"line {number} was edited")
        elif line.get("prev_hash") != (end.last_hash or line.get("prev_hash")) or line.get("number") != number:
            problems.append(f"line {number} does not follow the previous line: a line was removed, added or moved")
        last_hash = str(line.get("hash")) if line is not None else ""  # empty: the hash of this line is lost
        end = LogHead(number, last_hash, end.num_bytes)
    if head is not None and end.num_lines < head.num_lines:
        problems.append(
            f"missing lines at the end: {head.num_lines - end.num_lines}; {name} counts {head.num_lines} lines"
        )
    elif head is not None and end.last_hash != head.last_hash and not problems:
        problems.append(f"the last line does not have the hash in {name}")
    if behind:
        problems.append(
            f"uncounted lines at the end: {behind}; they were added, or the node was killed before it updated {name}"
        )
    return end, problems
