"""Ctrl+C while a command begins, also where Python swallows what it raises."""

import signal
from collections.abc import Iterator

import pytest

from fedws.cli import signals
from fedws.cli.console import run_loop


@pytest.fixture(autouse=True)
def _handler() -> Iterator[None]:
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


class Swallows:
    """What is raised while this goes is only printed, as in the callback of an import's lock."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


async def work() -> str:
    return "done"


@pytest.mark.parametrize("ignored", [False, True])
def test_it_interrupts_also_where_it_was_to_be_ignored(ignored: bool) -> None:
    if ignored:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    signals.watch_interrupt()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_one_that_was_swallowed_ends_the_command_before_its_loop_runs() -> None:
    signals.watch_interrupt()
    swallows = Swallows()
    del swallows
    with pytest.raises(KeyboardInterrupt):
        run_loop(work())


def test_without_one_the_loop_runs_and_has_pythons_own_handler() -> None:
    signals.watch_interrupt()
    assert run_loop(work()) == "done"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
