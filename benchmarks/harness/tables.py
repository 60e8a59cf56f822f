"""Plain tables, and the lines that every benchmark prints of its pairs."""

from collections.abc import Sequence

from benchmarks.harness.pairs import Pair, Run, verdict


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a table whose first column is aligned left, and the others right.

    Floats have three decimals.

    >>> print(table(["what", "s"], [["echo", 0.4], ["sockets", 12]]))
    what         s
    -------  -----
    echo     0.400
    sockets     12
    """
    texts = [list(head), *([f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in texts) for column in range(len(head))]
    texts.insert(1, ["-" * width for width in widths])
    return "\n".join("  ".join(_cells(line, widths)).rstrip() for line in texts)


def _cells(line: Sequence[str], widths: Sequence[int]) -> list[str]:
    first, *rest = zip(line, widths, strict=True)
    return [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in rest)]


def ratios(ours: str, theirs: str, pairs: Sequence[Pair], target: float | None = None) -> str:
    """Return a table of the pairs with the load by others at each run, and the lines that summarise them."""
    rows = [
        [
            f"{number}",
            pair.ours.seconds,
            pair.theirs.seconds,
            pair.ratio,
            _load(pair.ours),
            _load(pair.theirs),
            "disturbed" if pair.disturbed else "",
        ]
        for number, pair in enumerate(pairs, 1)
    ]
    head = ["pair", f"{ours} s", f"{theirs} s", "ratio", f"others, {ours}", f"others, {theirs}", ""]
    return "\n".join([table(head, rows), *verdict(pairs, target)])


def _load(run: Run) -> str:
    return f"{run.before:.2f} then {run.others:.2f}"
