"""Blocking work that nothing can interrupt, and a caller who does not wait for it without a bound."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import TypeVar

from fedws.errors import StoreError

T = TypeVar("T")


def bounded(work: Callable[[Callable[[], None]], T], patience: float, late: str) -> T:
    """Do ``work`` in a thread of its own; it is handed a function to call at every step.

    Raises StoreError with the text ``late`` after ``patience`` seconds without a step. A call on a network file system
    whose server is gone may never return, and nothing ends it: then its thread is left behind, and does no further
    step should it come back.
    """
    news: SimpleQueue[bool] = SimpleQueue()
    given_up = threading.Event()
    result: Future[T] = Future()

    def step() -> None:
        if given_up.is_set():
            raise StoreError(late)
        news.put(False)

    def run() -> None:
        try:
            result.set_result(work(step))
        except BaseException as error:  # the caller's to handle
            result.set_exception(error)
        news.put(True)

    threading.Thread(target=run, daemon=True, name="fedws-store").start()
    try:
        while not news.get(timeout=patience):
            pass
    except Empty:
        given_up.set()
        raise StoreError(late) from None
    return result.result()
