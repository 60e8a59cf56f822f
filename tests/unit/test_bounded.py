"""Work that hangs is left behind; work that goes on is waited for, however long it takes."""

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from fedws.bounded import bounded
from fedws.errors import StoreError

Step = Callable[[], None]


@pytest.fixture
def back() -> Iterator[threading.Event]:
    """What hanging work waits for; in the end it comes."""
    found = threading.Event()
    yield found
    found.set()


def test_what_comes_of_it_is_given_and_raised() -> None:
    def fails(step: Step) -> None:
        raise OSError("no")

    assert bounded(lambda step: 7, 10, "late") == 7
    with pytest.raises(OSError, match=r"^no$"):
        bounded(fails, 10, "late")


def test_it_is_given_up_when_there_is_no_step(back: threading.Event) -> None:
    began = time.monotonic()
    with pytest.raises(StoreError, match=r"^late$"):
        bounded(lambda step: back.wait(), 0.1, "late")
    assert time.monotonic() - began < 10


def test_steps_are_progress() -> None:
    def long(step: Step) -> str:
        end = time.monotonic() + 1.5  # three times the patience
        while time.monotonic() < end:
            time.sleep(0.001)
            step()
        return "done"

    assert bounded(long, 0.5, "late") == "done"


def test_work_that_was_given_up_does_no_further_step(back: threading.Event) -> None:
    ended: list[BaseException] = []
    over = threading.Event()

    def hangs(step: Step) -> None:
        back.wait()
        try:
            step()
        except StoreError as error:
            ended.append(error)
        over.set()

    with pytest.raises(StoreError, match=r"^late$"):
        bounded(hangs, 0.1, "late")
    back.set()
    assert over.wait(10)
    assert [str(error) for error in ended] == ["late"]


def test_the_process_need_not_wait_for_it(back: threading.Event) -> None:
    with pytest.raises(StoreError):
        bounded(lambda step: back.wait(), 0.1, "late")
    (left,) = (thread for thread in threading.enumerate() if thread.name == "fedws-store" and thread.is_alive())
    assert left.daemon
