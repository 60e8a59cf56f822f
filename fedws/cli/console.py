"""Environment of every command: logging, signals, errors in one line, and the event loop."""

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from fedws.cli import signals
from fedws.core.error_text import describe_error, find_user_location
from fedws.core.errors import FedwsError, UsageError
from fedws.core.untrusted_text import PRINTABLE_FILTER, format_traceback, to_line

T = TypeVar("T")

INTERRUPTED_STATUS = 130  # shells report this status for a command that was ended with Ctrl+C


class ConsoleHandler(logging.Handler):
    """Log handler that writes to standard output, above the progress line if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line, and ignore a closed pipe or a full disk."""
        from tqdm import tqdm

        with contextlib.suppress(OSError):
            tqdm.write(self.format(record), file=sys.stdout)
            sys.stdout.flush()


def set_up_logging(verbose: bool) -> None:
    """Set up log lines in the format of the demo: a time stamp, a bar and the text."""
    from fedws.recording.run_log import LOG_FORMAT

    handler = ConsoleHandler()
    handler.setFormatter(logging.Formatter(LOG_FORMAT))
    handler.addFilter(PRINTABLE_FILTER)
    logging.getLogger("asyncio").addFilter(PRINTABLE_FILTER)  # its lines about links go to standard error
    log = logging.getLogger("fedws")
    log.addHandler(handler)
    log.propagate = False
    log.setLevel(logging.DEBUG if verbose else logging.INFO)
    if verbose:
        import fedws.network.transports.ws  # noqa: F401  # sets the level that the next line replaces

        logging.getLogger("fedws.websockets").setLevel(logging.INFO)


def run_guarded(
    command: str,
    context: Callable[[], int],
    *,
    verbose: bool = False,
    edit_message: Callable[[str], str] = str,
) -> int:
    """Run a command and return its exit status, and print an error as one line.

    Ctrl+C, SIGTERM and the end of the terminal stop the command without a traceback. Under ``nohup`` the end of the
    terminal is ignored. An error's line ends with the last line of the user's own files that the error passed through.
    ``context`` does the command's work. ``edit_message`` changes the text of an error. With ``verbose`` the traceback
    precedes the error's line.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        return context()
    except KeyboardInterrupt:
        print(f"{command}: stopped", file=sys.stderr)
        return INTERRUPTED_STATUS
    except Exception as error:
        if verbose:
            print(format_traceback(error), file=sys.stderr)
        print(to_line(f"{command}: {edit_message(_format_error(error))}"), file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1


def _format_error(error: Exception) -> str:
    """Return the text for the user about an error that ended a command."""
    if isinstance(error, FedwsError | OSError):
        return describe_error(error)
    kind = "" if find_user_location(error) else "unexpected error: "
    return f"{kind}{describe_error(error)}; add -v for the traceback"


def run_loop(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine, on uvloop if the platform supports it, and return its result."""
    factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    with contextlib.suppress(ImportError):
        import uvloop

        factory = uvloop.new_event_loop
    try:
        signals.restore_interrupt()
    except KeyboardInterrupt:
        main.close()  # avoids the warning that it was never awaited
        raise
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main)
