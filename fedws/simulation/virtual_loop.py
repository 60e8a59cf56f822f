"""An asyncio event loop in virtual time, which jumps to the time of the next timer when no callback is ready.

Coroutines for a real event loop run unchanged, in a single thread and in the same order every time. Threads would make
the order random. Work for an executor therefore runs at once in the thread of the loop, and takes no virtual time.
"""

import asyncio
import math
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, TypeVar, TypeVarTuple

from fedws.core.errors import FedwsError

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
MAX_NAMED_TASKS = 5


class Deadlock(FedwsError):
    """A state of the loop from which it cannot continue, because no callback is ready and no timer is set."""


class VirtualLoop(asyncio.BaseEventLoop):
    """An event loop in virtual time, without sockets, pipes, signals and subprocesses.

    ``time()`` starts at 0 seconds. A timer is never early or late: when its callback runs, the time of the loop is
    exactly the time of the timer. ``run_until_complete`` and ``run_forever`` raise Deadlock where a real loop would
    wait forever.
    """

    virtual = True
    """True, so that ``fedws.coordinator.clock.monotonic_seconds`` uses the clock of the loop."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self._selector = self  # BaseEventLoop calls self._selector.select() to wait
        self._clock_resolution = math.ulp(0.0)

    def time(self) -> float:
        """Return the virtual time in seconds since the loop was created."""
        return self._now

    def select(self, timeout: float | None) -> list[Any]:
        """Advance the time to the first timer. Raise Deadlock if no timer is set."""
        if timeout is None:
            raise self._deadlock()
        if timeout > 0:
            # Adding `timeout` may miss the timer by a rounding error, and `timeout` is at most one day.
            first: float = self._scheduled[0].when()  # type: ignore[attr-defined]
            if math.isinf(first):  # a sleep that never ends
                raise self._deadlock()
            self._now = first
            # BaseEventLoop runs timers before time() + resolution. This resolution includes no later timer.
            self._clock_resolution = math.ulp(self._now)
        return []

    def run_in_executor(self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        """Call ``func`` at once and return a completed future."""
        done: asyncio.Future[T] = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as error:
            done.set_exception(error)
        return done

    def _deadlock(self) -> Deadlock:
        tasks = sorted(task.get_name() for task in asyncio.all_tasks(self))
        named = ", ".join(tasks[:MAX_NAMED_TASKS]) + (
            f" and {len(tasks) - MAX_NAMED_TASKS} more" if tasks[MAX_NAMED_TASKS:] else ""
        )
        waiting = f"these tasks wait: {named}" if tasks else "no task exists"
        return Deadlock(f"deadlock at virtual second {self._now:g}: no timer is set, and {waiting}")

    def _process_events(self, events: list[Any]) -> None:
        """Do nothing, because ``select`` never returns events."""

    def _write_to_self(self) -> None:
        """Do nothing. The base class calls this from threads and signals to wake the loop, which never sleeps."""


def run_in_virtual_time(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine like ``asyncio.run``, in virtual time. Raise Deadlock if the loop cannot continue."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
