"""The outcome of a run under faults, as numbers and as a report."""

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.chaos.faults import Fault


@dataclass(frozen=True)
class Done:
    """A fault that was injected."""

    fault: Fault
    at: float
    """Time of the fault, by the clock of log lines."""


@dataclass
class Outcome:
    """The outcome of a run under faults."""

    injected: list[Done] = field(default_factory=list)
    kills: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    fault_free: float | None = None
    """Seconds of the run without faults; None if there was none."""
    accuracy: float | None = None
    equal: bool | None = None
    """True if the weights equal those of the run without faults; None if they were not compared."""
    scores: int = 0
    """Number of evaluated models."""
    due: int = 0
    """Number of models that had to be evaluated."""
    partial: int = 0
    """Number of rounds that closed without the result of every worker."""
    detected: dict[str, list[float]] = field(default_factory=dict)
    """Seconds from a fault to the log line that the worker has left, by the kind of the fault."""
    resumed: list[float] = field(default_factory=list)
    """Seconds from the start of ``--resume`` to the line of its first round."""
    last: float = 0.0
    """Time at which the last round started or the run ended, by the clock of log lines."""
    problems: list[str] = field(default_factory=list)
    """Descriptions of the broken guarantees."""


def report(outcome: Outcome, drawn: int, silence: float) -> str:
    """Return the outcome as text; ``drawn`` is the number of faults in the plan."""
    injected = Counter(str(done.fault.kind) for done in outcome.injected)
    survived = Counter(str(done.fault.kind) for done in outcome.injected if done.at < outcome.last)
    kills = ", ".join(f"{name} {count}" for name, count in sorted(outcome.kills.items())) or "none"
    rows = [
        f"{len(outcome.injected)} of {drawn} faults injected; the others found no target",
        *(f"  {count:3} {kind}, {survived[kind]} survived" for kind, count in sorted(injected.items())),
        f"killed and restarted: {kills}",
    ]
    for kind, seconds in sorted(outcome.detected.items()):
        rows.append(f"from '{kind}' to the line that it has left: {_spread(seconds)}; silence {silence:g} s")
    rows += ["  (lines of a run wait for the scores of the round before them)"] if outcome.detected else []
    rows.append(f"from --resume to its first round: {_spread(outcome.resumed)}")
    free = "" if outcome.fault_free is None else f", {outcome.fault_free:.1f} s without faults"
    due = f" of {outcome.due}" if outcome.due else ""
    scored = f"{outcome.scores}{due} models scored"
    rows.append(f"{outcome.seconds:.1f} s{free}; {scored}; {outcome.partial} rounds without some worker")
    accuracy = "none" if outcome.accuracy is None else f"{100 * outcome.accuracy:.2f} %"
    equal = {None: "", True: "; weights equal, bit for bit", False: "; weights DIFFER"}[outcome.equal]
    rows.append(f"accuracy {accuracy}{equal}")
    return "\n".join(rows)


def _spread(seconds: Sequence[float]) -> str:
    if not seconds:
        return "never seen"
    return f"median {statistics.median(seconds):.2f} s, {min(seconds):.2f} to {max(seconds):.2f} s ({len(seconds)})"
