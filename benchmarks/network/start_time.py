"""The start of a worker, from the command ``run_websocket_server.py`` to its line "serving", against ``import torch``.

The peer is ``python -c "import torch"``, timed until its process ends. A further figure is the ratio to the moment when
the import is done, which leaves out the end of the interpreter. One unmeasured start of each comes first, so that all
files are cached and compiled. The benchmark also checks that a worker of MNIST does not import torchvision, which takes
seconds.
"""

from pathlib import Path

from benchmarks.harness.job import PATIENCE, free_ports
from benchmarks.harness.machine_load import Watch
from benchmarks.harness.pairs import Pair, Run, Summary
from benchmarks.harness.processes import Child, Crew
from benchmarks.harness.settings import Settings
from benchmarks.harness.tables import ratios

IMPORT = "import torch; print('imported', flush=True)"


def main(settings: Settings) -> None:
    """Run the pairs and print them."""
    print('start: from run_websocket_server.py to "serving", against python -c "import torch"')
    with Crew() as crew:
        worker(crew, settings.data_dir)
        crew.start("torch", "-c", IMPORT).finish(PATIENCE)
    pairs, imported = [], []
    for number in range(1, settings.pairs_or(7) + 1):
        ours = serving(settings.data_dir, f"pair {number}, ours ")
        theirs, moment = importing(f"pair {number}, torch")
        pairs.append(Pair(ours, theirs))
        imported.append(ours.seconds / moment)
    print(ratios("ours", "torch", pairs))
    print(f"ratio to the moment when torch is imported: {Summary.of(imported)}")
    unexpected = torchvision(settings.data_dir)
    verdict = " (expected 0)" if unexpected else ""
    print(f"modules of torchvision that a worker of MNIST imports: {len(unexpected)}{verdict}")


def worker(crew: Crew, data_dir: Path, *python: str) -> tuple[Child, float]:
    """Start a worker; return its process, and the seconds until it serves."""
    place = ["--host", "127.0.0.1", "--port", str(free_ports(1)[0]), "--data-dir", str(data_dir)]
    child = crew.start("alice", *python, "run_websocket_server.py", "--id", "alice", *place)
    at, _ = child.wait_for("serving.*ws://", PATIENCE)
    return child, at - child.started


def serving(data_dir: Path, what: str) -> Run:
    """Time one start of a worker."""
    watch = Watch(what)
    with Crew() as crew:
        _, seconds = worker(crew, data_dir)
        return watch.end(seconds)


def importing(what: str) -> tuple[Run, float]:
    """Import torch in a process; return its run, and the seconds until the import is done."""
    watch = Watch(what)
    with Crew() as crew:
        child = crew.start("torch", "-c", IMPORT)
        at, _ = child.wait_for("imported", PATIENCE)
        return watch.end(child.finish(PATIENCE) - child.started), at - child.started


def torchvision(data_dir: Path) -> set[str]:
    """Return the names of the modules of torchvision that a worker has imported when it serves."""
    with Crew() as crew:
        child, _ = worker(crew, data_dir, "-X", "importtime")
        return {found[1] for _, found in child.matches(r"^import time:.*\|\s+(torchvision\S*)")}
