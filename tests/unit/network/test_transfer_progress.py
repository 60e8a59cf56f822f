"""When the transfers of one request have progressed: only beyond the furthest byte that was reached before."""

from hypothesis import given
from hypothesis import strategies as st

from fedws.core.limits import CHUNK
from fedws.network.transfer_progress import Progress


def test_only_whole_chunks_beyond_the_furthest_count() -> None:
    progress = Progress()
    found = []
    for held in (0, CHUNK - 1, CHUNK, CHUNK, 3 * CHUNK, 2 * CHUNK, 3 * CHUNK + 5, 4 * CHUNK):
        progress.sent(held)
        found.append(progress.take())
    assert found == [False, False, True, False, True, False, False, True]


def test_both_directions_count_on_their_own_and_another_request_begins_anew() -> None:
    progress = Progress()
    progress.sent(5 * CHUNK)
    progress.received(CHUNK)
    assert progress.take() and not progress.take()
    progress.received(2 * CHUNK)
    assert progress.take()
    progress.received(3 * CHUNK)
    progress.restart()
    assert not progress.take()
    progress.sent(CHUNK)
    assert progress.take()


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 40 * CHUNK)), max_size=200))
def test_whatever_a_peer_states_one_request_progresses_a_bounded_number_of_times(told: list[tuple[bool, int]]) -> None:
    progress, times = Progress(), 0
    for sent, held in told:
        (progress.sent if sent else progress.received)(held)
        times += progress.take()
    assert times <= 2 * 40
