"""``fedws plot RUN``: draw a run's curves again from its record."""

import argparse
from pathlib import Path

from fedws.cli.parser import Parser
from fedws.recording import metrics_reader
from fedws.recording.run_layout import CURVES_FILE, PLAN_FILE, WORKER_LABELS_FILE


def build_parser(prog: str) -> Parser:
    """The command's flags."""
    flags = Parser(prog=prog, description="Draw curves.png again from the metrics.jsonl of a run.")
    flags.add_argument("run", metavar="RUN", type=Path, help="the run's directory")
    flags.add_argument("--output", metavar="FILE.png", type=Path, help="(RUN/curves.png)")
    return flags


def main(arguments: argparse.Namespace) -> int:
    """Draw, and say where."""
    from fedws.core.errors import UsageError
    from fedws.recording import curves, stored_records

    records = metrics_reader.read_records(arguments.run)
    groups, _ = stored_records.load_worker_labels(arguments.run / WORKER_LABELS_FILE)
    path = arguments.output or arguments.run / CURVES_FILE
    try:
        curves.draw_curves(records, groups, path, _title(arguments.run))
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror or error}") from None
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
