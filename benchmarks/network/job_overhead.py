"""Near the floor: the 40-round MNIST job over websockets against plain PyTorch in three processes.

Both sides train 10 batches of 32 on three workers in each round and score 20 models on the 10,000 test images, with one
thread a process. Start-up is left out on both sides and printed apart: our time runs from the line "Training round 1"
(all workers are linked) to the line of the last score; the floor's from the barrier after its set-up to its last score.
The floor (:mod:`benchmarks.network.plain_pytorch`) has all images normalised beforehand and scores while processes wait
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
"""Seconds that one run may take."""
SCORE = r"Average loss: .*Accuracy: (\d+)/"


def main(settings: Settings) -> None:
    """Run the pairs and print them."""
    rounds = 11 if settings.quick else 40
    models = 4 * len({*range(1, rounds + 1, 10), rounds})
    print(f"floor: {rounds} rounds of MNIST on three workers, {models} scorings; ours against plain PyTorch")
    pairs, starts = [], []
    for number in range(1, settings.pairs_or(5) + 1):
        ours, our_start, our_score = product(settings.data_dir, rounds, models, f"pair {number}, ours ")
        plain, plain_start, plain_score = floor(settings.data_dir, rounds, models, f"pair {number}, floor")
        pairs.append(Pair(ours, plain))
        starts.append([f"{number}", our_start, plain_start, our_score, plain_score])
    print(ratios("ours", "floor", pairs, TARGET))
    print()
    print("start-up, not in the figures above, and how many of 10,000 the last federated model gets right")
    print(table(["pair", "ours s", "floor s", "ours right", "floor right"], starts))


def product(data_dir: Path, rounds: int, models: int, what: str) -> tuple[Run, float, int]:
    """One job of ours: its run, the seconds before it, and what its last model gets right."""
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
            raise RuntimeError(client.complaint(f"printed {len(scores)} scores, not {models}"))
        last, right = scores[-1]
        run = watch.end(last - begun)
        return run, begun - next(iter(job.nodes.values())).started, int(right[1])


def floor(data_dir: Path, rounds: int, models: int, what: str) -> tuple[Run, float, int]:
    """The same of the floor."""
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
