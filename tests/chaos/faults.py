"""Faults of a run, drawn from a seed: the kind, the target, the time and the duration."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

from tests.chaos.proxy import WAYS, Way

What = Literal["kill", "lose", "stop", "hold", "throttle", "rst", "fin"]
Whom = Literal["worker", "evaluator", "coordinator"]

COORDINATOR = "coordinator"
EVALUATOR = "testing"


@dataclass(frozen=True)
class Kind:
    """A kind of fault and its weight in the draw; a program that is lost is killed without closing its links."""

    what: What
    whom: Whom
    long: bool = False
    """True if the fault lasts longer than the silence after which a node counts as lost."""
    weight: int = 1
    amid: str = ""
    """Pattern of a file of the run; the fault starts when such a file exists, possibly after its time."""

    def __str__(self) -> str:
        if self.amid:
            return f"{self.what} {self.whom} as it writes {self.amid}"
        lasting = (" beyond" if self.long else " within") + " silence" if self.what in ("stop", "hold") else ""
        link = "link of " if self.what not in ("kill", "lose", "stop") else ""
        return f"{self.what} {link}{self.whom}{lasting}"


KINDS = (
    Kind("kill", "worker", weight=4),
    Kind("kill", "evaluator", weight=2),
    Kind("kill", "coordinator", weight=4),
    Kind("kill", "coordinator", amid="checkpoints/*.part"),
    Kind("kill", "coordinator", amid="pending_evaluations/*.part"),
    Kind("kill", "coordinator", amid="model.safetensors"),
    Kind("lose", "worker", weight=2),
    Kind("lose", "evaluator"),
    Kind("lose", "coordinator", weight=2),
    Kind("stop", "worker", weight=2),
    Kind("stop", "worker", long=True, weight=2),
    Kind("stop", "evaluator"),
    Kind("stop", "evaluator", long=True),
    Kind("stop", "coordinator"),
    Kind("stop", "coordinator", long=True, weight=2),
    Kind("rst", "worker", weight=2),
    Kind("fin", "worker", weight=2),
    Kind("hold", "worker"),
    Kind("hold", "worker", long=True, weight=2),
    Kind("throttle", "worker", weight=2),
    Kind("rst", "evaluator"),
    Kind("fin", "evaluator"),
    Kind("hold", "evaluator", long=True),
)


@dataclass(frozen=True)
class Fault:
    """One fault of a program or of its link."""

    kind: Kind
    target: str
    round: int
    """Round after whose log line the delay starts."""
    after: float
    """Delay in seconds."""
    seconds: float = 0.0
    """Duration in seconds.

    Afterwards a killed program is restarted, a stopped one continues, and held bytes are passed on.
    """
    again: float | None = None
    """Seconds from the restart of a killed program until it is killed once more; None for never."""
    bytes: int = 0
    """Number of bytes after which a link is cut."""
    rate: float = float("inf")
    """Rate of a throttled link in bytes per second."""
    ways: tuple[Way, ...] = WAYS
    """Directions in which bytes are held."""

    def __str__(self) -> str:
        of = f"{self.kind.what} {self.target}"
        again = "" if self.again is None else f", killed again {self.again:.1f} s after that"
        lasting = {
            "kill": f"back after {self.seconds:.1f} s{again}",
            "lose": f"back after {self.seconds:.1f} s{again}",
            "stop": f"for {self.seconds:.1f} s",
            "hold": f"{' and '.join(self.ways)}, for {self.seconds:.1f} s",
            "throttle": f"to {self.rate:.0f} bytes/s for {self.seconds:.1f} s",
        }
        amid = f" as it writes {self.kind.amid}" if self.kind.amid else ""
        return f"{of}{amid}, {lasting.get(self.kind.what, f'after {self.bytes} bytes')}"


def draw(
    seed: int,
    rounds: int,
    workers: Sequence[str],
    *,
    count: int,
    silence: float,
    span: float,
    kinds: Sequence[Kind] = KINDS,
) -> list[Fault]:
    """Return ``count`` faults over the rounds, in their order.

    Every kind occurs once, if ``count`` is large enough; further faults are drawn by weight. ``span`` is about the
    duration of a round in seconds.
    """
    random = Random(f"chaos/{seed}")
    drawn = random.sample(kinds, min(count, len(kinds)))
    drawn += random.choices(kinds, [kind.weight for kind in kinds], k=count - len(drawn))
    random.shuffle(drawn)
    # One fault is in the last round, after which the run waits for scores and writes its end.
    when = [rounds if index == 0 else random.randint(1, rounds) for index in range(count)]
    faults = [
        _fault(random, kind, round_number, workers, silence, span)
        for kind, round_number in zip(drawn, when, strict=True)
    ]
    return sorted(faults, key=lambda fault: (fault.round, fault.after))


def _fault(random: Random, kind: Kind, round_number: int, workers: Sequence[str], silence: float, span: float) -> Fault:
    target = {"worker": random.choice(workers), "evaluator": EVALUATOR, "coordinator": COORDINATOR}[kind.whom]
    seconds = random.uniform(0.05, 0.6) * silence
    if kind.long:
        seconds = random.uniform(1.3, 2) * silence
    elif kind.what == "throttle":
        seconds = random.uniform(0.5, 2) * silence
    return Fault(
        kind,
        target,
        round_number,
        after=random.uniform(0, 1.5) * span,
        seconds=seconds,
        again=random.uniform(0, 3) if kind.what in ("kill", "lose") and random.random() < 0.3 else None,
        bytes=random.choice((0, random.randrange(1, 200), random.randrange(200, 4_000_000))),
        rate=10 ** random.uniform(2.5, 6),
        ways=random.choice((WAYS, WAYS[:1], WAYS[1:])),
    )
