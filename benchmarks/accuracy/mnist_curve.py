"""The accuracy of the demo by rounds: the 40-round MNIST job with default flags, seeds 1 to 5, and published runs.

The figures are accuracies, not times, so the load of the machine does not affect them. The benchmark also checks that
after round 1 every worker's own model predicts only digits that the worker holds.
"""

import json
from statistics import median

from benchmarks.harness.job import WORKERS, Job
from benchmarks.harness.processes import Crew
from benchmarks.harness.settings import Settings
from benchmarks.harness.tables import table
from benchmarks.network.job_overhead import LIMIT

SCORED = (1, 11, 21, 31, 40)
MEDIAN, EACH = 95.5, 94.5
PUBLISHED = (
    ("the article", (17.19, 86.93, 94.27, 94.49, 95.92)),
    ("notebook, Oct 2019", (9.58, 82.83, 91.18, 94.27, 95.63)),
    ("notebook, Dec 2019", (15.17, 88.09, 93.95, 95.73, 95.96)),
)


def main(settings: Settings) -> None:
    """Run the seeds, and print their accuracies."""
    seeds = range(1, 3) if settings.quick else range(1, 6)
    print(f"curve: federated accuracy in percent, MNIST, 40 rounds, default flags, seeds 1-{seeds[-1]}")
    curves = [curve(settings, seed) for seed in seeds]
    rows: list[list[str | float]] = [[f"seed {seed}", *values] for seed, values in zip(seeds, curves, strict=True)]
    rows += [[name, *values] for name, values in PUBLISHED]
    print(table(["run", *(f"r{round_number}" for round_number in SCORED)], rows))
    last = [values[-1] for values in curves]
    good = median(last) >= MEDIAN and min(last) >= EACH
    print(f"round 40: median {median(last):.2f}, min {min(last):.2f}; target: at least {MEDIAN} and {EACH}; ", end="")
    print("within it" if good else "below it")


def curve(settings: Settings, seed: int) -> list[float]:
    """Return one run's federated accuracies in percent after the rounds ``SCORED``.

    Raise RuntimeError if a model predicts digits that its worker does not hold.
    """
    with Crew() as crew:
        job = Job(crew, settings.data_dir, evaluator=True, coordinator_flags=["--seed", str(seed)])
        client = job.coordinate()
        client.finish(LIMIT)
        scores = {(record["round"], record["model"]): record for record in job.records("evaluation")}
        held = json.loads((job.run_dir / "worker_labels.json").read_text(encoding="utf-8"))
    for worker in WORKERS:
        histogram = scores[1, worker]["predicted_label_counts"]
        if sum(histogram[label] for label in held[worker]) != sum(histogram):
            raise RuntimeError(f"seed {seed}: after round 1 {worker} predicts {histogram}, but has only {held[worker]}")
    return [100 * scores[round_number, "federated"]["accuracy"] for round_number in SCORED]
