"""``fedws audit``: what left a node of this machine, as a table."""

import argparse

from fedws.cli.parser import Parser

_COLUMNS = {"time": 14, "coordinator": 11, "task": 13, "model": 11, "data": 8, "bytes": 10, "epsilon": 7}
"""Widths; together a terminal's 80."""
_TITLES = ("time (UTC)", "asked by", "task", "model", "left", "bytes", "epsilon")


def parser(prog: str) -> Parser:
    """The command's flags."""
    flags = Parser(prog=prog, description="Print what left a node: a line for every answer that it gave.")
    flags.add_argument("node", metavar="ID|FILE", help="the node's id, as alice, or the file of its audit log")
    flags.add_argument("--verify", action="store_true", help="check that no line was edited, removed or moved")
    return flags


def main(arguments: argparse.Namespace) -> int:
    """Print the table, or with ``--verify`` what is wrong; then the status is 1."""
    from pathlib import Path

    from fedws import audit
    from fedws.errors import UsageError, printable

    given = Path(arguments.node)
    path = given if given.is_file() else audit.own(arguments.node)
    try:
        if arguments.verify:
            end, problems = audit.verify(path)
            for problem in problems:
                print(problem)
            if not problems:
                print(f"{path}: {end.lines} lines, whole; the last one's hash is {end.hash}")
            return 1 if problems else 0
        path.stat()  # before there is a heading
        print(_row(dict(zip(_COLUMNS, _TITLES, strict=True))))
        for line in audit.read(path):
            print(_row(line) if line is not None else "(no line of an audit log; --verify tells more)")
            if line is not None and line.get("reason"):
                print(f"{'':15}{printable(str(line.get('answer')), 8)}: {printable(str(line['reason']), 200)}")
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from None
    return 0


def _row(line: dict[str, object]) -> str:
    from fedws.errors import printable

    cells = []
    for key, width in _COLUMNS.items():
        text = "" if line.get(key) is None else printable(str(line[key]))
        if key == "time" and text[10:11] == "T":
            text = text[5:19].replace("T", " ")  # months to seconds
        text = text if len(text) <= width else f"{text[: width - 1]}~"
        cells.append(text.rjust(width) if key == "bytes" else text.ljust(width))
    return " ".join(cells).rstrip()
