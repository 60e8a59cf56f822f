"""What commands change in a process is restored after each test that runs one in its own process."""

import logging
import signal
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _process_as_before() -> Iterator[None]:
    log, interrupt = logging.getLogger("fedws"), signal.getsignal(signal.SIGINT)
    handlers, propagate, level = list(log.handlers), log.propagate, log.level
    yield
    log.handlers[:], log.propagate = handlers, propagate
    log.setLevel(level)
    signal.signal(signal.SIGINT, interrupt)
