from itertools import pairwise

import pytest

from fedws.network.backoff import FIRST_DELAY_SECONDS, Backoff


@pytest.mark.parametrize("silence", [60.0, 12.0, 0.5])
def test_they_double_up_to_a_twelfth_of_silence_and_are_drawn(silence: float) -> None:
    pauses, most = Backoff(silence, "alice"), max(FIRST_DELAY_SECONDS, silence / 12)
    found = [pauses.next_delay() for _ in range(200)]
    longest = [min(FIRST_DELAY_SECONDS * 2 ** min(number, 20), most) for number in range(200)]
    assert all(bound / 2 <= pause <= bound for pause, bound in zip(found, longest, strict=True))
    late = found[10:]
    assert min(late) < 0.55 * most and max(late) > 0.95 * most and all(one != other for one, other in pairwise(late))


def test_they_begin_anew_once_a_dial_was_good_for_something() -> None:
    pauses = Backoff(60, "alice")
    for _ in range(10):
        pauses.next_delay()
    assert pauses.next_delay() > 2
    pauses.reset()
    assert pauses.next_delay() <= FIRST_DELAY_SECONDS


def test_nodes_do_not_pause_in_step_and_one_does_so_again_in_the_same_way() -> None:
    def drawn(seed: str) -> list[float]:
        pauses = Backoff(60, seed)
        return [pauses.next_delay() for _ in range(20)]

    assert drawn("1/alice") == drawn("1/alice")
    assert not {*drawn("1/alice")} & {*drawn("1/bob")}
