"""The command ``fedws simulate``, which runs algorithms on a simulated fleet of devices in virtual time."""

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedws.cli.parser import Parser
from fedws.cli.shared_flags import add_local_flags
from fedws.recording.run_layout import LOG_FILE

if TYPE_CHECKING:
    from fedws.simulation.conditions import Conditions

_NON_SETTING_FLAGS = {"algorithm", "data_dir", "run_dir", "verbose"}
"""Flags that are settings neither of the fleet nor of a plan."""
PEER_TIMEOUT_SECONDS = 600.0
"""Default timeout in seconds, longer than on a real network, since each message between peers must be computed."""


def build_parser(prog: str) -> Parser:
    """Return the parser of the command.

    Flags that are not given keep the defaults of the plan and of the conditions.
    """
    flags = Parser(
        prog=prog,
        description="Run algorithms on a fleet of simulated devices in virtual time. Training is real; device speeds, "
        "disconnections and the clock are simulated. The same seed gives the same events.",
        argument_default=argparse.SUPPRESS,
    )
    add = flags.add_argument
    add(
        "--algorithm",
        metavar="NAME",
        action="append",
        help="algorithm: fedavg (default), fedasync, fedbuff:buffer_size=10, ...; repeatable",
    )
    add("--num-workers", metavar="N", type=int, help="number of devices (30)")
    add(
        "--partition",
        metavar="NAME",
        help="partition: iid (default), dirichlet:0.5, shards:2, or digits, the labels of alice, bob and charlie",
    )
    add(
        "--slowdown",
        metavar="NAME",
        help="distribution of slowdowns: pareto:1.5 (default), uniform:1,high=4, normal:2,sd=0.5, zipf:2",
    )
    add(
        "--seconds-per-sample",
        metavar="S",
        type=float,
        help="training time in seconds per sample of a device with slowdown 1 (0.1)",
    )
    add(
        "--bandwidth",
        metavar="MBIT",
        type=float,
        help="bandwidth in Mbit/s of each device in each direction (unlimited)",
    )
    add("--disconnects-per-hour", metavar="RATE", type=float, help="number of disconnections of a device per hour (0)")
    add(
        "--mean-offline-minutes",
        metavar="N",
        type=float,
        help="average number of minutes until a device reconnects (10)",
    )
    add("--max-hours", metavar="H", type=float, help="virtual hours after which a run ends (168)")
    add(
        "--target-accuracy", metavar="X", type=float, help="accuracy, such as 0.9, to which the virtual time is printed"
    )
    add("--stop-at-target", action="store_true", help="end a run at --target-accuracy")
    add(
        "--rounds",
        metavar="N",
        type=int,
        help="number of rounds; an asynchronous algorithm makes versions from as many results (40)",
    )
    add(
        "--evaluate-every",
        metavar="N",
        type=int,
        help="evaluate every N-th round from the first one on, and the last round (10)",
    )
    add("--sampler", metavar="NAME", help="workers that train in a round: all (default), random:per_round=N, ...")
    add(
        "--min-results",
        metavar="N",
        type=int,
        help="number of results that complete a round (all; with --disconnects-per-hour, the average number "
        "of connected devices)",
    )
    add(
        "--over-selection",
        metavar="P",
        type=float,
        help="request (1 + P) times as many results, and close the round when enough arrived (0)",
    )
    add(
        "--round-timeout",
        metavar="S",
        type=float,
        help="virtual seconds after which a round closes if it has --min-results (none)",
    )
    add("--aggregator", metavar="NAME", help="rule that combines results (mean)")
    add("--weight-by-samples", action=argparse.BooleanOptionalAction, help="weight workers by their number of samples")
    add("--dataset", metavar="NAME", help="data set: mnist (default), digits, fashion_mnist, cifar10 or your own")
    add("--model", metavar="NAME", help="model to train (the default of the data set, such as mnist_cnn)")
    add("--initial-model", metavar="FILE", help="initial weights, such as model.safetensors of a run")
    add("--loss", metavar="NAME", help="loss function (nll)")
    add("--optimizer", metavar="NAME", help="optimizer (sgd)")
    add("--lr", metavar="X", type=float, help="learning rate of round 1 (0.1)")
    add(
        "--lr-decay",
        metavar="X",
        type=float,
        help="factor of the learning rate after each round; 1 keeps it constant (0.98)",
    )
    add("--batch-size", metavar="N", type=int, help="number of samples in a batch (32)")
    add("--test-batch-size", metavar="N", type=int, help="batch size of the evaluator (128)")
    add(
        "--max-local-batches",
        metavar="N",
        type=int,
        help="maximum number of batches that a worker trains for a request (10, or no limit with --epochs)",
    )
    add(
        "--epochs",
        metavar="N",
        type=int,
        help="number of whole epochs that a worker trains for a request (without it, at most 10 batches)",
    )
    add("--drop-last", action=argparse.BooleanOptionalAction, help="skip the last batch of an epoch if it is short")
    add(
        "--peer-timeout",
        metavar="S",
        type=float,
        help="timeout in virtual seconds; offline devices are retried every 1/12 of it (600)",
    )
    add("--seed", metavar="N", type=int, help="seed of everything (1)")
    add("--threads", metavar="N", type=int, help="number of threads of torch, which may affect rounding (1)")
    add_local_flags(flags)
    add(
        "--run-dir", metavar="D", help="directory with a subdirectory for each run, new or empty (runs/<time>-simulate)"
    )
    add("-v", "--verbose", action="store_true", help="also print the log of each run and the tracebacks of errors")
    return flags


