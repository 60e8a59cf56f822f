"""The coordinator's memory by the number of workers: 10 to 1,000, with the 1.7 MB model and the mean.

The figure is the growth of a process's peak memory (VmHWM) over the rounds, measured from the start of the first one:

- scheduler: only the scheduler (``benchmarks.simulation.scheduler_memory``), with results that are made one at a
  time.
- in turn: a whole coordinator, ``run_websocket_client.py``, with its links, queue, record and checkpoints. Its workers
  train nothing and answer at random moments. The average rate is 25 answers a second, which two cores can process.
- at once: the same, but all workers answer as soon as they can. This is the worst case, in which results queue up.

The workers are websocket servers in four other processes (``benchmarks.network.idle_workers``), whose memory does
not count. A slope is a least-squares fit of the growth to the number of workers, in bytes per worker.
"""

import tempfile
from pathlib import Path
from statistics import linear_regression

from benchmarks.harness.job import PATIENCE
from benchmarks.harness.machine_load import Watch
from benchmarks.harness.processes import Child, Crew
from benchmarks.harness.settings import Settings
from benchmarks.harness.tables import table

COUNTS, ROUNDS, HOSTS = (10, 100, 300, 1000), 4, 4
APART = 0.04
"""Average time in seconds between two answers of workers that answer in turn."""
LIMIT = 900.0
"""Timeout of one run in seconds."""
MODEL_BYTES = 1_724_320
FLAT = 0.05
"""Largest flat slope as a part of a model per worker; it is too small to contain a tensor."""


def main(settings: Settings) -> None:
    """Print the growth for every number of workers, and the slopes."""
    counts, rounds = ((10, 30), 3) if settings.quick else (COUNTS, ROUNDS)
    print(f"memory: growth of the coordinator's peak over {rounds - 1} rounds of mnist_cnn, {MODEL_BYTES:,} bytes")
    grown = {
        "scheduler": [scheduler(count, rounds - 1) for count in counts],
        "in turn": [coordinator(count, rounds, APART) for count in counts],
        "at once": [coordinator(count, rounds, 0) for count in counts],
    }
    rows = [[f"{count}", *(of[place] / 1e6 for of in grown.values())] for place, count in enumerate(counts)]
    print(table(["workers", *(f"{name} MB" for name in grown)], rows))
    for name, sizes in grown.items():
        print(f"{name}: {verdict(counts, sizes)}")


def verdict(counts: tuple[int, ...], sizes: list[int]) -> str:
    """Return a description of the slope, compared with its target.

    >>> verdict((10, 20), [0, 1_724_320])
    '172,432 bytes a worker, 0.1000 of a model; target: at most 0.05; above it'
    """
    slope, _ = linear_regression(counts, sizes)
    within = "within" if slope <= FLAT * MODEL_BYTES else "above"
    return f"{slope:,.0f} bytes a worker, {slope / MODEL_BYTES:.4f} of a model; target: at most {FLAT}; {within} it"


def scheduler(count: int, rounds: int) -> int:
    """Return the growth in bytes of the peak memory of the scheduler's process."""
    with Crew() as crew:
        child = crew.start("feed", "-m", "benchmarks.simulation.scheduler_memory", str(count), str(rounds))
        child.finish(LIMIT)
        before, after = (int(found[1]) for _, found in child.matches(r"bytes (\d+)"))
        return after - before


def coordinator(count: int, rounds: int, apart: float) -> int:
    """Return the growth in bytes of a coordinator's peak memory, up to the start of the last round."""
    watch = Watch(f"{count:4} workers, {'in turn' if apart else 'at once'}")
    with Crew() as crew, tempfile.TemporaryDirectory(prefix="fedws-bench-") as folder:
        workers = serve(crew, count, count * apart)
        choice = [
            "--algorithm",
            "noop",
            "--plugin",
            "benchmarks/harness/noop_algorithm.py",
            "--rounds",
            str(rounds),
        ]
        place = ["--evaluator", "none", "--run-dir", str(Path(folder) / "run")]
        child = crew.start("coordinator", "run_websocket_client.py", "--workers", *workers, *choice, *place)
        child.wait_for(f"Training round 1/{rounds}", PATIENCE)
        watch.begin()
        before = child.peak
        child.wait_for(f"Training round {rounds}/{rounds}", LIMIT)  # what follows the last round does not count
        after = child.peak
        watch.end()
        return after - before


def serve(crew: Crew, count: int, seconds: float, join: str = "") -> list[str]:
    """Start ``count`` workers, and return ``ID=URL`` of each.

    They dial out to the URL ``join`` if it is given. Each answers within ``seconds``, at a random moment.
    """
    each = -(-count // HOSTS)
    hosts: list[Child] = []
    for first in range(1, count + 1, each):
        share = min(each, count + 1 - first)
        hosts.append(
            crew.start(
                "crowd",
                "-m",
                "benchmarks.network.idle_workers",
                str(first),
                str(share),
                str(seconds),
                *filter(None, [join]),
            )
        )
    for host in hosts:
        host.wait_for("all workers are serving", PATIENCE)
    return [found[1] for host in hosts for _, found in host.matches(r"worker (\S+)")]
