"""A short run under faults, and one with a quorum: nothing hangs, no round is lost, the weights stay what they are.

``make chaos`` is the long one, on MNIST.
"""

from pathlib import Path

import pytest

from tests.chaos import faults, harness
from tests.processes import Processes

WORKERS = ("alice", "bob")
ROUNDS = 8
SILENCE = 2.0
KINDS = [kind for kind in faults.KINDS if not (kind.long and kind.whom == "evaluator")]


@pytest.mark.parametrize("quorum", [0, 1], ids=["full", "quorum"])
async def test_a_run_survives(quorum: int, tmp_path: Path) -> None:
    drawn = faults.draw(5, ROUNDS, WORKERS, count=10, silence=SILENCE, span=0.3, kinds=KINDS)
    digits = ["--dataset", "digits"]
    settings = harness.Settings(
        ROUNDS,
        WORKERS,
        drawn,
        quorum,
        SILENCE,
        digits,
        [*digits, "--evaluate-every", "4", "--federate-after-n-batches", "4"],
        rate=2e7,
        patience=40,
        bound=110,
    )
    processes = Processes(tmp_path, {})
    try:
        outcome = await harness.Chaos(tmp_path, processes.fork, settings, print).run()
    finally:
        processes.close()
    assert outcome.injected
