"""A runner for blocking work that cannot be interrupted, with a bound on the time that its caller waits."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import TypeVar

from fedws.core.errors import StoreError

T = TypeVar("T")
MIN_BYTES_PER_SECOND = 1024
"""Minimum transfer rate in bytes per second. A slower transfer does not count as progress."""


class StoreCancelled(StoreError):
    """A store operation that its caller cancelled."""


class Progress:
    """A channel between work in a thread and its caller, for reports of progress and for cancellation."""

    def __init__(self, timeout: float, store_url: str, stop: threading.Event | None = None) -> None:
        self.events: SimpleQueue[bool] = SimpleQueue()
        """One item for each step of progress (False) and one for the end of the work (True)."""
        self.abandoned = threading.Event()
        """Event that is set when the caller does not wait for the work any longer."""
        self.block_bytes = max(1, int(MIN_BYTES_PER_SECOND * timeout))
        """Number of bytes that count as one step of progress."""
        self.timeout_message = f"{store_url}: no progress in {timeout:g} s"
        self._cancel_message = f"{store_url}: stopped"
        self._stop = stop or threading.Event()
        self._bytes_in_block = 0

    def raise_if_cancelled(self) -> None:
        """Raise StoreError if the work was abandoned, or StoreCancelled if it was stopped.

        Work must call this method before each of its parts.
        """
        if self.abandoned.is_set():
            raise StoreError(self.timeout_message)
        if self._stop.is_set():
            raise StoreCancelled(self._cancel_message)

    def mark_progress(self) -> None:
        """Report one step of progress."""
        self.events.put(False)

    def add_bytes(self, count: int) -> None:
        """Add ``count`` transferred bytes, and report a step whenever a block is complete."""
        self._bytes_in_block += count
        if self._bytes_in_block >= self.block_bytes:
            self._bytes_in_block = 0
            self.mark_progress()

    def wait(self, seconds: float) -> None:
        """Wait for ``seconds``, or until the work is stopped."""
        self._stop.wait(seconds)


def run_with_watchdog(
    work: Callable[[Progress], T], timeout: float, store_url: str, stop: threading.Event | None = None
) -> T:
    """Run ``work`` in a new thread and return its result.

    Raise StoreError after ``timeout`` seconds without progress. Raise StoreCancelled when the work notices that
    ``stop`` is set. Errors of the work are raised as they are. ``store_url`` names the store in error messages.

    A call on a network file system may never return after its server has failed, and it cannot be interrupted. The
    thread is then left behind. If the call returns later, the thread starts no further part of the work.
    """
    progress = Progress(timeout, store_url, stop)
    result: Future[T] = Future()

    def run() -> None:
        try:
            progress.raise_if_cancelled()
            result.set_result(work(progress))
        except BaseException as error:  # raised again in the thread of the caller
            result.set_exception(error)
        progress.events.put(True)

    threading.Thread(target=run, daemon=True, name="fedws-store").start()
    try:
        while not progress.events.get(timeout=timeout):
            pass
    except Empty:
        progress.abandoned.set()
        raise StoreError(progress.timeout_message) from None
    return result.result()
