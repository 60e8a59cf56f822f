"""Ctrl+C that is not lost: from the first import of a command on, until its event loop takes over."""

import signal
import threading

_asked = threading.Event()


def watch() -> None:
    """Note Ctrl+C, also where a shell has told its job in the background to ignore it, and raise KeyboardInterrupt."""
    _asked.clear()
    signal.signal(signal.SIGINT, _stop)


def hand_over() -> None:
    """Leave Ctrl+C to Python again, whose event loop ends its task by it.

    Raises KeyboardInterrupt when it came before and was lost, as when it is raised while an import's lock is let go.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if _asked.is_set():
        raise KeyboardInterrupt


def _stop(*_: object) -> None:
    _asked.set()
    raise KeyboardInterrupt
