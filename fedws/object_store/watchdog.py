"""Blocking work that nothing can interrupt, and a caller who does not wait for it without a bound."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import TypeVar

from fedws.core.errors import StoreError

T = TypeVar("T")
MIN_BYTES_PER_SECOND = 1024
"""Bytes a second; what moves more slowly makes no progress."""


class StoreCancelled(StoreError):
    """The caller wants no more of it."""


class Progress:
    """What work says to the one who waits for it, and hears from them."""

    def __init__(self, timeout: float, store_url: str, stop: threading.Event | None = None) -> None:
        self.events: SimpleQueue[bool] = SimpleQueue()
        """For each step, and for the end: whether it is the end."""
        self.abandoned = threading.Event()
        self.block_bytes = max(1, int(MIN_BYTES_PER_SECOND * timeout))
        """Bytes that have to move within the patience."""
        self.timeout_message = f"{store_url}: no progress in {timeout:g} s"
        self._cancel_message = f"{store_url}: stopped"
        self._stop = stop or threading.Event()
        self._bytes_in_block = 0

    def raise_if_cancelled(self) -> None:
        """To be called before every part. Raises StoreError when nobody waits any more, Stopped when it is to stop."""
        if self.abandoned.is_set():
            raise StoreError(self.timeout_message)
        if self._stop.is_set():
            raise StoreCancelled(self._cancel_message)

    def mark_progress(self) -> None:
        """It has come further."""
        self.events.put(False)

    def add_bytes(self, count: int) -> None:
        """So many bytes have moved; together with the ones before, that is a step if it is a whole block."""
        self._bytes_in_block += count
        if self._bytes_in_block >= self.block_bytes:
            self._bytes_in_block = 0
            self.mark_progress()

    def wait(self, seconds: float) -> None:
        """Wait, unless it is to stop."""
        self._stop.wait(seconds)


def run_with_watchdog(
    work: Callable[[Progress], T], timeout: float, store_url: str, stop: threading.Event | None = None
) -> T:
    """Run ``work`` in a thread of its own; ``store_url`` names the store in errors.

    Raises StoreError after ``timeout`` seconds without a step, and Stopped when the work has seen that ``stop`` is
    set. A call on a network file system whose server is gone may never return, and nothing ends it: then its thread is
    left behind, and begins no further part should it come back.
    """
    progress = Progress(timeout, store_url, stop)
    result: Future[T] = Future()

    def run() -> None:
        try:
            progress.raise_if_cancelled()
            result.set_result(work(progress))
        except BaseException as error:  # the caller's to handle
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
