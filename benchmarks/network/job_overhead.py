"""The 40-round MNIST job over websockets, compared with its floor: plain PyTorch in three processes.

On both sides, three workers train 10 batches of 32 in each round, and 20 models are evaluated on the 10,000 test
images. Each process that trains has one thread. Start-up does not count on either side, and is printed separately. Our
time runs from the line "Training round 1", when all workers are connected, to the line of the last evaluation. The time
of the floor runs from the barrier after its set-up to its last evaluation.

The floor (``benchmarks.network.plain_pytorch``) normalises all images in advance. It evaluates while processes wait
for each other, which was the faster of its two schedules.
"""

from pathlib import Path

from benchmarks.harness.job import PATIENCE, Job
from benchmarks.harness.machine_load import Watch
from benchmarks.harness.pairs import Pair, Run
from benchmarks.harness.processes import Child, Crew
from benchmarks.harness.settings import Settings
from benchmarks.harness.tables import ratios, table

TARGET = 1.10
LIMIT = 400.0
"""Timeout of one run in seconds."""
SCORE = r"Average loss: .*Accuracy: (\d+)/"


def main(settings: Settings) -> None:
    """Run the pairs and print them."""
    rounds = 11 if settings.quick else 40
    models = 4 * len({*range(1, rounds + 1, 10), rounds})
    print(f"floor: {rounds} rounds of MNIST on three workers, {models} evaluations; ours against plain PyTorch")
    pairs, starts = [], []
    for number in range(1, settings.pairs_or(5) + 1):
        ours, our_start, our_score = product(settings.data_dir, rounds, models, f"pair {number}, ours ")
        plain, plain_start, plain_score = floor(settings.data_dir, rounds, models, f"pair {number}, floor")
        pairs.append(Pair(ours, plain))
        starts.append([f"{number}", our_start, plain_start, our_score, plain_score])
    print(ratios("ours", "floor", pairs, TARGET))
    print()
    print("start-up, not in the figures above, and correct predictions of the last federated model (of 10,000)")
    print(table(["pair", "ours s", "floor s", "ours correct", "floor correct"], starts))


def product(data_dir: Path, rounds: int, models: int, what: str) -> tuple[Run, float, int]:
    """Run one job of fedws; return its run, the seconds of its start, and the last model's correct predictions."""
    watch = Watch(what)
    with Crew() as crew:
        flags = [] if rounds == 40 else ["--rounds", str(rounds)]
        job = Job(crew, data_dir, evaluator=True, coordinator_flags=flags)
        client = job.coordinate()
        begun, _ = client.wait_for(rf"Training round 1/{rounds}", PATIENCE)
        watch.begin()
        client.finish(LIMIT)
        scores = client.matches(SCORE)
        if len(scores) != models:
            raise RuntimeError(client.describe_failure(f"printed {len(scores)} scores, expected {models}"))
        last, right = scores[-1]
        run = watch.end(last - begun)
        return run, begun - next(iter(job.nodes.values())).started, int(right[1])


def floor(data_dir: Path, rounds: int, models: int, what: str) -> tuple[Run, float, int]:
    """Run the floor; return its run, the seconds of its start, and the last model's correct predictions."""
    watch = Watch(what)
    with Crew() as crew:
        child: Child = crew.start(
            "floor", "-m", "benchmarks.network.plain_pytorch", str(data_dir), "--rounds", str(rounds)
        )
        begun, _ = child.wait_for("ready", PATIENCE)
        watch.begin()
        _, done = child.wait_for(r"done (\S+)", LIMIT)
        run = watch.end(float(done[1]))
        _, right = child.wait_for(rf"score {models - 1} (\d+)", 1)
        child.finish(30)
        return run, begun - child.started, int(right[1])
