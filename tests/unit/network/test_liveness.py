"""Whether the other end of a link is silent, or too slow; in looks, whatever a clock says."""

from fedws.network.liveness import LOOKS, SLOWEST, Vigil

SILENCE = 6.0


def faults(vigil: Vigil, looks: int, *, each: int, content: int = 0, messages: int = 0, under_way: bool) -> list[str]:
    """What each of these looks finds, when so many bytes come between two."""
    return [
        vigil.look(each * look, content * look, messages * look, under_way=under_way) for look in range(1, looks + 1)
    ]


def test_signs_of_life_are_enough_while_no_message_is_under_way() -> None:
    assert set(faults(Vigil(SILENCE), 3 * LOOKS, each=1, under_way=False)) == {""}


def test_who_is_silent_for_so_long_is_given_up() -> None:
    vigil = Vigil(SILENCE)
    found = [vigil.look(10, 0, 0, under_way=False) for _ in range(LOOKS + 2)]
    assert found == [""] * (LOOKS + 1) + ["silent for 6 s"]


def test_a_sign_of_life_begins_the_silence_anew() -> None:
    vigil = Vigil(SILENCE)
    found = [vigil.look(look // LOOKS, 0, 0, under_way=False) for look in range(5 * LOOKS)]
    assert set(found) == {""}


def test_who_dawdles_over_a_message_is_given_up_though_alive() -> None:
    enough = int(SLOWEST * SILENCE / LOOKS) + 1
    assert set(faults(Vigil(SILENCE), 3 * LOOKS, each=1, content=enough, under_way=True)) == {""}
    found = faults(Vigil(SILENCE), LOOKS + 1, each=1, content=enough - 2, under_way=True)
    assert found == [""] * LOOKS + [f"too slow: {LOOKS * (enough - 2)} bytes of a message in 6 s"]


def test_small_messages_that_each_end_are_not_slow() -> None:
    assert set(faults(Vigil(SILENCE), 3 * LOOKS, each=1, content=1, messages=1, under_way=True)) == {""}


def test_nothing_is_held_against_who_is_not_read() -> None:
    vigil = Vigil(SILENCE)
    vigil.look(1, 0, 0, under_way=True)
    for _ in range(LOOKS):
        assert not vigil.look(1, 0, 0, under_way=True)
    vigil.excuse()
    assert not vigil.look(1, 0, 0, under_way=True)
