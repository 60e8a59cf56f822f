"""The event loop in virtual time: order, exactness, no threads, no waiting for ever."""

import asyncio
import threading
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedws.simulation.virtual_loop import Deadlock, VirtualLoop, run_in_virtual_time


def now() -> float:
    return asyncio.get_running_loop().time()


def test_a_year_passes_in_no_time() -> None:
    async def sleep() -> float:
        await asyncio.sleep(365 * 86400)
        return now()

    began = time.monotonic()
    assert run_in_virtual_time(sleep()) == 365 * 86400
    assert time.monotonic() - began < 60


@given(st.lists(st.floats(0, 1e9), min_size=1, max_size=20))
def test_timers_run_in_their_order_and_at_their_time(times: list[float]) -> None:
    async def follow() -> list[tuple[float, float]]:
        seen: list[tuple[float, float]] = []
        loop = asyncio.get_running_loop()
        for when in times:
            loop.call_at(when, lambda when=when: seen.append((when, loop.time())))  # type: ignore[misc]
        await asyncio.sleep(2e9)
        return seen

    assert run_in_virtual_time(follow()) == [(when, when) for when in sorted(times)]


def test_many_small_steps_do_not_drift_from_the_timers() -> None:
    async def step() -> None:
        for _ in range(1000):
            due = now() + 0.1
            await asyncio.sleep(0.1)
            assert now() == due

    run_in_virtual_time(step())


def test_what_is_ready_goes_before_the_clock() -> None:
    async def follow() -> list[str]:
        seen: list[str] = []

        async def talk(name: str) -> None:
            for _ in range(3):
                seen.append(f"{name} at {now():g}")
                await asyncio.sleep(0)

        asyncio.get_running_loop().call_later(1e-9, seen.append, "later")
        await asyncio.gather(talk("a"), talk("b"))
        await asyncio.sleep(1)
        return seen

    assert run_in_virtual_time(follow()) == ["a at 0", "b at 0"] * 3 + ["later"]


def test_a_cancelled_timer_does_not_move_the_clock() -> None:
    async def cancel() -> float:
        asyncio.get_running_loop().call_later(5, lambda: None).cancel()
        await asyncio.sleep(1)
        return now()

    assert run_in_virtual_time(cancel()) == 1


def test_work_for_a_thread_is_done_at_once_and_in_this_one() -> None:
    async def work() -> tuple[object, float]:
        future = asyncio.get_running_loop().run_in_executor(None, threading.get_ident)
        assert future.done()
        assert await asyncio.to_thread(max, 1, 2) == 2
        return await future, now()

    assert run_in_virtual_time(work()) == (threading.get_ident(), 0.0)


def test_an_error_of_work_for_a_thread_is_in_its_future() -> None:
    async def work() -> None:
        future = asyncio.get_running_loop().run_in_executor(None, lambda: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            await future

    run_in_virtual_time(work())


def test_timeouts() -> None:
    async def wait() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(7):
                await asyncio.Event().wait()
        async with asyncio.timeout(7):
            await asyncio.sleep(6.5)
        return now()

    assert run_in_virtual_time(wait()) == 13.5


def test_a_task_is_cancelled_where_it_sleeps() -> None:
    async def cancel() -> list[float]:
        ended: list[float] = []

        async def sleep() -> None:
            try:
                await asyncio.sleep(100)
            finally:
                ended.append(now())

        task = asyncio.create_task(sleep())
        await asyncio.sleep(3)
        task.cancel()
        await asyncio.wait([task])
        return [*ended, now()]

    assert run_in_virtual_time(cancel()) == [3, 3]


async def _nothing() -> None:
    await asyncio.Event().wait()


async def _for_ever() -> None:
    await asyncio.sleep(float("inf"))


@pytest.mark.parametrize("wait", [_nothing, _for_ever])
def test_a_deadlock_is_an_error_that_says_who_waits(wait: Callable[[], object]) -> None:
    async def lock() -> None:
        await asyncio.sleep(12)
        await asyncio.create_task(wait(), name="alice")  # type: ignore[arg-type]

    with pytest.raises(
        Deadlock, match=r"^deadlock at virtual second 12: no timer is set, and these tasks wait: .*alice"
    ):
        run_in_virtual_time(lock())


def test_a_deadlock_of_many_names_some() -> None:
    async def lock() -> None:
        await asyncio.gather(*(asyncio.create_task(_nothing(), name=f"w{number}") for number in range(9)))

    with pytest.raises(Deadlock, match=r"no timer is set, and these tasks wait: .*w2, w3 and 5 more$"):
        run_in_virtual_time(lock())


def test_a_deadlock_lets_the_tasks_clean_up() -> None:
    cleaned = []

    async def lock() -> None:
        try:
            await _nothing()
        finally:
            cleaned.append(now())

    with pytest.raises(Deadlock):
        run_in_virtual_time(lock())
    assert cleaned == [0]


def test_a_call_from_a_thread_is_heard() -> None:
    async def listen() -> bool:
        heard = asyncio.Event()
        loop = asyncio.get_running_loop()
        thread = threading.Thread(target=loop.call_soon_threadsafe, args=(heard.set,))
        thread.start()
        thread.join()
        await heard.wait()
        return True

    assert run_in_virtual_time(listen())


def test_it_says_what_it_is() -> None:
    """The coordinator measures by its loop's clock if that is virtual."""
    assert VirtualLoop.virtual
