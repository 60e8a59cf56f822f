"""The cost of a checkpoint in every round, with three workers that train nothing.

In a round, the coordinator sends the model to three workers, receives it from them, and averages it, as in
``benchmarks.network.round_overhead``. The figure of a run is the median of its rounds, without the first. In a run
without checkpoints (``benchmarks.harness.without_checkpoints``), ``Checkpoints.save`` does nothing; everything else
is the same. The coordinator sends the next requests before it writes a checkpoint. Writing and sending therefore
overlap in part, and a worker that trains would hide all of the time.

A second table compares one save in this process with its floor. The floor writes as many bytes to the same disk and
waits for it (``fsync``). Both figures depend on the disk. The run directories are in Python's directory of temporary
files.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.harness.job import WORKERS
from benchmarks.harness.machine_load import Watch
from benchmarks.harness.pairs import Pair, Run, added
from benchmarks.harness.processes import Crew
from benchmarks.harness.settings import Settings
from benchmarks.harness.tables import ratios
from benchmarks.network.round_overhead import MODELS, Model, idle, measured
from fedws.recording.checkpoint import Checkpoints

SAVES = 5


def main(settings: Settings) -> None:
    """Run the pairs of both sizes and print them."""
    for model in MODELS:
        rounds = 3 if settings.quick else 2 * model.rounds
        print(f"checkpoint: {len(WORKERS)} workers, {model.name}, {model.size:,} bytes, {rounds} rounds; ", end="")
        print(f"run directories in {tempfile.gettempdir()}")
        pairs, alone = [], []
        for number in range(1, settings.pairs_or(5) + 1):
            stored = run(settings.data_dir, model, rounds, f"pair {number}, with   ", [])
            plugin = ["--plugin", "benchmarks/harness/without_checkpoints.py"]
            pairs.append(Pair(stored, run(settings.data_dir, model, rounds, f"pair {number}, without", plugin)))
            alone.append(one_save(model.size, f"pair {number}, "))
        print(ratios("with", "without", pairs))
        print(f"a checkpoint adds {1000 * added(pairs):.1f} ms to a round that trains nothing (median of {len(pairs)})")
        print()
        print("for comparison: one save alone, against a file of as many bytes and fsync")
        print(ratios("save", "file", alone))
        print()


def run(data_dir: Path, model: Model, rounds: int, what: str, flags: list[str]) -> Run:
    """Run one job, and return its median seconds a round."""
    watch = Watch(what)
    with Crew() as crew:
        return measured(idle(crew, data_dir, model, rounds, coordinator_flags=flags), rounds, watch)


def one_save(size: int, what: str) -> Pair:
    """Save a model of ``size`` bytes, then write as large a file; return the median of several of each."""
    state = {f"part{number}": torch.full((size // 20,), 0.5) for number in range(5)}
    data = bytes(memoryview(torch.cat(list(state.values())).numpy()))  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory(prefix="fedws-bench-") as folder:
        checkpoints, path = Checkpoints(Path(folder) / "checkpoints"), Path(folder) / "file"
        return Pair(
            timed(lambda number: checkpoints.save(number, state, {}), f"{what}save   "),
            timed(lambda number: write(path, data), f"{what}file   "),
        )


def timed(work: Callable[[int], None], what: str) -> Run:
    """Return the median seconds of ``SAVES`` calls, after one call that does not count."""
    watch, seconds = Watch(what), []
    for number in range(SAVES + 1):
        begun = time.perf_counter()
        work(number)
        seconds.append(time.perf_counter() - begun)
    return watch.end(statistics.median(seconds[1:]))


def write(path: Path, data: bytes) -> None:
    """Write a new file and wait until it is on the disk."""
    path.unlink(missing_ok=True)
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
