"""Handling of Ctrl+C from the first import of a command until its event loop takes over."""

import signal
import threading

_interrupted = threading.Event()


def watch_interrupt() -> None:
    """Record Ctrl+C and raise KeyboardInterrupt for it.

    This also holds for a background job, for which the shell disabled Ctrl+C.
    """
    _interrupted.clear()
    signal.signal(signal.SIGINT, _handle_interrupt)


def restore_interrupt() -> None:
    """Restore Python's own handling of Ctrl+C, with which an event loop ends its task.

    Raise KeyboardInterrupt if an earlier one was lost. This happens, for example, to one raised while the lock of an
    import is released.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if _interrupted.is_set():
        raise KeyboardInterrupt


def _handle_interrupt(*_: object) -> None:
    _interrupted.set()
    raise KeyboardInterrupt
