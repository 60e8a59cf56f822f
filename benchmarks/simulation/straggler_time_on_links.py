"""A straggler in real time: six workers on the loopback interface, of which the last is ten times slower.

A request takes 0.4 s of wall time, and 4 s on the slow worker (``benchmarks.simulation.slow_worker``). Training
takes about 20 ms of it; the worker sleeps for the rest. Six workers therefore do not slow each other down on two cores.

The split of MNIST is even, and the model is ``mlp``. Learning rate, batch size and batches per request are the
defaults, and so are the algorithms' own options. The only exception is FedBuff's K, a third of the workers.

The figure is the wall time from the first request to the first version with 90 % accuracy, from the run's own ``round``
records. FedAvg's model is evaluated in every round, the asynchronous ones after every 6 results. A ratio is FedAvg's
time divided by the other's time with the same seed.
"""

import json
import math
import tempfile
from pathlib import Path

from benchmarks.harness.job import EVALUATOR, PATIENCE
from benchmarks.harness.machine_load import Watch
from benchmarks.harness.pairs import Pair, Run
from benchmarks.harness.processes import Crew
from benchmarks.harness.settings import Settings
from benchmarks.harness.tables import ratios

WORKERS, SECONDS, SLOWER, ROUNDS = 6, 0.4, 10, 100
CHOICES = {"fedavg": ("fedavg", 1), "fedbuff": ("fedbuff:buffer_size=2", 3), "fedasync": ("fedasync", 6)}
"""Algorithm of each name, and number of versions between two evaluations."""
LIMIT = 600.0
"""Timeout of one run in seconds."""


def main(settings: Settings) -> None:
    """Run the algorithms in turn and print their times."""
    target = 0.5 if settings.quick else 0.9
    print(f"stragglers-real: wall time to {target:.0%}, {WORKERS} workers, one {SLOWER} times slower, mlp")
    runs: dict[str, list[Run]] = {name: [] for name in CHOICES}
    for seed in range(1, settings.pairs_or(3) + 1):
        for name in CHOICES:
            runs[name].append(run(settings.data_dir, name, seed, target))
    for name in ("fedbuff", "fedasync"):
        pairs = [Pair(first, other) for first, other in zip(runs["fedavg"], runs[name], strict=True)]
        print(ratios("fedavg", name, pairs))
        print()


def run(data_dir: Path, name: str, seed: int, target: float) -> Run:
    """Run one job, end it when its model is good enough, and return the run."""
    algorithm, every = CHOICES[name]
    watch = Watch(f"seed {seed}, {name:8}")
    with Crew() as crew, tempfile.TemporaryDirectory(prefix="fedws-bench-") as folder:
        workers, evaluator = serve(crew, data_dir)
        nodes = ["--workers", *workers, "--evaluator", evaluator, "--evaluate-worker-models", "0"]
        choice = ["--algorithm", algorithm, "--model", "mlp", "--seed", str(seed)]
        rounds = ["--rounds", str(ROUNDS * every), "--evaluate-every", str(every)]
        place = ["--run-dir", f"{folder}/run"]
        client = crew.start("coordinator", "run_websocket_client.py", *nodes, *choice, *rounds, *place)
        client.wait_for("(Training round|Model version) 1/", PATIENCE)
        watch.begin()
        client.wait_for(rf"Accuracy: ([{int(10 * target)}-9]\d\d\d|10000)/10000", LIMIT)
        client.stop()
        return watch.end(reached(Path(folder) / "run" / "metrics.jsonl", target))


def serve(crew: Crew, data_dir: Path) -> tuple[list[str], str]:
    """Start the workers and the evaluator, and return ``ID=URL`` of each."""
    place = ["--host", "127.0.0.1", "--port", "0", "--data-dir", str(data_dir)]
    names = [f"w{number}" for number in range(1, WORKERS + 1)]
    nodes = {}
    for number, name in enumerate(names):
        seconds = SECONDS * (SLOWER if number == WORKERS - 1 else 1)
        share = f"{number}/{WORKERS}"
        nodes[name] = crew.start(
            name, "-m", "benchmarks.simulation.slow_worker", name, share, str(seconds), str(data_dir)
        )
    nodes[EVALUATOR] = crew.start(EVALUATOR, "run_websocket_server.py", "--id", EVALUATOR, "--evaluator", *place)
    urls = {name: child.wait_for(r"serving.*(ws://\S+)", PATIENCE)[1][1] for name, child in nodes.items()}
    return [f"{name}={urls[name]}" for name in names], f"{EVALUATOR}={urls[EVALUATOR]}"


def reached(metrics: Path, target: float) -> float:
    """Return the seconds of all versions up to the first with an accuracy of at least ``target``."""
    records = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    scores = [record for record in records if record["kind"] == "evaluation" and record["accuracy"] >= target]
    first = min(record["round"] for record in scores)
    return math.fsum(record["seconds"] for record in records if record["kind"] == "round" and record["round"] <= first)
