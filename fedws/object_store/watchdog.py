"""Blocking work that nothing can interrupt, and a caller who does not wait for it without a bound."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import TypeVar

from fedws.core.errors import StoreError

T = TypeVar("T")
SLOWEST = 1024
"""Bytes a second; what moves more slowly makes no progress."""


class Stopped(StoreError):
    """The caller wants no more of it."""


class Progress:
    """What work says to the one who waits for it, and hears from them."""

    def __init__(self, patience: float, name: str, stop: threading.Event | None = None) -> None:
        self.news: SimpleQueue[bool] = SimpleQueue()
        """For each step, and for the end: whether it is the end."""
        self.given_up = threading.Event()
        self.block = max(1, int(SLOWEST * patience))
        """Bytes that have to move within the patience."""
        self.late = f"{name}: no progress in {patience:g} s"
        self._stopped = f"{name}: stopped"
        self._stop = stop or threading.Event()
        self._moved = 0

    def check(self) -> None:
        """To be called before every part. Raises StoreError when nobody waits any more, Stopped when it is to stop."""
        if self.given_up.is_set():
            raise StoreError(self.late)
        if self._stop.is_set():
            raise Stopped(self._stopped)

    def step(self) -> None:
        """It has come further."""
        self.news.put(False)

    def moved(self, count: int) -> None:
        """So many bytes have moved; together with the ones before, that is a step if it is a whole block."""
        self._moved += count
        if self._moved >= self.block:
            self._moved = 0
            self.step()

    def pause(self, seconds: float) -> None:
        """Wait, unless it is to stop."""
        self._stop.wait(seconds)


def bounded(work: Callable[[Progress], T], patience: float, name: str, stop: threading.Event | None = None) -> T:
    """Do ``work`` in a thread of its own. ``name``: of the store, for the lines.

    Raises StoreError after ``patience`` seconds without a step, and Stopped when the work has seen that ``stop`` is
    set. A call on a network file system whose server is gone may never return, and nothing ends it: then its thread is
    left behind, and begins no further part should it come back.
    """
    progress = Progress(patience, name, stop)
    result: Future[T] = Future()

    def run() -> None:
        try:
            progress.check()
            result.set_result(work(progress))
        except BaseException as error:  # the caller's to handle
            result.set_exception(error)
        progress.news.put(True)

    threading.Thread(target=run, daemon=True, name="fedws-store").start()
    try:
        while not progress.news.get(timeout=patience):
            pass
    except Empty:
        progress.given_up.set()
        raise StoreError(progress.late) from None
    return result.result()