def main(arguments: argparse.Namespace) -> int:
    """Simulate the algorithms one after the other, then print and draw the results."""
    import os

    import torch
    from tqdm import tqdm

    from fedws.cli.console import set_up_logging
    from fedws.cli.progress import ProgressBar
    from fedws.data import loading
    from fedws.node.evaluator import create_evaluator
    from fedws.recording import curves
    from fedws.recording.directory_creation import create_empty_directory, create_unique_directory
    from fedws.recording.stored_records import Record
    from fedws.simulation import fleet, report
    from fedws.simulation.plans import EVALUATOR_NAME, build_plans
    from fedws.simulation.run import run_simulation

    given = vars(arguments)
    if given.get("verbose"):
        set_up_logging(verbose=True)
    conditions, settings = _split_settings(given)
    algorithms, workers = given.get("algorithm", ["fedavg"]), fleet.name_workers(conditions.num_workers)
    plans = build_plans(algorithms, settings, workers, conditions.online_fraction)
    dataset, data_dir = plans[0].dataset, given.get("data_dir")
    torch.set_num_threads(plans[0].threads)
    devices = fleet.build_fleet(conditions, dataset, loading.load_dataset(dataset, data_dir, train=True))
    node = create_evaluator(
        EVALUATOR_NAME, dataset, loading.load_dataset(dataset, data_dir, train=False), threads=os.cpu_count() or 1
    )
    if "run_dir" in given:
        directory = Path(given["run_dir"])
        create_empty_directory(directory)
    else:
        directory = create_unique_directory("simulate")

    def print_evaluation(record: Record, now: float) -> None:
        if record["kind"] == "evaluation":
            accuracy = report.format_percent(record["accuracy"])
            tqdm.write(f"{report.format_clock_time(now):>10}  version {record['round']:<6} {accuracy:>9}")

    outcomes = []
    for plan in plans:
        print(f"{plan.algorithm}: {len(plan.workers)} devices, {plan.rounds} versions", flush=True)
        with ProgressBar(plan.rounds) as progress:
            path = _run_folder(directory, plan.algorithm)
            outcomes.append(
                run_simulation(plan, path, devices, node, [lambda record, _: progress.update(record), print_evaluation])
            )
        report.write_report(directory / "simulation.json", devices, outcomes)
    print("\n".join(report.format_table(outcomes, conditions.target_accuracy)))
    title = f"{conditions.num_workers} devices, {conditions.partition}, {conditions.slowdown}, {dataset}"
    values = {outcome.algorithm: outcome.evaluations for outcome in outcomes}
    curves.draw_over_time(values, directory / "accuracy.png", title, conditions.target_accuracy)
    print(f"plot  {directory / 'accuracy.png'}")
    failures = [outcome for outcome in outcomes if outcome.failure]
    for outcome in failures:
        log = _run_folder(directory, outcome.algorithm) / LOG_FILE
        print(f"fedws simulate: {outcome.algorithm}: {outcome.failure}; see {log}", file=sys.stderr)
    return 1 if failures else 0


def _run_folder(directory: Path, algorithm: str) -> Path:
    return directory / re.sub(r"[^A-Za-z0-9.=]+", "-", algorithm)


def _split_settings(flags: dict[str, Any]) -> tuple["Conditions", dict[str, Any]]:
    """Return the conditions of the fleet and the settings of the plans.

    Raise UsageError for a condition that is not valid.
    """
    from fedws.simulation.conditions import Conditions, build_conditions

    conditions = build_conditions({key: value for key, value in flags.items() if key in Conditions.model_fields})
    settings = {"peer_timeout": PEER_TIMEOUT_SECONDS, "seed": conditions.seed}
    other_flags = _NON_SETTING_FLAGS | set(Conditions.model_fields)
    return conditions, settings | {key: value for key, value in flags.items() if key not in other_flags}
