"""One end of a link over a broker that may do whatever it likes: the right message, or a lost link."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedws.network.base import HANDSHAKE
from fedws.network.mqtt.encryption import Plain
from fedws.network.mqtt.endpoint import End, Names, News
from fedws.network.mqtt.flow_control import WINDOW
from fedws.network.mqtt.frames import Kind, Level, head, opening
from fedws.network.mqtt.topics import Will

WILL = Will(bytes(32))
NAMES = Names("alice", "1" * 32, WILL.name)
SECRET = bytes(range(32))


def pair(*, seal: bool = False, protected: bool = True, names: Names = NAMES) -> tuple[End, End]:
    """The coordinator's end and the node's."""
    ends = End(names, dialled=True, seal=seal), End(names, dialled=False, seal=seal)
    for end in ends:
        if protected:
            end.protect(SECRET)
    return ends


def beaten(near: End, far: End) -> None:
    """What the far end has read is known to the near one."""
    assert near.hear(bytes(far.beat())) is News.BEAT


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
    (near, far), (other, _) = pair(seal=seal), pair(seal=seal, names=Names("alice", "1" * 32, "3" * 32))
    sent = [(Kind.END if number % 3 == 2 else Kind.DATA, bytes([number]) * 5) for number in range(10)]
    frames = [bytes(near.frame(kind, payload)) for kind, payload in sent]
    others = [bytes(other.frame(kind, payload)) for kind, payload in sent]
    read, news = [], News.NOTHING
    for what, which, where in doing:
        if what == "turn back":
            assert near.hear(frames[which]) is News.ODD
            continue
        news = far.hear(done(frames, others, what, which, where))
        if news is News.LOST:
            break
        while part := far.next():
            read.append((part.kind, bytes(part.payload)))
    assert read == sent[: len(read)]
    assert news is not News.BROKEN, "nothing of this is laid on the other end"


@given(st.booleans(), st.permutations(range(6)), st.lists(st.integers(0, 5), max_size=6))
def test_signs_of_life_may_be_lost_doubled_and_reordered(seal: bool, order: list[int], more: list[int]) -> None:
    near, far = pair(seal=seal)
    for number in range(6):
        assert far.hear(bytes(near.frame(Kind.END, bytes([number])))) is News.PART
    beats = []
    for _ in range(6):
        far.next()
        beats.append(bytes(far.beat()))
    news = [near.hear(beats[which]) for which in order + more]
    newest, expected = -1, []
    for which in order + more:
        expected.append(News.BEAT if which > newest else News.ODD)
        newest = max(newest, which)
    assert news == expected, "one that is played again keeps no dead link alive"
    assert near._sending._read == 6 if 5 in order + more else True


# --------------------------------------------------------------------------- one by one


@pytest.mark.parametrize("seal", [False, True])
def test_messages_and_signs_of_life_cross(seal: bool) -> None:
    near, far = pair(seal=seal)
    assert near.protected is (Level.SEALED if seal else Level.TAGGED)
    for number in range(WINDOW):
        assert near.room
        kind = Kind.DATA if number < WINDOW - 1 else Kind.END
        assert far.hear(bytes(near.frame(kind, bytes([number])))) is News.PART
        assert far.under_way is (kind is Kind.DATA)
    assert not near.room and far.unread == WINDOW and far.messages == 1
    for number in range(WINDOW):
        part = far.next()
        assert part is not None and bytes(part.payload) == bytes([number])
        assert far.due is ((number + 1) % (WINDOW // 4) == 0)
        if far.due:
            beaten(near, far)
    assert near.room and far.next() is None


def test_a_close_comes_after_what_was_sent_before_it_though_the_window_is_full() -> None:
    near, far = pair()
    for _ in range(WINDOW):
        far.hear(bytes(near.frame(Kind.DATA, b"")))
    assert far.hear(bytes(near.frame(Kind.CLOSE, b"\0why"))) is News.CLOSED
    assert far.farewell == b"\0why"
    assert [part.kind for part in iter(far.next, None)] == [Kind.DATA] * WINDOW + [Kind.CLOSE]


def test_who_sends_beyond_the_window_breaks_the_protocol() -> None:
    near, far = pair()
    for _ in range(WINDOW + 1):
        assert far.hear(bytes(near.frame(Kind.DATA, b""))) is News.PART
    assert far.hear(bytes(near.frame(Kind.DATA, b""))) is News.BROKEN
    assert far.why == f"more than {WINDOW} frames at once"


@pytest.mark.parametrize("count", [b"\1" + bytes(15), b"", bytes(8), bytes(17)])
def test_who_has_read_what_was_not_sent_breaks_the_protocol(count: bytes) -> None:
    near, far = pair()
    assert far.hear(bytes(near._out.wrap(Kind.BEAT, 0, count))) is News.BROKEN
    assert far.why == "it says that it has read what was not sent"


def test_a_missing_frame_is_a_lost_link() -> None:
    near, far = pair()
    near.frame(Kind.END, b"which the broker has dropped")
    assert far.hear(bytes(near.frame(Kind.END, b""))) is News.LOST
    assert far.why == "a frame is missing"


def test_what_was_announced_and_did_not_come_is_awaited() -> None:
    """The last frame of all, or the only one: no later one shows that it is missing."""
    near, far = pair()
    dropped = bytes(near.frame(Kind.END, b""))
    assert not far.under_way
    beaten(far, near)
    assert far.under_way
    assert far.hear(dropped) is News.PART
    assert not far.under_way, "it was only late"


# --------------------------------------------------------------------------- before there are keys, and from then on


def test_a_link_is_opened_once_and_sealed_if_either_end_wants_it() -> None:
    for wishes in ((False, False), (False, True), (True, False), (True, True)):
        near, far = (
            End(NAMES, dialled=dialled, seal=wish) for dialled, wish in zip((True, False), wishes, strict=True)
        )
        far.seal |= near.seal  # as who makes it does, of the frame that opens the link
        answer = bytes(far.open())
        assert near.hear(answer) is News.OPENED
        assert near.seal is far.seal is any(wishes)
        assert near.hear(answer) is News.ODD and far.hear(bytes(near.open())) is News.ODD


def test_another_instance_cannot_open_the_link() -> None:
    near, _ = pair(protected=False)
    assert near.hear(Plain().wrap(Kind.OPEN, 0, opening("9" * 32, seal=False))) is News.ODD
    assert near.hear(Plain().wrap(Kind.OPEN, 0, b"")) is News.ODD


def test_what_came_without_a_tag_is_forgotten_with_the_first_key() -> None:
    """A stranger's message right behind the handshake must not be read as the node's."""
    near, far = pair(protected=False)
    for number, text in enumerate((b"challenge", b"the stranger's welcome")):
        assert near.hear(Plain().wrap(Kind.END, number, text)) is News.PART
    assert near.next() is not None
    near.protect(SECRET)
    far.protect(SECRET)
    assert near.next() is None
    assert near.hear(Plain().wrap(Kind.END, 0, b"another")) is News.ODD
    assert near.hear(bytes(far.frame(Kind.END, b"welcome"))) is News.PART
    part = near.next()
    assert part is not None and bytes(part.payload) == b"welcome"


def test_what_comes_before_this_side_has_the_key_is_heard_then() -> None:
    near, far = pair(protected=False)
    far.protect(SECRET)
    early = [bytes(far.frame(Kind.END, bytes([number]))) for number in range(9)]
    assert {near.hear(data) for data in early} == {News.NOTHING}
    kept = near.protect(SECRET)
    assert kept == early[:4], "but not without end"
    assert near.hear(kept[0]) is News.PART
    near, far = pair(protected=False)
    far.protect(SECRET)
    near.hear(bytes(far.frame(Kind.END, bytes(HANDSHAKE))))
    assert near.protect(SECRET) == []


def test_a_sign_of_life_that_crossed_the_first_key_is_no_stranger() -> None:
    near, far = pair(protected=False)
    crossing = bytes(far.beat())
    near.protect(SECRET)
    assert near.hear(crossing) is News.NOTHING


def test_whoever_wants_a_seal_takes_nothing_that_has_none() -> None:
    near, far = (End(NAMES, dialled=dialled, seal=not dialled) for dialled in (True, False))
    for end in (near, far):
        end.protect(SECRET)
    assert far.hear(bytes(near.frame(Kind.END, b"for all to read"))) is News.ODD
    assert far.why == "a frame with a wrong tag"


# --------------------------------------------------------------------------- the coordinator's end


def test_only_the_secret_behind_the_links_name_ends_it() -> None:
    near, far = pair()
    first = head(Kind.GONE, Level.PLAIN, 0)
    for forged in (bytes(31), bytes(31) + b"\1", b"", WILL.name.encode()):
        assert far.hear(first + forged) is News.ODD
        assert far.why == "a forged end of the link"
    assert near.hear(first + WILL.token) is News.ODD, "a coordinator has no link that ends so"
    assert far.hear(first + WILL.token) is News.GONE
