"""One end of a link over a broker that may do whatever it likes: the right message, or a lost link."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedws.network.base import MAX_HANDSHAKE_MESSAGE_BYTES
from fedws.network.mqtt.encryption import NoProtection
from fedws.network.mqtt.endpoint import FrameEvent, LinkEndpoint, LinkIds
from fedws.network.mqtt.flow_control import WINDOW_FRAMES
from fedws.network.mqtt.frames import FrameKind, ProtectionLevel, pack_frame_header, pack_open
from fedws.network.mqtt.topics import EndToken

WILL = EndToken(bytes(32))
NAMES = LinkIds("alice", "1" * 32, WILL.name)
SECRET = bytes(range(32))


def pair(*, seal: bool = False, protected: bool = True, names: LinkIds = NAMES) -> tuple[LinkEndpoint, LinkEndpoint]:
    """The coordinator's end and the node's."""
    ends = (
        LinkEndpoint(names, is_dialer=True, encrypt_payloads=seal),
        LinkEndpoint(names, is_dialer=False, encrypt_payloads=seal),
    )
    for end in ends:
        if protected:
            end.set_session_key(SECRET)
    return ends


def beaten(near: LinkEndpoint, far: LinkEndpoint) -> None:
    """What the far end has read is known to the near one."""
    assert near.handle_frame(bytes(far.build_ping())) is FrameEvent.PING


# --------------------------------------------------------------------------- what a broker may do


@st.composite
def doings(draw: st.DrawFn) -> Sequence[tuple[str, int, int]]:
    """What a broker does with ten frames: which it hands on, in what order, how often, and how it alters them."""
    what = st.sampled_from(["deliver"] * 6 + ["alter", "cut", "lengthen", "turn back", "from another link", "strip"])
    return draw(st.lists(st.tuples(what, st.integers(0, 9), st.integers(0, 2**16)), max_size=40))


def done(frames: Sequence[bytes], others: Sequence[bytes], what: str, which: int, where: int) -> bytes:
    data = bytearray(frames[which])
    if what == "alter":
        data[where % len(data)] ^= 1 + where % 255
    elif what == "cut":
        del data[where % len(data) :]
    elif what == "lengthen":
        data += bytes(1 + where % 20)
    elif what == "from another link":
        data = bytearray(others[which])
    elif what == "strip":  # of its tag, as if it had never had one
        data[0] &= 0x3F
        del data[-16:]
    return bytes(data)


@given(st.booleans(), doings())
def test_what_is_read_is_the_beginning_of_what_was_sent(seal: bool, doing: Sequence[tuple[str, int, int]]) -> None:
    (near, far), (other, _) = pair(seal=seal), pair(seal=seal, names=LinkIds("alice", "1" * 32, "3" * 32))
    sent = [(FrameKind.END if number % 3 == 2 else FrameKind.DATA, bytes([number]) * 5) for number in range(10)]
    frames = [bytes(near.build_frame(kind, payload)) for kind, payload in sent]
    others = [bytes(other.build_frame(kind, payload)) for kind, payload in sent]
    read, news = [], FrameEvent.IGNORED
    for what, which, where in doing:
        if what == "turn back":
            assert near.handle_frame(frames[which]) is FrameEvent.DROPPED
            continue
        news = far.handle_frame(done(frames, others, what, which, where))
        if news is FrameEvent.FRAMES_MISSING:
            break
        while part := far.read_frame():
            read.append((part.kind, bytes(part.payload)))
    assert read == sent[: len(read)]
    assert news is not FrameEvent.PROTOCOL_ERROR, "nothing of this is laid on the other end"


@given(st.booleans(), st.permutations(range(6)), st.lists(st.integers(0, 5), max_size=6))
def test_signs_of_life_may_be_lost_doubled_and_reordered(seal: bool, order: list[int], more: list[int]) -> None:
    near, far = pair(seal=seal)
    for number in range(6):
        assert far.handle_frame(bytes(near.build_frame(FrameKind.END, bytes([number])))) is FrameEvent.DATA
    beats = []
    for _ in range(6):
        far.read_frame()
        beats.append(bytes(far.build_ping()))
    news = [near.handle_frame(beats[which]) for which in order + more]
    newest, expected = -1, []
    for which in order + more:
        expected.append(FrameEvent.PING if which > newest else FrameEvent.DROPPED)
        newest = max(newest, which)
    assert news == expected, "one that is played again keeps no dead link alive"
    assert near._send_window._frames_read == 6 if 5 in order + more else True


# --------------------------------------------------------------------------- one by one


@pytest.mark.parametrize("seal", [False, True])
def test_messages_and_signs_of_life_cross(seal: bool) -> None:
    near, far = pair(seal=seal)
    assert near.protection_level is (ProtectionLevel.ENCRYPTED if seal else ProtectionLevel.AUTHENTICATED)
    for number in range(WINDOW_FRAMES):
        assert near.can_send
        kind = FrameKind.DATA if number < WINDOW_FRAMES - 1 else FrameKind.END
        assert far.handle_frame(bytes(near.build_frame(kind, bytes([number])))) is FrameEvent.DATA
        assert far.is_receiving is (kind is FrameKind.DATA)
    assert not near.can_send and far.unread_frames == WINDOW_FRAMES and far.messages_received == 1
    for number in range(WINDOW_FRAMES):
        part = far.read_frame()
        assert part is not None and bytes(part.payload) == bytes([number])
        assert far.ack_due is ((number + 1) % (WINDOW_FRAMES // 4) == 0)
        if far.ack_due:
            beaten(near, far)
    assert near.can_send and far.read_frame() is None


def test_a_close_comes_after_what_was_sent_before_it_though_the_window_is_full() -> None:
    near, far = pair()
    for _ in range(WINDOW_FRAMES):
        far.handle_frame(bytes(near.build_frame(FrameKind.DATA, b"")))
    assert far.handle_frame(bytes(near.build_frame(FrameKind.CLOSE, b"\0why"))) is FrameEvent.CLOSED
    assert far.close_payload == b"\0why"
    assert [part.kind for part in iter(far.read_frame, None)] == [FrameKind.DATA] * WINDOW_FRAMES + [FrameKind.CLOSE]


def test_who_sends_beyond_the_window_breaks_the_protocol() -> None:
    near, far = pair()
    for _ in range(WINDOW_FRAMES + 1):
        assert far.handle_frame(bytes(near.build_frame(FrameKind.DATA, b""))) is FrameEvent.DATA
    assert far.handle_frame(bytes(near.build_frame(FrameKind.DATA, b""))) is FrameEvent.PROTOCOL_ERROR
    assert far.fault == f"more than {WINDOW_FRAMES} unread frames"


@pytest.mark.parametrize("count", [b"\1" + bytes(15), b"", bytes(8), bytes(17)])
def test_who_has_read_what_was_not_sent_breaks_the_protocol(count: bytes) -> None:
    near, far = pair()
    assert far.handle_frame(bytes(near._send_protection.wrap(FrameKind.PING, 0, count))) is FrameEvent.PROTOCOL_ERROR
    assert far.fault == "a ping acknowledges frames that were not sent"


def test_a_missing_frame_is_a_lost_link() -> None:
    near, far = pair()
    near.build_frame(FrameKind.END, b"which the broker has dropped")
    assert far.handle_frame(bytes(near.build_frame(FrameKind.END, b""))) is FrameEvent.FRAMES_MISSING
    assert far.fault == "a frame is missing"


def test_what_was_announced_and_did_not_come_is_awaited() -> None:
    """The last frame of all, or the only one: no later one shows that it is missing."""
    near, far = pair()
    dropped = bytes(near.build_frame(FrameKind.END, b""))
    assert not far.is_receiving
    beaten(far, near)
    assert far.is_receiving
    assert far.handle_frame(dropped) is FrameEvent.DATA
    assert not far.is_receiving, "it was only late"


# --------------------------------------------------------------------------- before there are keys, and from then on


def test_a_link_is_opened_once_and_sealed_if_either_end_wants_it() -> None:
    for wishes in ((False, False), (False, True), (True, False), (True, True)):
        near, far = (
            LinkEndpoint(NAMES, is_dialer=dialled, encrypt_payloads=wish)
            for dialled, wish in zip((True, False), wishes, strict=True)
        )
        far.encrypt_payloads |= near.encrypt_payloads  # as who makes it does, of the frame that opens the link
        answer = bytes(far.build_open_frame())
        assert near.handle_frame(answer) is FrameEvent.OPENED
        assert near.encrypt_payloads is far.encrypt_payloads is any(wishes)
        assert (
            near.handle_frame(answer) is FrameEvent.DROPPED
            and far.handle_frame(bytes(near.build_open_frame())) is FrameEvent.DROPPED
        )


def test_another_instance_cannot_open_the_link() -> None:
    near, _ = pair(protected=False)
    assert (
        near.handle_frame(NoProtection().wrap(FrameKind.OPEN, 0, pack_open("9" * 32, encrypt_payloads=False)))
        is FrameEvent.DROPPED
    )
    assert near.handle_frame(NoProtection().wrap(FrameKind.OPEN, 0, b"")) is FrameEvent.DROPPED


def test_what_came_without_a_tag_is_forgotten_with_the_first_key() -> None:
    """A stranger's message right behind the handshake must not be read as the node's."""
    near, far = pair(protected=False)
    for number, text in enumerate((b"challenge", b"the stranger's welcome")):
        assert near.handle_frame(NoProtection().wrap(FrameKind.END, number, text)) is FrameEvent.DATA
    assert near.read_frame() is not None
    near.set_session_key(SECRET)
    far.set_session_key(SECRET)
    assert near.read_frame() is None
    assert near.handle_frame(NoProtection().wrap(FrameKind.END, 0, b"another")) is FrameEvent.DROPPED
    assert near.handle_frame(bytes(far.build_frame(FrameKind.END, b"welcome"))) is FrameEvent.DATA
    part = near.read_frame()
    assert part is not None and bytes(part.payload) == b"welcome"


def test_what_comes_before_this_side_has_the_key_is_heard_then() -> None:
    near, far = pair(protected=False)
    far.set_session_key(SECRET)
    early = [bytes(far.build_frame(FrameKind.END, bytes([number]))) for number in range(9)]
    assert {near.handle_frame(data) for data in early} == {FrameEvent.IGNORED}
    kept = near.set_session_key(SECRET)
    assert kept == early[:4], "but not without end"
    assert near.handle_frame(kept[0]) is FrameEvent.DATA
    near, far = pair(protected=False)
    far.set_session_key(SECRET)
    near.handle_frame(bytes(far.build_frame(FrameKind.END, bytes(MAX_HANDSHAKE_MESSAGE_BYTES))))
    assert near.set_session_key(SECRET) == []


def test_a_sign_of_life_that_crossed_the_first_key_is_no_stranger() -> None:
    near, far = pair(protected=False)
    crossing = bytes(far.build_ping())
    near.set_session_key(SECRET)
    assert near.handle_frame(crossing) is FrameEvent.IGNORED


def test_whoever_wants_a_seal_takes_nothing_that_has_none() -> None:
    near, far = (LinkEndpoint(NAMES, is_dialer=dialled, encrypt_payloads=not dialled) for dialled in (True, False))
    for end in (near, far):
        end.set_session_key(SECRET)
    assert far.handle_frame(bytes(near.build_frame(FrameKind.END, b"for all to read"))) is FrameEvent.DROPPED
    assert far.fault == "a frame with a wrong tag"


# --------------------------------------------------------------------------- the coordinator's end


def test_only_the_secret_behind_the_links_name_ends_it() -> None:
    near, far = pair()
    first = pack_frame_header(FrameKind.GONE, ProtectionLevel.PLAIN, 0)
    for forged in (bytes(31), bytes(31) + b"\1", b"", WILL.name.encode()):
        assert far.handle_frame(first + forged) is FrameEvent.DROPPED
        assert far.fault == "a forged GONE frame"
    assert near.handle_frame(first + WILL.secret) is FrameEvent.DROPPED, "a coordinator has no link that ends so"
    assert far.handle_frame(first + WILL.secret) is FrameEvent.GONE
