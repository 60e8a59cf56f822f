"""When the transfers of one request have progressed: only beyond the furthest byte that was reached before."""

from hypothesis import given
from hypothesis import strategies as st

from fedws.core.limits import CHUNK_BYTES
from fedws.network.transfer_progress import TransferProgress


def test_only_whole_chunks_beyond_the_furthest_count() -> None:
    progress = TransferProgress()
    found = []
    for held in (
        0,
        CHUNK_BYTES - 1,
        CHUNK_BYTES,
        CHUNK_BYTES,
        3 * CHUNK_BYTES,
        2 * CHUNK_BYTES,
        3 * CHUNK_BYTES + 5,
        4 * CHUNK_BYTES,
    ):
        progress.record_sent(held)
        found.append(progress.pop_progress())
    assert found == [False, False, True, False, True, False, False, True]


def test_both_directions_count_on_their_own_and_another_request_begins_anew() -> None:
    progress = TransferProgress()
    progress.record_sent(5 * CHUNK_BYTES)
    progress.record_received(CHUNK_BYTES)
    assert progress.pop_progress() and not progress.pop_progress()
    progress.record_received(2 * CHUNK_BYTES)
    assert progress.pop_progress()
    progress.record_received(3 * CHUNK_BYTES)
    progress.reset()
    assert not progress.pop_progress()
    progress.record_sent(CHUNK_BYTES)
    assert progress.pop_progress()


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 40 * CHUNK_BYTES)), max_size=200))
def test_whatever_a_peer_states_one_request_progresses_a_bounded_number_of_times(told: list[tuple[bool, int]]) -> None:
    progress, times = TransferProgress(), 0
    for sent, held in told:
        (progress.record_sent if sent else progress.record_received)(held)
        times += progress.pop_progress()
    assert times <= 2 * 40
