"""What a run has left behind, held against what it promised."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import safetensors.torch
import torch

from tests.support import recorded

ROUND = re.compile(r"(?:Training round|Model version) (\d+)/")
GOES_ON = re.compile(r"Going on after round (\d+) of")
LEFT_BEHIND = ("checkpoints", "awaiting_scores", ".lock", "*.part")
"""What is in no directory of a run that has ended."""


def record_problems(run: Path, rounds: int) -> list[str]:
    """What is wrong with the record of a run that has come to its end."""
    problems = []
    told = recorded(run)
    numbers = [record["round"] for record in told if record["kind"] == "round"]
    if numbers != list(range(1, rounds + 1)):
        problems.append(f"the rounds on record are {numbers}")
    scores = Counter((record["round"], record["model"]) for record in told if record["kind"] == "score")
    problems += [f"{place} was scored {count} times" for place, count in scores.items() if count > 1]
    titles = [int(found[1]) for line in (run / "run.log").read_text().splitlines() if (found := ROUND.search(line))]
    if titles != list(range(1, rounds + 1)):
        problems.append(f"the rounds in run.log are {titles}")
    problems += [f"{path} is left behind" for pattern in LEFT_BEHIND for path in run.glob(pattern)]
    return problems


def lost_rounds(printed: Sequence[Sequence[str]]) -> list[str]:
    """What each start of the coordinator forgot of the one before: a round whose successor had begun was complete.

    >>> lost_rounds([["Training round 7/9"], ["Going on after round 5 of 9"]])
    ['after round 7 had begun the run went on after round 5']
    """
    problems, begun = [], 0
    for lines in printed:
        for line in lines:
            if (found := GOES_ON.search(line)) and int(found[1]) < begun - 1:
                problems.append(f"after round {begun} had begun the run went on after round {found[1]}")
            if found := ROUND.search(line):
                begun = max(begun, int(found[1]))
    return problems


def same(one: Path, other: Path) -> bool:
    """Equal names, dtypes, shapes and bits."""
    models = [safetensors.torch.load_file(path) for path in (one, other)]
    return models[0].keys() == models[1].keys() and all(
        (a.dtype, a.shape) == (b.dtype, b.shape) and torch.equal(_bits(a), _bits(b))
        for a, b in ((models[0][name], models[1][name]) for name in models[0])
    )


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.reshape(-1).view(torch.uint8)
