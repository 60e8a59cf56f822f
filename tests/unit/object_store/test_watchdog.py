"""Work that hangs is left behind; work that goes on is waited for, however long it takes."""

import threading
import time
from collections.abc import Iterator

import pytest

from fedws.core.errors import StoreError
from fedws.object_store.watchdog import MIN_BYTES_PER_SECOND, Progress, StoreCancelled, run_with_watchdog

LATE = r"^disk: no progress in 0\.1 s$"


@pytest.fixture
def back() -> Iterator[threading.Event]:
    """What hanging work waits for; in the end it comes."""
    found = threading.Event()
    yield found
    found.set()


def test_what_comes_of_it_is_given_and_raised() -> None:
    def fails(progress: Progress) -> None:
        raise OSError("no")

    assert run_with_watchdog(lambda progress: 7, 10, "disk") == 7
    with pytest.raises(OSError, match=r"^no$"):
        run_with_watchdog(fails, 10, "disk")


def test_it_is_given_up_when_there_is_no_step(back: threading.Event) -> None:
    began = time.monotonic()
    with pytest.raises(StoreError, match=LATE):
        run_with_watchdog(lambda progress: back.wait(), 0.1, "disk")
    assert time.monotonic() - began < 10


def test_steps_are_progress() -> None:
    def long(progress: Progress) -> str:
        end = time.monotonic() + 1.5  # three times the patience
        while time.monotonic() < end:
            time.sleep(0.001)
            progress.mark_progress()
        return "done"

    assert run_with_watchdog(long, 0.5, "disk") == "done"


def test_what_moves_too_slowly_is_no_progress() -> None:
    def moves(bytes_a_step: int) -> str:
        def work(progress: Progress) -> str:
            end = time.monotonic() + 1.5
            while time.monotonic() < end:
                time.sleep(0.001)
                progress.raise_if_cancelled()
                progress.add_bytes(bytes_a_step)
            return "done"

        return run_with_watchdog(work, 0.5, "disk")

    assert moves(MIN_BYTES_PER_SECOND) == "done"
    with pytest.raises(StoreError, match=r"^disk: no progress in 0\.5 s$"):
        moves(0)


def test_bytes_add_up_to_steps() -> None:
    progress = Progress(0.5, "disk")
    for _ in range(2):
        progress.add_bytes(progress.block_bytes - 1)
        assert progress.events.empty()
        progress.add_bytes(1)
        assert progress.events.get(False) is False
        assert progress.events.empty()


def test_it_stops_at_the_next_part_and_in_a_pause() -> None:
    stop, reached = threading.Event(), threading.Event()

    def stops() -> None:
        reached.wait(60)
        stop.set()

    def work(progress: Progress) -> None:
        progress.raise_if_cancelled()
        reached.set()
        progress.wait(600)
        progress.raise_if_cancelled()

    threading.Thread(target=stops).start()
    with pytest.raises(StoreCancelled, match=r"^disk: stopped$"):
        run_with_watchdog(work, 60, "disk", stop)
    with pytest.raises(StoreCancelled, match=r"^disk: stopped$"):
        run_with_watchdog(lambda progress: pytest.fail("it begins"), 60, "disk", stop)


def test_work_that_was_given_up_begins_no_further_part(back: threading.Event) -> None:
    ended: list[BaseException] = []
    over = threading.Event()

    def hangs(progress: Progress) -> None:
        back.wait()
        try:
            progress.raise_if_cancelled()
        except StoreError as error:
            ended.append(error)
        over.set()

    with pytest.raises(StoreError, match=LATE):
        run_with_watchdog(hangs, 0.1, "disk")
    back.set()
    assert over.wait(10)
    assert [str(error) for error in ended] == ["disk: no progress in 0.1 s"]


def test_the_process_need_not_wait_for_it(back: threading.Event) -> None:
    with pytest.raises(StoreError):
        run_with_watchdog(lambda progress: back.wait(), 0.1, "disk")
    left = [thread for thread in threading.enumerate() if thread.name == "fedws-store"]
    assert left and all(thread.daemon for thread in left)
