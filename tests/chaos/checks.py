"""Checks of a run under faults: its record, its files and the lines that its programs printed."""

import re
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from tests.chaos.faults import COORDINATOR
from tests.chaos.outcome import Outcome
from tests.chaos.programs import Program
from tests.helpers.processes import Command
from tests.helpers.support import recorded

ROUND = re.compile(r"(?:Training round|Model version) (\d+)/")
RESUMED = re.compile(r"Resumed after round (\d+) of")
STAMPED = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}) \| (.*)")
LEFT_BEHIND = ("checkpoints/*.part", "pending_evaluations", ".lock", "*.part")
"""Patterns of files that the directory of an ended run must not contain."""


def check_run(outcome: Outcome, folder: Path, rounds: int, compare: bool, programs: Sequence[Program]) -> None:
    """Check the files of a run and the output of its programs, and add each problem to the outcome.

    With ``compare``, also compare them with the run without faults. The last program is the coordinator.
    """
    run = folder / "run"
    outcome.problems += record_problems(run, rounds)
    outcome.problems += lost_rounds([command.lines for command in programs[-1].incarnations])
    told = recorded(run)
    for program in programs:
        for command in program.incarnations:
            if command not in program.killed and command._wait(0) not in (0, None):
                outcome.problems.append(f"{program.name} ended with status {command._wait(0)}")
            outcome.problems += [f"{program.name}: {line}" for line in command.errors]
    scores = [record for record in told if record["kind"] == "evaluation"]
    federated = [score for score in scores if score["model"] == "federated"]
    outcome.accuracy = federated[-1]["accuracy"] if federated else None
    outcome.scores = len(scores)
    outcome.partial = sum(bool(record.get("missing_workers")) for record in told)
    if compare:
        _compare(outcome, folder, scores)


def _compare(outcome: Outcome, folder: Path, scores: Sequence[dict[str, Any]]) -> None:
    """Compare the weights and every score with those of the run without faults."""
    reference, run = folder / "reference", folder / "run"
    outcome.equal = same(reference / "model.safetensors", run / "model.safetensors")
    if not outcome.equal:
        outcome.problems.append("the weights are not those of the run without faults")
    wanted = {
        (record["round"], record["model"]): (record["num_correct"], record["predicted_label_counts"])
        for record in recorded(reference, "evaluation")
    }
    outcome.due = len(wanted)
    for score in scores:
        place = score["round"], score["model"]
        if wanted.get(place) != (score["num_correct"], score["predicted_label_counts"]):
            outcome.problems.append(f"the score of {place} is not that of the run without faults")


def measure_delays(outcome: Outcome, coordinator: Program) -> None:
    """Measure, from the coordinator's log lines, the delays until faults were detected and runs were resumed."""
    lines = [_stamped(command) for command in coordinator.incarnations]
    rounds = [at for told in lines for at, text in told if ROUND.search(text)]
    outcome.last = max([outcome.last, *rounds])
    for began, told in list(zip(coordinator.began, lines, strict=True))[1:]:
        first = next((at for at, text in told if ROUND.search(text)), None)
        if first is not None:
            outcome.resumed.append(first - began)
    for number, (fault, at) in enumerate((done.fault, done.at) for done in outcome.injected):
        if fault.kind.whom != "worker" or not (fault.kind.what in ("kill", "lose") or fault.kind.long):
            continue
        # Stop at the next fault of the worker or the coordinator, which may be the cause of the line.
        later = [done.at for done in outcome.injected[number + 1 :] if done.fault.target in (fault.target, COORDINATOR)]
        until = min(later, default=float("inf"))
        left = re.compile(rf"^{fault.target} has left")
        found = [t for told in lines for t, text in told if at - 0.001 <= t < until and left.search(text)]
        if found:
            outcome.detected.setdefault(str(fault.kind), []).append(found[0] - at)


def record_problems(run: Path, rounds: int) -> list[str]:
    """Return what is wrong with the record of a run that has ended."""
    problems = []
    told = recorded(run)
    numbers = [record["round"] for record in told if record["kind"] == "round"]
    if numbers != list(range(1, rounds + 1)):
        problems.append(f"the rounds on record are {numbers}")
    scores = Counter((record["round"], record["model"]) for record in told if record["kind"] == "evaluation")
    problems += [f"{place} was scored {count} times" for place, count in scores.items() if count > 1]
    titles = [int(found[1]) for line in (run / "run.log").read_text().splitlines() if (found := ROUND.search(line))]
    if titles != list(range(1, rounds + 1)):
        problems.append(f"the rounds in run.log are {titles}")
    checkpoints = [path.name for path in run.glob("checkpoints/*.safetensors")]
    if checkpoints != [f"checkpoint-{rounds:06}.safetensors"]:
        problems.append(f"the checkpoints are {checkpoints}")
    problems += [f"{path} is left behind" for pattern in LEFT_BEHIND for path in run.glob(pattern)]
    return problems


def lost_rounds(printed: Sequence[Sequence[str]]) -> list[str]:
    """Return the rounds that a restart of the coordinator lost.

    A round is complete once the next round has started.

    >>> lost_rounds([["Training round 7/9"], ["Resumed after round 5 of 9"]])
    ['round 7 had started, but the run resumed after round 5']
    """
    problems, begun = [], 0
    for lines in printed:
        for line in lines:
            if (found := RESUMED.search(line)) and int(found[1]) < begun - 1:
                problems.append(f"round {begun} had started, but the run resumed after round {found[1]}")
            if found := ROUND.search(line):
                begun = max(begun, int(found[1]))
    return problems


def same(one: Path, other: Path) -> bool:
    """Return whether two models have equal names, dtypes, shapes and bits."""
    models = [safetensors.torch.load_file(path) for path in (one, other)]
    return models[0].keys() == models[1].keys() and all(
        (a.dtype, a.shape) == (b.dtype, b.shape) and torch.equal(_bits(a), _bits(b))
        for a, b in ((models[0][name], models[1][name]) for name in models[0])
    )


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.reshape(-1).view(torch.uint8)


def _stamped(command: Command) -> list[tuple[float, str]]:
    found = (STAMPED.fullmatch(line) for line in command.lines)
    return [(datetime.strptime(match[1], "%Y-%m-%d %H:%M:%S,%f").timestamp(), match[2]) for match in found if match]
