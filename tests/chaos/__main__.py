"""``python -m tests.chaos --seed 3``: forty rounds of MNIST under faults, with full quorum and with min_results 2."""

import argparse
import asyncio
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.chaos import faults, harness
from tests.chaos.outcome import report
from tests.chaos.programs import Failed
from tests.conftest import MNIST, _root
from tests.helpers.processes import Processes

WORKERS = ("alice", "bob", "charlie")


def main() -> int:
    """Run one federation, or one with each quorum, and return the exit status."""
    flags = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    add = flags.add_argument
    add("--seed", type=int, default=1, help="seed of the faults (1)")
    add("--rounds", type=int, default=40, help="number of rounds (40)")
    add("--faults", type=int, default=45, help="number of faults (45)")
    add("--peer-timeout", type=float, default=2.5, help="seconds after which a node counts as lost (2.5)")
    add("--full", action="store_true", help="run only with full quorum")
    add("--min-results", type=int, default=0, help="run only with this quorum")
    add("--algorithm", default="", help="algorithm instead of fedavg; weights are compared for fedavg only")
    add("--bound", type=float, default=1800, help="timeout of one run in seconds (1800)")
    add("--keep", action="store_true", help="keep the runs and all output, also after a success")
    given = flags.parse_args()
    quorums = ([0] if given.full else []) + ([given.min_results] if given.min_results else [])
    quorums = quorums or ([0] if given.algorithm else [0, 2])
    try:
        data = _root("mnist", MNIST)
    except pytest.skip.Exception as missing:
        print(missing)
        return 2
    return max([_one(given, quorum, data) for quorum in quorums])


def _one(given: argparse.Namespace, quorum: int, data: Path) -> int:
    folder = Path(tempfile.mkdtemp(prefix="fedws-chaos-"))
    drawn = faults.draw(given.seed, given.rounds, WORKERS, count=given.faults, silence=given.peer_timeout, span=0.5)
    mnist = ["--dataset", "mnist"]
    settings = harness.Settings(
        given.rounds,
        WORKERS,
        drawn,
        quorum,
        compare=not (quorum or given.algorithm),
        silence=given.peer_timeout,
        node_flags=mnist,
        run_flags=[*mnist, *(["--algorithm", given.algorithm] if given.algorithm else [])],
        bound=given.bound,
    )
    processes = Processes(folder, {"FEDWS_DATA": str(data)})
    chaos = harness.Chaos(folder, lambda *argv: processes.start("-m", "fedws", *argv), settings, _say)
    who = f"quorum {quorum}" if quorum else given.algorithm or "full quorum"
    _say(
        f"chaos: seed {given.seed}, {who}, {given.rounds} rounds, {len(drawn)} faults, silence {given.peer_timeout:g} s"
    )
    began, failure = time.monotonic(), ""
    try:
        asyncio.run(chaos.run())
    except Failed as failed:
        failure = f"FAILED: {failed}\nwhat is left: {folder}"
    finally:
        processes.close()
    _say(report(chaos.outcome, len(drawn), given.peer_timeout))
    _say(failure or f"every promise held ({time.monotonic() - began:.0f} s, {os.cpu_count()} cores)")
    if given.keep:
        _say(f"what is left: {folder}")
    elif not failure:
        shutil.rmtree(folder)
    return 1 if failure else 0


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
