"""A straggler in real time: six workers on the loopback, the last ten times slower than the others.

An order takes a worker 0.4 s and the slow one 4 s, by the clock (:mod:`benchmarks.simulation.slow_worker`): it trains,
which takes some 20 ms, and sleeps for the rest, so that six do not get in each other's way on two cores. The split of
MNIST is even, the model ``mlp``; learning rate, batch size and batches per order are the defaults, and so are the
strategies' own options but FedBuff's K, a third of the workers. Measured is the wall time from the first order to the
first version that has 90 %, by the run's own ``round`` records. FedAvg's model is scored in every round, the
asynchronous ones after every 6 reports. A ratio is FedAvg's time over the other's with the same seed.
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
"""Strategies, and versions between two scores."""
LIMIT = 600.0
"""Seconds that one run may take."""


def main(settings: Settings) -> None:
    """Run the strategies in turn and print when they got there."""
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
    """One run, ended when its model is good enough."""
    strategy, scored = CHOICES[name]
    watch = Watch(f"seed {seed}, {name:8}")
    with Crew() as crew, tempfile.TemporaryDirectory(prefix="fedws-bench-") as folder:
        workers, evaluator = serve(crew, data_dir)
        nodes = ["--workers", *workers, "--evaluator", evaluator, "--evaluate-worker-models", "0"]
        choice = ["--algorithm", strategy, "--model", "mlp", "--seed", str(seed)]
        rounds = ["--rounds", str(ROUNDS * scored), "--evaluate-every", str(scored)]
        place = ["--run-dir", f"{folder}/run"]
        client = crew.start("coordinator", "run_websocket_client.py", *nodes, *choice, *rounds, *place)
        client.wait_for("(Training round|Model version) 1/", PATIENCE)
        watch.begin()
        client.wait_for(rf"Accuracy: ([{int(10 * target)}-9]\d\d\d|10000)/10000", LIMIT)
        client.stop()
        return watch.end(reached(Path(folder) / "run" / "metrics.jsonl", target))


def serve(crew: Crew, data_dir: Path) -> tuple[list[str], str]:
    """Start the workers and the evaluator; gives ``ID=URL`` of each."""
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
    """Seconds of all versions up to the first that scored at least ``target``."""
    records = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    scores = [record for record in records if record["kind"] == "evaluation" and record["accuracy"] >= target]
    first = min(record["round"] for record in scores)
    return math.fsum(record["seconds"] for record in records if record["kind"] == "round" and record["round"] <= first)
