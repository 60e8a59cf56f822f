"""Whether the other end of a link is silent, or too slow; in looks, whatever a clock says."""

from fedws.network.liveness import CHECKS_PER_TIMEOUT, MIN_BYTES_PER_SECOND, LivenessMonitor

SILENCE = 6.0


def faults(
    vigil: LivenessMonitor, looks: int, *, each: int, content: int = 0, messages: int = 0, under_way: bool
) -> list[str]:
    """What each of these looks finds, when so many bytes come between two."""
    return [
        vigil.find_fault(each * look, content * look, messages * look, is_receiving=under_way)
        for look in range(1, looks + 1)
    ]


def test_signs_of_life_are_enough_while_no_message_is_under_way() -> None:
    assert set(faults(LivenessMonitor(SILENCE), 3 * CHECKS_PER_TIMEOUT, each=1, under_way=False)) == {""}


def test_who_is_silent_for_so_long_is_given_up() -> None:
    vigil = LivenessMonitor(SILENCE)
    found = [vigil.find_fault(10, 0, 0, is_receiving=False) for _ in range(CHECKS_PER_TIMEOUT + 2)]
    assert found == [""] * (CHECKS_PER_TIMEOUT + 1) + ["silent for 6 s"]


def test_a_sign_of_life_begins_the_silence_anew() -> None:
    vigil = LivenessMonitor(SILENCE)
    found = [
        vigil.find_fault(look // CHECKS_PER_TIMEOUT, 0, 0, is_receiving=False) for look in range(5 * CHECKS_PER_TIMEOUT)
    ]
    assert set(found) == {""}


def test_who_dawdles_over_a_message_is_given_up_though_alive() -> None:
    enough = int(MIN_BYTES_PER_SECOND * SILENCE / CHECKS_PER_TIMEOUT) + 1
    assert set(faults(LivenessMonitor(SILENCE), 3 * CHECKS_PER_TIMEOUT, each=1, content=enough, under_way=True)) == {""}
    found = faults(LivenessMonitor(SILENCE), CHECKS_PER_TIMEOUT + 1, each=1, content=enough - 2, under_way=True)
    assert found == [""] * CHECKS_PER_TIMEOUT + [
        f"too slow: {CHECKS_PER_TIMEOUT * (enough - 2)} bytes of a message in 6 s"
    ]


def test_small_messages_that_each_end_are_not_slow() -> None:
    assert set(
        faults(LivenessMonitor(SILENCE), 3 * CHECKS_PER_TIMEOUT, each=1, content=1, messages=1, under_way=True)
    ) == {""}


def test_nothing_is_held_against_who_is_not_read() -> None:
    vigil = LivenessMonitor(SILENCE)
    vigil.find_fault(1, 0, 0, is_receiving=True)
    for _ in range(CHECKS_PER_TIMEOUT):
        assert not vigil.find_fault(1, 0, 0, is_receiving=True)
    vigil.skip_check()
    assert not vigil.find_fault(1, 0, 0, is_receiving=True)
