#!/usr/bin/env python3
"""The script ``run.py``, which carries out the run of mnist_split over an MQTT broker. See README.md."""

import argparse
import os
import shlex
import sys

from broker import run_broker
from nodes import run_nodes

from fedws import UsageError
from fedws.cli import run, signals
from fedws.cli.console import run_guarded
from fedws.core.addresses import PASSWORD_VARIABLE
from fedws.data import loading

WORKERS, EVALUATOR, COORDINATOR = ("alice", "bob", "charlie"), "testing", "coordinator"


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the script. All flags are optional."""
    flags = argparse.ArgumentParser(
        description="Start a broker, three workers and an evaluator, and run over the broker."
    )
    add = flags.add_argument
    add("--dataset", metavar="NAME", help="data set: mnist or digits (mnist, or digits if mnist cannot be loaded)")
    add("--data-dir", metavar="D", help="directory of data sets ($FEDWS_DATA, or the user's cache)")
    add("--rounds", metavar="N", type=int, default=40, help="number of rounds (%(default)s)")
    add("--seed", metavar="N", type=int, default=1, help="seed of the run (%(default)s)")
    add("--run-dir", metavar="D", help="directory of the run, new or empty (runs/<time>-<algorithm>)")
    return flags


def main(flags: argparse.Namespace) -> int:
    """Start the broker and the nodes, run, and end all of them."""
    data = ["--dataset", flags.dataset or choose_dataset(flags.data_dir)]
    data += ["--data-dir", flags.data_dir] if flags.data_dir else []
    with run_broker([*WORKERS, EVALUATOR, COORDINATOR]) as (address, passwords):
        os.environ[PASSWORD_VARIABLE] = passwords.pop(COORDINATOR)
        with run_nodes(address, passwords, data):
            words = [
                "--listen",
                f"mqtt://{COORDINATOR}@{address}",
                "--expect-workers",
                *WORKERS,
                "--evaluator",
                EVALUATOR,
            ]
            words += ["--encrypt-payloads", *data, "--rounds", str(flags.rounds), "--seed", str(flags.seed)]
            words += ["--run-dir", flags.run_dir] if flags.run_dir else []
            print(f"\n$ fedws run {shlex.join(words)}", flush=True)
            return run.main(run.build_parser("fedws run").parse_args(words), show_resume_command=False)


def choose_dataset(data_dir: str | None) -> str:
    """Return MNIST, or the digits of scikit-learn if MNIST cannot be loaded."""
    try:
        loading.load_dataset("mnist", data_dir, train=True)
    except UsageError as error:
        print(f"{str(error).partition(';')[0]}: using the 1,797 real digits of scikit-learn instead", flush=True)
        return "digits"
    return "mnist"


if __name__ == "__main__":
    flags = build_parser().parse_args()
    signals.watch_interrupt()
    sys.exit(run_guarded("run.py", lambda: main(flags)))
