#!/usr/bin/env python3
"""The run of mnist_split over an MQTT broker, on this machine in one command: ``run.py``. See README.md."""

import argparse
import os
import shlex
import sys

from broker import broker
from nodes import joined

from fedws import UsageError
from fedws.cli import run, signals
from fedws.cli.console import run_guarded
from fedws.core.addresses import PASSWORD_VARIABLE
from fedws.data import loading

WORKERS, EVALUATOR, COORDINATOR = ("alice", "bob", "charlie"), "testing", "coordinator"


def parser() -> argparse.ArgumentParser:
    """The flags, all of which may be left out."""
    flags = argparse.ArgumentParser(description="Start a broker, three workers and an evaluator; run over the broker.")
    add = flags.add_argument
    add("--dataset", metavar="NAME", help="mnist (default; where it cannot be had, digits), or digits")
    add("--data-dir", metavar="D", help="where data sets are (default: $FEDWS_DATA, or the user's cache)")
    add("--rounds", metavar="N", type=int, default=40, help="(%(default)s)")
    add("--seed", metavar="N", type=int, default=1, help="the run's seed (%(default)s)")
    add("--run-dir", metavar="D", help="the run's directory, new or empty (runs/<time>-<algorithm>)")
    return flags


def main(flags: argparse.Namespace) -> int:
    """Start the broker and the nodes, run, end all."""
    data = ["--dataset", flags.dataset or dataset(flags.data_dir)]
    data += ["--data-dir", flags.data_dir] if flags.data_dir else []
    with broker([*WORKERS, EVALUATOR, COORDINATOR]) as (place, passwords):
        os.environ[PASSWORD_VARIABLE] = passwords.pop(COORDINATOR)
        with joined(place, passwords, data):
            words = [
                "--listen",
                f"mqtt://{COORDINATOR}@{place}",
                "--expect-workers",
                *WORKERS,
                "--evaluator",
                EVALUATOR,
            ]
            words += ["--encrypt-payloads", *data, "--rounds", str(flags.rounds), "--seed", str(flags.seed)]
            words += ["--run-dir", flags.run_dir] if flags.run_dir else []
            print(f"\n$ fedws run {shlex.join(words)}", flush=True)
            return run.main(run.build_parser("fedws run").parse_args(words), show_resume_command=False)


def dataset(data_dir: str | None) -> str:
    """MNIST, or the digits of scikit-learn where it cannot be had."""
    try:
        loading.load_dataset("mnist", data_dir, train=True)
    except UsageError as error:
        print(f"{str(error).partition(';')[0]}: taking the 1,797 real digits of scikit-learn instead", flush=True)
        return "digits"
    return "mnist"


if __name__ == "__main__":
    flags = parser().parse_args()
    signals.watch_interrupt()
    sys.exit(run_guarded("run.py", lambda: main(flags)))
