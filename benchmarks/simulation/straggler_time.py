"""Stragglers in virtual time: the time to 90 % accuracy of each algorithm if a few devices are very slow.

Thirty devices of a simulated fleet share MNIST. The fastest device takes 32 s for a request. A device is slower by a
factor that is drawn once per device from a Pareto distribution with alpha 1.5. Training is real (the model is ``mlp``,
with 199,210 parameters), but time is virtual, and messages take no time. All algorithms have the same learning rate,
batch size and batches per request, which are the defaults of fedws. Their own options are those of the papers; nothing
is tuned. FedAvg's model is evaluated in every round, the asynchronous ones after every 10 results. Evaluation takes no
virtual time.

A ratio is FedAvg's time divided by the time of another algorithm with the same seed. The devices, samples and initial
model are then the same. A further variant of FedAvg closes a round after the first 20 of 30 results. In the split by
digits, the devices hold the digits of alice, bob and charlie in turn. The load of the machine does not affect these
figures. As many runs as the machine has cores take place at a time.
"""

import math
import multiprocessing
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.harness.settings import Settings
from benchmarks.harness.tables import table
from fedws import FedwsError
from fedws.data import loading
from fedws.node.evaluator import create_evaluator
from fedws.simulation import conditions, fleet, plans
from fedws.simulation.run import run_simulation

DEVICES, ROUNDS, MIN_SPEEDUP = 30, 200, 3.0
CHOICES: dict[str, dict[str, Any]] = {
    "fedavg": {"algorithm": "fedavg"},
    "fedavg, 20 of 30": {"algorithm": "fedavg", "sampler": "random:per_round=20", "over_selection": 0.5},
    "fedbuff": {"algorithm": "fedbuff:buffer_size=10,server_lr=1"},
    "fedasync": {"algorithm": "fedasync:alpha=0.6,staleness_function=polynomial,exponent=0.5,mu=0.005"},
}
SCORED_EVERY = {"fedbuff": 1, "fedasync": 10}
"""Number of versions between two evaluations, which is that of 10 results."""
SPLITS = {"iid": True, "dirichlet:0.5": True, "digits": False}
"""Partitions, each with True if the target applies to it."""
Times = dict[str, list[float]]
"""Virtual seconds by algorithm, one value per seed; infinite if the run never reached the target."""


@dataclass(frozen=True)
class Case:
    """One run of one algorithm."""

    data_dir: Path
    split: str
    name: str
    seed: int
    target: float


def main(settings: Settings) -> None:
    """Simulate every algorithm on every split and seed, and print the times."""
    seeds, target = (range(1, 2), 0.5) if settings.quick else (range(1, 6), 0.9)
    print(f"stragglers: virtual seconds to {target:.0%}, {DEVICES} devices, pareto:1.5, mlp, seeds 1-{seeds[-1]}")
    for name, choice in CHOICES.items():
        print(f"  {name}: {', '.join(f'{key} {value}' for key, value in choice.items())}")
    cases = [
        Case(settings.data_dir, split, name, seed, target) for split in SPLITS for name in CHOICES for seed in seeds
    ]
    with multiprocessing.get_context("spawn").Pool(initializer=torch.set_num_threads, initargs=(1,)) as pool:
        found = pool.imap(simulate, cases)
        for split, has_target in SPLITS.items():
            times = {name: [next(found) for _ in seeds] for name in CHOICES}
            print(f"\n{split}\n{report(times)}\n{verdict(times, has_target)}", flush=True)


def simulate(case: Case) -> float:
    """Return the virtual seconds until the model reached the target accuracy, infinite if it never did.

    Raise RuntimeError if the run fails.
    """
    given = {"num_workers": DEVICES, "partition": case.split, "slowdown": "pareto:1.5", "seed": case.seed}
    choice = {**CHOICES[case.name], "model": "mlp", "rounds": ROUNDS, "evaluate_every": 1}
    try:
        devices = conditions.build_conditions({**given, "target_accuracy": case.target, "stop_at_target": True})
        settings = {**choice, "peer_timeout": 600.0, "seed": case.seed}
        (plan,) = plans.build_plans([settings.pop("algorithm")], settings, fleet.name_workers(DEVICES))
        plan = plan.model_copy(update={"evaluate_every": SCORED_EVERY.get(case.name, 1)})
        train, test = (loading.load_dataset("mnist", str(case.data_dir), train=train) for train in (True, False))
        with tempfile.TemporaryDirectory(prefix="fedws-bench-") as folder:
            made = fleet.build_fleet(devices, "mnist", train)
            outcome = run_simulation(
                plan, Path(folder) / "run", made, create_evaluator(plans.EVALUATOR_NAME, "mnist", test)
            )
    except FedwsError as error:
        raise RuntimeError(f"{case}: {error}") from None
    if outcome.failure:
        raise RuntimeError(f"{case}: {outcome.failure}")
    reached = outcome.seconds_to_accuracy(case.target)
    return math.inf if reached is None else reached


def speedups(times: Times, name: str) -> list[float]:
    """Return FedAvg's time divided by another algorithm's time for each seed, 0 if that has none.

    >>> speedups({"fedavg": [6.0, 8.0], "fedbuff": [3.0, math.inf]}, "fedbuff")
    [2.0, 0.0]
    """
    return [0.0 if math.isinf(own) else first / own for first, own in zip(times["fedavg"], times[name], strict=True)]


def report(times: Times) -> str:
    """Return the table of one split, with the median, the minimum and the maximum."""
    rows = [
        [name, *(f"{of(own):.0f}" for of in (median, min, max)), *(f"{of(ratio):.1f}" for of in (median, min, max))]
        for name, own, ratio in ((name, times[name], speedups(times, name)) for name in times)
    ]
    return table(["algorithm", "seconds", "min", "max", "speed-up", "min", "max"], rows)


def verdict(times: Times, has_target: bool) -> str:
    """Return the speed-up of the best asynchronous algorithm, compared with the target if it applies."""
    best = max(median(speedups(times, name)) for name in SCORED_EVERY)
    within = (
        f"target: at least {MIN_SPEEDUP:g}; {'within' if best >= MIN_SPEEDUP else 'below'} it"
        if has_target
        else "no target"
    )
    return f"the best asynchronous algorithm is {best:.1f} times faster; {within}"
