"""The command ``fedws audit``, which prints a table of what left a node of this machine."""

import argparse
import os
import shutil
import sys
from collections.abc import Iterable, Mapping

from fedws.cli.parser import Parser
from fedws.privacy import audit_chain, audit_verify

_COLUMN_TITLES = {
    "time": "time (UTC)",
    "coordinator": "coordinator",
    "task": "task",
    "model": "model",
    "payload": "payload",
    "num_bytes": "bytes",
    "epsilon": "epsilon",
}
_MIN_TERMINAL_COLUMNS = 80
"""Minimum number of columns that is assumed for a terminal."""


def build_parser(prog: str) -> Parser:
    """Return the parser of the command."""
    flags = Parser(prog=prog, description="Print what left a node, with one line for each of its answers.")
    flags.add_argument("node", metavar="ID|FILE", help="id of the node, such as alice, or the file of its audit log")
    flags.add_argument("--verify", action="store_true", help="check that no line was edited, removed or moved")
    return flags


def main(arguments: argparse.Namespace) -> int:
    """Print the table, or verify the log with ``--verify``, and return 1 if it was changed."""
    from pathlib import Path

    from fedws.core.errors import UsageError
    from fedws.core.untrusted_text import to_printable
    from fedws.privacy import audit_log

    given = Path(arguments.node)
    path = given if given.is_file() else audit_log.default_audit_path(arguments.node)
    try:
        if arguments.verify:
            end, problems = audit_verify.verify_log(path)
            for problem in problems:
                print(problem)
            if not problems:
                print(f"{path}: {end.num_lines} lines, unchanged; the hash of the last line is {end.last_hash}")
            return 1 if problems else 0
        widths = _fit_column_widths(
            audit_chain.read_lines(path), max(_MIN_TERMINAL_COLUMNS, shutil.get_terminal_size().columns)
        )
        print(_format_row(_COLUMN_TITLES, widths))
        last_privacy = ""
        for line in audit_chain.read_lines(path):
            print(_format_row(line, widths) if line is not None else "(not a line of an audit log; see --verify)")
            if line is not None and line.get("reason"):
                print(f"{'':15}{to_printable(str(line.get('outcome')), 8)}: {to_printable(str(line['reason']), 300)}")
            if line is not None and line.get("privacy", "") not in ("", last_privacy):  # the same throughout a run
                last_privacy = line["privacy"]
                print(f"{'':15}{to_printable(str(last_privacy), 300)}")
    except BrokenPipeError:  # the reader of the output has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except FileNotFoundError:
        known = ", ".join(sorted(log.stem for log in path.parent.glob("*.jsonl"))) or "none"
        raise UsageError(f"{path}: file not found; nodes with a log there: {known}") from None
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from None
    return 0


def _fit_column_widths(lines: Iterable[Mapping[str, object] | None], max_width: int) -> dict[str, int]:
    """Return the widths of the columns in characters.

    Each column is as wide as its contents, if a row then fits into ``max_width``. Otherwise times end with the minute,
    and the widest columns are cut.
    """
    widths = {key: len(title) for key, title in _COLUMN_TITLES.items()}
    for line in filter(None, lines):
        widths = {key: max(width, len(_format_cell(line, key))) for key, width in widths.items()}
    widths["time"] = len("11-21 12:39:35")
    if _total_width(widths) > max_width:
        widths["time"] = len("11-21 12:39")
    while _total_width(widths) > max_width:
        widest = max((key for key in widths if key != "time"), key=widths.__getitem__)
        widths[widest] -= 1
    return widths


def _total_width(widths: Mapping[str, int]) -> int:
    return sum(widths.values()) + len(widths) - 1


def _format_row(line: Mapping[str, object], widths: Mapping[str, int]) -> str:
    cells = []
    for key, width in widths.items():
        text = _format_cell(line, key)
        if len(text) > width:
            text = text[:width] if key == "time" else f"{text[: width - 1]}~"
        cells.append(text.rjust(width) if key == "num_bytes" else text.ljust(width))
    return " ".join(cells).rstrip()


def _format_cell(line: Mapping[str, object], key: str) -> str:
    from fedws.core.untrusted_text import to_printable

    text = "" if line.get(key) is None else to_printable(str(line[key]))
    if key == "epsilon" and not text and line.get("payload") == "features":
        return "none"
    if key == "payload" and line.get("resent"):
        return f"{text} resent"
    return text[5:19].replace("T", " ") if key == "time" and text[10:11] == "T" else text  # month to seconds
