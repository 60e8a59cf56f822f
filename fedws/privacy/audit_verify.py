"""Verifies an audit log: no line is missing, changed or out of order."""

import contextlib
from pathlib import Path

from fedws.core.untrusted_text import get_error_text
from fedws.privacy.audit_chain import LogHead, file_lock, head_path, line_hash, read_head, read_lines


def verify_log(path: Path) -> tuple[LogHead, list[str]]:
    """Where the log ends, and everything that is wrong with it. Raises OSError."""
    problems, name, behind = [], head_path(path).name, 0
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # of a copy that is read only, whose end no node is writing just now
            stack.enter_context(file_lock(path))
        end = LogHead(num_bytes=path.stat().st_size)
        try:
            head: LogHead | None = read_head(path)
        except OSError as error:
            head = None
            problems += [get_error_text(error)] if end.num_bytes else []
    for line in read_lines(path, end.num_bytes):  # without the lock, which each answer of the node needs
        if head is not None and end.num_lines == head.num_lines:
            behind += 1
            continue
        number = end.num_lines + 1
        if line is None or line.get("hash") != line_hash(line):
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
