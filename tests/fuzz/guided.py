"""Executions in a process of their own: guided by code coverage with atheris, or at random without it.

A process that crashes or hangs in C is then a finding like others. A file has the figures, and is updated at intervals.
"""

import argparse
import dataclasses
import json
import os
import sys
import time
from pathlib import Path
from random import Random
from typing import Any

WRITE = 2000
"""Number of executions between two updates of the figures."""
FINDINGS = 10
"""Number of findings after which the process ends."""


def main() -> int:
    """Execute inputs until their number or the time in seconds is reached."""
    flags = argparse.ArgumentParser(prog="python -m tests.fuzz.guided", description=__doc__)
    flags.add_argument("--plain", action="store_true", help="without atheris")
    flags.add_argument("--executions", type=int, required=True)
    flags.add_argument("--seconds", type=float, required=True)
    flags.add_argument("--seed", type=int, required=True)
    flags.add_argument("--corpus", type=Path, required=True, help="folder of inputs to begin with")
    flags.add_argument("--figures", type=Path, required=True, help="file to write them to")
    given = flags.parse_args()
    if given.plain:
        return _plain(given)
    import atheris

    with atheris.instrument_imports(include=["fedws"]):
        from tests.fuzz.mutator import mutate
        from tests.fuzz.target import Target

    run = _Run(given, Target())

    def mutated(data: bytes, most: int, seed: int) -> bytes:
        random = Random(seed)
        if random.random() < 0.1:
            return bytes(atheris.Mutate(data, most))
        return mutate(data, random, most)

    limits = [f"-seed={given.seed}", "-max_len=65600", "-timeout=10", "-rss_limit_mb=4096", "-verbosity=0"]
    work = given.figures.parent / "units"
    work.mkdir()
    atheris.Setup(["fuzz", *limits, str(work), str(given.corpus)], run, custom_mutator=mutated)
    atheris.Fuzz()
    return 1  # the run ends the process


def _plain(given: argparse.Namespace) -> int:
    from tests.fuzz.mutator import mutate, seeds
    from tests.fuzz.target import Target

    run, random = _Run(given, Target()), Random(given.seed)
    pool = [*seeds(), *(file.read_bytes() for file in sorted(given.corpus.iterdir()))]
    for data in pool:
        run(data)
    while True:
        data = random.choice(pool)
        for _ in range(random.choice((1, 1, 1, 2))):
            data = mutate(data, random)
        known = len(run.target.figures.outcomes)
        run(data)
        if len(run.target.figures.outcomes) > known:
            pool.append(data)


class _Run:
    """A series of executions that updates the file of figures, and ends the process in time."""

    def __init__(self, given: argparse.Namespace, target: Any) -> None:
        self.target = target
        self._given = given
        self._began = time.monotonic()

    def __call__(self, data: bytes) -> None:
        figures = self.target.figures
        try:
            self.target(data)
        except Exception as error:
            print(f"fuzz: {error}", file=sys.stderr, flush=True)
        seconds = time.monotonic() - self._began
        over = figures.executions >= self._given.executions or seconds > self._given.seconds
        over = over or len(figures.found) >= FINDINGS
        if over or figures.executions % WRITE == 0:
            told = dataclasses.asdict(figures)
            told["outcomes"] = {kind: data.hex() for kind, data in figures.outcomes.items()}
            part = self._given.figures.with_suffix(".part")
            part.write_text(json.dumps({**told, "seconds": seconds}))
            part.replace(self._given.figures)
        if over:
            os._exit(1 if figures.found else 0)


if __name__ == "__main__":
    sys.exit(main())
