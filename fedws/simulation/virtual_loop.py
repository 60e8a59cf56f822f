"""An asyncio event loop in virtual time: when nothing is left to do it is at once the time of the next timer.

The same coroutines that run on a real loop run here, single threaded and in the same order every time. Threads are
what the order would depend on, so work for an executor is done at once, in the loop's own thread, and takes no time.
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
    """Nothing can happen any more: no callback is ready, no timer is set, and somebody is waiting."""


class VirtualLoop(asyncio.BaseEventLoop):
    """See the module. ``time()`` begins at 0, in seconds. There are no sockets, pipes, signals or subprocesses.

    A timer is never early nor late: its callback sees just the time it was set to. Raises Deadlock, out of
    ``run_until_complete`` or ``run_forever``, where a loop of sockets would wait for ever.
    """

    virtual = True
    """For code that measures time by a finer clock where it can; see
    :func:`fedws.coordinator.clock.monotonic_seconds`."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self._selector = self  # BaseEventLoop selects to wait
        self._clock_resolution = math.ulp(0.0)

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._now

    def select(self, timeout: float | None) -> list[Any]:
        """Wait, which is to say: go to the time of the first timer. Raises Deadlock when there is none."""
        if timeout is None:
            raise self._deadlock()
        if timeout > 0:
            # Not `+= timeout`, which may miss the timer by a rounding error, and is at most a day.
            first: float = self._scheduled[0].when()  # type: ignore[attr-defined]
            if math.isinf(first):  # a sleep for ever is none that ends
                raise self._deadlock()
            self._now = first
            # BaseEventLoop runs what is due before time() + resolution: make that the next float, so nothing early.
            self._clock_resolution = math.ulp(self._now)
        return []

    def run_in_executor(self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        """Call ``func`` here and now; gives a future that is done."""
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
        waiting = f"{named} wait and no timer is set" if tasks else "no task is there and no timer is set"
        return Deadlock(f"deadlock at virtual second {self._now:g}: {waiting}")

    def _process_events(self, events: list[Any]) -> None:
        """There are none: :meth:`select` finds no file ready, ever."""

    def _write_to_self(self) -> None:
        """Called to wake the loop, from a thread or for Ctrl+C. It never sleeps."""


def run_in_virtual_time(main: Coroutine[Any, Any, T]) -> T:
    """As :func:`asyncio.run`, in virtual time. Raises Deadlock too."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
