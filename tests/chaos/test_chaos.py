"""A short run under faults, and one with a quorum: neither hangs or loses a round, and the weights are the same.

``make chaos`` is the long run, on MNIST.
"""

from pathlib import Path

import pytest

from tests.chaos import faults, harness
from tests.helpers.processes import Processes

WORKERS = ("alice", "bob")
ROUNDS = 8
SILENCE = 2.0
KINDS = {str(kind): kind for kind in faults.KINDS}
FULL = (
    "kill worker",
    "kill evaluator",
    "kill coordinator",
    "kill coordinator as it writes checkpoints/*.part",
    "stop worker within silence",
    "lose coordinator",
    "hold link of worker beyond silence",
    "rst link of worker",
    "rst link of evaluator",
)
QUORUM = (
    "kill worker",
    "kill coordinator",
    "kill coordinator as it writes model.safetensors",
    "lose worker",
    "stop worker beyond silence",
    "stop evaluator within silence",
    "stop coordinator beyond silence",
    "fin link of worker",
    "throttle link of worker",
)


@pytest.mark.parametrize(
    ("quorum", "kinds", "seed"),
    [
        pytest.param(0, FULL, 45, id="full", marks=pytest.mark.long),
        pytest.param(1, QUORUM, 210, id="quorum"),
    ],
)
async def test_a_run_survives(quorum: int, kinds: tuple[str, ...], seed: int, tmp_path: Path) -> None:
    """The seeds draw faults that are spread over the rounds."""
    wanted = [KINDS[kind] for kind in kinds]
    drawn = faults.draw(seed, ROUNDS, WORKERS, count=len(kinds), silence=SILENCE, span=0.3, kinds=wanted)
    digits = ["--dataset", "digits"]
    settings = harness.Settings(
        ROUNDS,
        WORKERS,
        drawn,
        quorum,
        compare=not quorum,
        silence=SILENCE,
        node_flags=digits,
        run_flags=[*digits, "--evaluate-every", "4", "--max-local-batches", "4"],
        rate=2e7,
        patience=60,
        bound=200,
    )
    processes = Processes(tmp_path, {})
    try:
        outcome = await harness.Chaos(tmp_path, processes.fork, settings, print).run()
    finally:
        processes.close()
    assert outcome.injected
