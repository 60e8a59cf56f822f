"""The command ``fedws plot RUN``, which redraws the curves of a run from its record."""

import argparse
from pathlib import Path

from fedws.cli.parser import Parser
from fedws.recording import metrics_reader
from fedws.recording.run_layout import CURVES_FILE, PLAN_FILE, WORKER_LABELS_FILE


def build_parser(prog: str) -> Parser:
    """Return the parser of the command."""
    flags = Parser(prog=prog, description="Redraw curves.png from the metrics.jsonl of a run.")
    flags.add_argument("run", metavar="RUN", type=Path, help="directory of the run")
    flags.add_argument("--output", metavar="FILE.png", type=Path, help="image to write (RUN/curves.png)")
    return flags


def main(arguments: argparse.Namespace) -> int:
    """Draw the curves and print the path of the image."""
    from fedws.core.errors import UsageError
    from fedws.recording import curves, stored_records

    records = metrics_reader.read_records(arguments.run)
    groups, _ = stored_records.load_worker_labels(arguments.run / WORKER_LABELS_FILE)
    path = arguments.output or arguments.run / CURVES_FILE
    try:
        curves.draw_curves(records, groups, path, _title(arguments.run))
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}; choose another --output") from None
    print(path)
    return 0


def _title(run: Path) -> str:
    from fedws.core.errors import UsageError
    from fedws.core.plan import read_plan_file
    from fedws.recording.run_log import run_title

    try:
        return run_title(read_plan_file(run / PLAN_FILE))
    except UsageError:
        return run.name
