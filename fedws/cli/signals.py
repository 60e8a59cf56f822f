"""Ctrl+C that is not lost: from the first import of a command on, until its event loop takes over."""

import signal
import threading

_interrupted = threading.Event()


def watch_interrupt() -> None:
    """Note Ctrl+C, also where a shell has told its job in the background to ignore it, and raise KeyboardInterrupt."""
    _interrupted.clear()
    signal.signal(signal.SIGINT, _handle_interrupt)


def restore_interrupt() -> None:
    """Leave Ctrl+C to Python again, whose event loop ends its task by it.

    Raises KeyboardInterrupt when it came before and was lost, as when it is raised while an import's lock is let go.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if _interrupted.is_set():
        raise KeyboardInterrupt


def _handle_interrupt(*_: object) -> None:
    _interrupted.set()
    raise KeyboardInterrupt
