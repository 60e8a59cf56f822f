"""The window of a link over a broker, and the order of its frames."""

import pytest

from fedws.network.mqtt.flow_control import WINDOW, Flood, Gap, Part, Receiving, Sending
from fedws.network.mqtt.frames import Kind

PART = Part(Kind.DATA, b"")


def test_so_many_may_be_under_way_as_the_window_has() -> None:
    sending = Sending()
    for number in range(WINDOW):
        assert sending.room
        assert sending.number() == number
    assert not sending.room
    assert sending.read(1)
    assert sending.room
    assert sending.number() == WINDOW
    assert not sending.room
    assert sending.read(WINDOW + 1) and sending.room


def test_old_news_are_none_and_what_cannot_be_is_told() -> None:
    sending = Sending()
    for _ in range(5):
        sending.number()
    assert sending.read(4)
    assert sending.read(2)
    assert sending._read == 4
    assert not sending.read(6)


def test_frames_are_taken_in_their_order_and_once() -> None:
    receiving = Receiving()
    assert receiving.next() is None
    parts = [Part(Kind.DATA, bytes([number])) for number in range(3)]
    for number, part in enumerate(parts):
        assert receiving.take(number, part)
        assert not receiving.take(number, part)
        assert not receiving.take(0, PART)
    assert (len(receiving), receiving.read) == (3, 0)
    assert [receiving.next() for _ in range(4)] == [*parts, None]
    assert (len(receiving), receiving.read) == (0, 3)
    with pytest.raises(Gap, match="a frame is missing"):
        receiving.take(4, PART)


def test_a_receiver_that_does_not_read_holds_no_more_than_the_window() -> None:
    receiving = Receiving()
    for number in range(WINDOW):
        assert receiving.take(number, PART)
    assert receiving.take(WINDOW, Part(Kind.CLOSE, b"")), "for which nobody waits"
    with pytest.raises(Flood, match=f"more than {WINDOW} frames at once"):
        receiving.take(WINDOW + 1, PART)
