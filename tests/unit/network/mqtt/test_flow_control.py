"""The window of a link over a broker, and the order of its frames."""

import pytest

from fedws.network.mqtt.flow_control import (
    WINDOW_FRAMES,
    FramesMissing,
    ReceivedFrame,
    ReceiveWindow,
    SendWindow,
    WindowExceeded,
)
from fedws.network.mqtt.frames import FrameKind

PART = ReceivedFrame(FrameKind.DATA, b"")


def test_so_many_may_be_under_way_as_the_window_has() -> None:
    sending = SendWindow()
    for number in range(WINDOW_FRAMES):
        assert sending.can_send
        assert sending.next_number() == number
    assert not sending.can_send
    assert sending.acknowledge(1)
    assert sending.can_send
    assert sending.next_number() == WINDOW_FRAMES
    assert not sending.can_send
    assert sending.acknowledge(WINDOW_FRAMES + 1) and sending.can_send


def test_old_news_are_none_and_what_cannot_be_is_told() -> None:
    sending = SendWindow()
    for _ in range(5):
        sending.next_number()
    assert sending.acknowledge(4)
    assert sending.acknowledge(2)
    assert sending._frames_read == 4
    assert not sending.acknowledge(6)


def test_frames_are_taken_in_their_order_and_once() -> None:
    receiving = ReceiveWindow()
    assert receiving.read_frame() is None
    parts = [ReceivedFrame(FrameKind.DATA, bytes([number])) for number in range(3)]
    for number, part in enumerate(parts):
        assert receiving.accept(number, part)
        assert not receiving.accept(number, part)
        assert not receiving.accept(0, PART)
    assert (len(receiving), receiving.frames_read) == (3, 0)
    assert [receiving.read_frame() for _ in range(4)] == [*parts, None]
    assert (len(receiving), receiving.frames_read) == (0, 3)
    with pytest.raises(FramesMissing, match="a frame is missing"):
        receiving.accept(4, PART)


def test_a_receiver_that_does_not_read_holds_no_more_than_the_window() -> None:
    receiving = ReceiveWindow()
    for number in range(WINDOW_FRAMES):
        assert receiving.accept(number, PART)
    assert receiving.accept(WINDOW_FRAMES, ReceivedFrame(FrameKind.CLOSE, b"")), "for which nobody waits"
    with pytest.raises(WindowExceeded, match=f"more than {WINDOW_FRAMES} unread frames"):
        receiving.accept(WINDOW_FRAMES + 1, PART)
