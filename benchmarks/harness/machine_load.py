"""How busy others keep this machine while a benchmark runs: Linux only, from ``/proc/stat``.

The cores used by others are the machine's busy time less the time of this process and everything it started. On
kernels that account for interrupts apart (``CONFIG_IRQ_TIME_ACCOUNTING``), traffic over the loopback counts as others'.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.harness.pairs import DISTURBED, Run

TICK = 1 / os.sysconf("SC_CLK_TCK")
LOOK = 0.5
"""Seconds of the look before a run."""


@dataclass(frozen=True)
class Reading:
    """Clocks at one moment."""

    at: float
    busy: float
    """CPU seconds of the whole machine."""
    own: float
    """CPU seconds of this process, its descendants, and those of them that have ended."""


def busy(stat: str) -> float:
    """CPU seconds of all cores from the text of ``/proc/stat``: all but idle time, waiting, and guests counted twice.

    >>> busy("cpu  100 10 50 9000 400 0 30 10 0 0")  # in hundredths
    2.0
    """
    user, nice, system, _idle, _wait, irq, softirq, steal = map(int, stat.split()[1:9])
    return (user + nice + system + irq + softirq + steal) * TICK


def own() -> float:
    """CPU seconds of this process's tree. Ended processes count once they have been waited for."""
    total = 0.0
    here = psutil.Process()
    for process in [here, *here.children(recursive=True)]:
        try:
            spent = process.cpu_times()
        except psutil.NoSuchProcess:  # ended meanwhile: with its parent's children from now on
            continue
        total += spent.user + spent.system + spent.children_user + spent.children_system
    return total


def reading() -> Reading:
    """The clocks now."""
    return Reading(time.monotonic(), busy(Path("/proc/stat").read_text()), own())


def others(first: Reading, last: Reading) -> float:
    """Cores that others used between two readings, on average; never below none.

    >>> others(Reading(0, 10, 0), Reading(10, 24, 11))
    0.3
    """
    return round(max(0.0, (last.busy - first.busy) - (last.own - first.own)) / max(last.at - first.at, TICK), 6)


class Watch:
    """Watches others over a run: made before it (a short look), begun and ended with it.

    The load is printed before and after each run, so that nobody has to trust the table alone.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        first = reading()
        time.sleep(LOOK)
        self.before = others(first, reading())
        self._first = reading()
        print(f"  {what}: others use {self.before:.2f} cores before it", end="", flush=True)

    def begin(self) -> None:
        """The part that is measured begins now; without this, it began with the look's end."""
        self._first = reading()

    def end(self, seconds: float | None = None) -> Run:
        """The measured part is over; ``seconds`` where something else timed it."""
        last = reading()
        load = others(self._first, last)
        run = Run(last.at - self._first.at if seconds is None else seconds, load, self.before)
        print(f", {load:.2f} over it ({run.seconds:.3f} s){' DISTURBED' if load > DISTURBED else ''}", flush=True)
        return run
