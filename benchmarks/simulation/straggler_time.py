"""Stragglers, in virtual time: how soon each strategy makes a model of 90 % where a few devices are very slow.

Thirty devices of a simulated fleet share MNIST. A device is slower than the fastest by a factor drawn once for each
from Pareto's distribution with alpha 1.5; the fastest takes 32 s for an order. Training is real (the model is ``mlp``,
199,210 parameters), time is not, and messages take none of it. All strategies have the same learning rate, batch size
and batches per order, the product's defaults, and their own options as in the papers; nothing was tuned. FedAvg's
model is scored in every round, the asynchronous ones after every 10 reports; scoring takes no virtual time.

A ratio is FedAvg's time over another's on the same seed: the same devices, samples and initial model. Beside it stands
FedAvg that closes a round with the first 20 of 30 reports. In the split by digits the devices hold what alice, bob and
charlie hold, in turn. The load of the machine does not touch these figures; as many runs go on as there are cores.
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

DEVICES, ROUNDS, SOONER = 30, 200, 3.0
CHOICES: dict[str, dict[str, Any]] = {
    "fedavg": {"algorithm": "fedavg"},
    "fedavg, 20 of 30": {"algorithm": "fedavg", "sampler": "random:per_round=20", "over_selection": 0.5},
    "fedbuff": {"algorithm": "fedbuff:buffer_size=10,server_lr=1"},
    "fedasync": {"algorithm": "fedasync:alpha=0.6,staleness_function=polynomial,exponent=0.5,mu=0.005"},
}
SCORED_EVERY = {"fedbuff": 1, "fedasync": 10}
"""Versions between two scores: 10 reports."""
SPLITS = {"iid": True, "dirichlet:0.5": True, "digits": False}
"""Partitions, and whether the target is meant for them."""
Times = dict[str, list[float]]
"""Virtual seconds by strategy, one for each seed; infinite where the target was never reached."""


@dataclass(frozen=True)
class Case:
    """One run."""

    data_dir: Path
    split: str
    name: str
    seed: int
    target: float


def main(settings: Settings) -> None:
    """Simulate every strategy on every split and seed, and print when it got there."""
    seeds, target = (range(1, 2), 0.5) if settings.quick else (range(1, 6), 0.9)
    print(f"stragglers: virtual seconds to {target:.0%}, {DEVICES} devices, pareto:1.5, mlp, seeds 1-{seeds[-1]}")
    for name, choice in CHOICES.items():
        print(f"  {name}: {', '.join(f'{key} {value}' for key, value in choice.items())}")
    cases = [
        Case(settings.data_dir, split, name, seed, target) for split in SPLITS for name in CHOICES for seed in seeds
    ]
    with multiprocessing.get_context("spawn").Pool(initializer=torch.set_num_threads, initargs=(1,)) as pool:
        found = pool.imap(simulate, cases)
        for split, meant in SPLITS.items():
            times = {name: [next(found) for _ in seeds] for name in CHOICES}
            print(f"\n{split}\n{report(times)}\n{verdict(times, meant)}", flush=True)


def simulate(case: Case) -> float:
    """Virtual seconds until the model was good enough; infinite when it never was. Raises RuntimeError."""
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


def sooner(times: Times, name: str) -> list[float]:
    """FedAvg's times over another's, seed by seed; 0 where the other never got there.

    >>> sooner({"fedavg": [6.0, 8.0], "fedbuff": [3.0, math.inf]}, "fedbuff")
    [2.0, 0.0]
    """
    return [0.0 if math.isinf(own) else first / own for first, own in zip(times["fedavg"], times[name], strict=True)]


def report(times: Times) -> str:
    """The table of one split: medians, with the least and the greatest."""
    rows = [
        [name, *(f"{of(own):.0f}" for of in (median, min, max)), *(f"{of(ratio):.1f}" for of in (median, min, max))]
        for name, own, ratio in ((name, times[name], sooner(times, name)) for name in times)
    ]
    return table(["algorithm", "seconds", "min", "max", "times sooner", "min", "max"], rows)


def verdict(times: Times, meant: bool) -> str:
    """How much sooner the best asynchronous strategy is."""
    best = max(median(sooner(times, name)) for name in SCORED_EVERY)
    within = f"target: at least {SOONER:g}; {'within' if best >= SOONER else 'below'} it" if meant else "no target"
    return f"the best asynchronous one is {best:.1f} times sooner; {within}"
