from itertools import pairwise

import pytest

from fedws.network.backoff import FIRST_DELAY_SECONDS, Backoff, ReasonLog, retry


@pytest.mark.parametrize("silence", [60.0, 12.0, 0.5])
def test_they_double_up_to_a_twelfth_of_silence_and_are_drawn(silence: float) -> None:
    pauses, most = Backoff(silence / 12, "alice"), max(FIRST_DELAY_SECONDS, silence / 12)
    found = [pauses.next_delay() for _ in range(200)]
    longest = [min(FIRST_DELAY_SECONDS * 2 ** min(number, 20), most) for number in range(200)]
    assert all(bound / 2 <= pause <= bound for pause, bound in zip(found, longest, strict=True))
    late = found[10:]
    assert min(late) < 0.55 * most and max(late) > 0.95 * most and all(one != other for one, other in pairwise(late))


def test_they_begin_anew_once_a_dial_was_good_for_something() -> None:
    pauses = Backoff(5, "alice")
    for _ in range(10):
        pauses.next_delay()
    assert pauses.next_delay() > 2
    pauses.reset()
    assert pauses.next_delay() <= FIRST_DELAY_SECONDS


def test_nodes_do_not_pause_in_step_and_one_does_so_again_in_the_same_way() -> None:
    def drawn(seed: str) -> list[float]:
        pauses = Backoff(5, seed)
        return [pauses.next_delay() for _ in range(20)]

    assert drawn("1/alice") == drawn("1/alice")
    assert not {*drawn("1/alice")} & {*drawn("1/bob")}


async def test_attempts_end_with_the_first_result_that_is_not_none() -> None:
    results: list[int | None] = [None, None, 0, 7]
    calls: list[int] = []

    async def attempt() -> int | None:
        calls.append(len(calls))
        return results[len(calls) - 1]

    assert await retry(attempt, Backoff(0, "alice")) == 0
    assert len(calls) == 3


async def test_an_error_ends_the_attempts() -> None:
    async def attempt() -> int | None:
        raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        await retry(attempt, Backoff(0, "alice"))


def test_a_reason_is_logged_when_it_differs_from_the_one_before() -> None:
    lines: list[str] = []
    log = ReasonLog(lines.append)
    for reason in ("away", "away", "busy", "away"):
        log.add(reason, f"waits ({reason})")
    assert lines == ["waits (away)", "waits (busy)", "waits (away)"]
    log.reset()
    log.add("away", "waits (away)")
    assert len(lines) == 4
