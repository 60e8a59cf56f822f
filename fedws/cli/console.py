"""What every command does around its work: log lines, signals, errors as one line, the event loop."""

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

INTERRUPTED_STATUS = 130  # what shells report for a command that Ctrl+C ended


class ConsoleHandler(logging.Handler):
    """Log lines on standard output, above a progress line if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line; a reader that has gone away, or a full disk, is no error."""
        from tqdm import tqdm

        with contextlib.suppress(OSError):
            tqdm.write(self.format(record), file=sys.stdout)
            sys.stdout.flush()


def set_up_logging(verbose: bool) -> None:
    """Log lines as the demo's: a time stamp, a bar, the text."""
    from fedws.recording.run_log import LOG_FORMAT

    handler = ConsoleHandler()
    handler.setFormatter(logging.Formatter(LOG_FORMAT))
    handler.addFilter(PRINTABLE_FILTER)
    logging.getLogger("asyncio").addFilter(PRINTABLE_FILTER)  # what it logs of a link goes to standard error
    log = logging.getLogger("fedws")
    log.addHandler(handler)
    log.propagate = False
    log.setLevel(logging.DEBUG if verbose else logging.INFO)
    if verbose:
        import fedws.network.transports.ws  # noqa: F401  # sets the level that is raised here

        logging.getLogger("fedws.websockets").setLevel(logging.INFO)


def run_guarded(
    command: str,
    context: Callable[[], int],
    *,
    verbose: bool = False,
    edit_message: Callable[[str], str] = str,
) -> int:
    """Run a command's work; every error is one line, Ctrl+C and SIGTERM end it quietly.

    So does the end of its terminal, unless it was started with ``nohup``. The line ends with the last line of the
    user's own files that the error passed through. ``edit_message`` changes its text. With ``verbose`` the traceback
    stands above it.
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
    """Return the line for the user about an error that ended a command."""
    if isinstance(error, FedwsError | OSError):
        return describe_error(error)
    kind = "" if find_user_location(error) else "unexpected error: "
    return f"{kind}{describe_error(error)}; run it with -v for the traceback"


def run_loop(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on uvloop where the platform has it."""
    factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    with contextlib.suppress(ImportError):
        import uvloop

        factory = uvloop.new_event_loop
    try:
        signals.restore_interrupt()
    except KeyboardInterrupt:
        main.close()  # or it is complained about that nobody awaited it
        raise
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main)
