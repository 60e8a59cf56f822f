"""Load of this machine by other processes during a benchmark, from ``/proc/stat`` of Linux.

The load is the machine's busy time, less the time of this process and of everything it started. Some kernels account
for interrupts separately (``CONFIG_IRQ_TIME_ACCOUNTING``). There, the traffic over the loopback interface counts as
load by others.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.harness.pairs import DISTURBED, Run

TICK = 1 / os.sysconf("SC_CLK_TCK")
LOOK = 0.5
"""Time in seconds for which the load is measured before a run."""


@dataclass(frozen=True)
class Reading:
    """The clocks at one moment."""

    at: float
    busy: float
    """CPU time of the whole machine in seconds."""
    own: float
    """CPU time in seconds of this process and its descendants, including those that have ended."""


def busy(stat: str) -> float:
    """Return the CPU time of all cores in seconds, from the text of ``/proc/stat``.

    It leaves out idle time and waiting for I/O. The kernel counts guests twice, so their own fields are left out, too.

    >>> busy("cpu  100 10 50 9000 400 0 30 10 0 0")  # in hundredths
    2.0
    """
    user, nice, system, _idle, _wait, irq, softirq, steal = map(int, stat.split()[1:9])
    return (user + nice + system + irq + softirq + steal) * TICK


def own() -> float:
    """Return the CPU time in seconds of this process and its descendants.

    An ended process counts once its parent has waited for it.
    """
    total = 0.0
    here = psutil.Process()
    for process in [here, *here.children(recursive=True)]:
        try:
            spent = process.cpu_times()
        except psutil.NoSuchProcess:  # it has ended, so its time is in its parent's children
            continue
        total += spent.user + spent.system + spent.children_user + spent.children_system
    return total


def reading() -> Reading:
    """Read the clocks, and return them."""
    return Reading(time.monotonic(), busy(Path("/proc/stat").read_text()), own())


def others(first: Reading, last: Reading) -> float:
    """Return the average number of cores that other processes used between two readings, at least 0.

    >>> others(Reading(0, 10, 0), Reading(10, 24, 11))
    0.3
    """
    return round(max(0.0, (last.busy - first.busy) - (last.own - first.own)) / max(last.at - first.at, TICK), 6)


class Watch:
    """A measurement of the load by other processes over one run.

    The constructor measures the load before the run. The load is printed before and after each run, so that readers of
    the figures can check every run.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        first = reading()
        time.sleep(LOOK)
        self.before = others(first, reading())
        self._first = reading()
        print(f"  {what}: others used {self.before:.2f} cores before it", end="", flush=True)

    def begin(self) -> None:
        """Start the measured part here, instead of at the end of the constructor."""
        self._first = reading()

    def end(self, seconds: float | None = None) -> Run:
        """End the measured part, and return the run; ``seconds`` replaces its duration if something else timed it."""
        last = reading()
        load = others(self._first, last)
        run = Run(last.at - self._first.at if seconds is None else seconds, load, self.before)
        print(f", {load:.2f} during it ({run.seconds:.3f} s){' DISTURBED' if load > DISTURBED else ''}", flush=True)
        return run
