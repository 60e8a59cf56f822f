"""Lines of the log are written in the order of their places."""

from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from fedws.recording.ordered_log import OrderedLog


@settings(deadline=None)
@given(st.data())
def test_lines_come_in_the_order_of_what_they_tell_of(data: st.DataObject) -> None:
    """Places are kept and filled in any order; each line is said as soon as nothing before it is missing."""
    said: list[str] = []
    lines = OrderedLog(said.append)
    wanted: list[tuple[str, ...] | None] = []
    held: dict[int, Callable[..., None]] = {}
    for _ in range(data.draw(st.integers(0, 25))):
        number = len(wanted)
        what = data.draw(st.sampled_from(["say", "hold", *(["fill"] * 2 if held else [])]))
        texts = tuple(f"{number}.{part}" for part in range(data.draw(st.integers(0, 2))))
        if what == "say":
            wanted.append(texts)
            lines.emit(*texts)
        elif what == "hold":
            wanted.append(None)
            held[number] = lines.reserve()
        else:
            place = data.draw(st.sampled_from(sorted(held)))
            wanted[place] = texts
            held.pop(place)(*texts)
        first_missing = next((place for place, entry in enumerate(wanted) if entry is None), len(wanted))
        assert said == [text for entry in wanted[:first_missing] for text in entry or ()]


def test_a_place_may_be_filled_with_nothing() -> None:
    said: list[str] = []
    lines = OrderedLog(said.append)
    fill = lines.reserve()
    lines.emit("after")
    assert said == []
    fill()
    assert said == ["after"]


def test_what_was_not_said_is_known_in_its_order() -> None:
    said: list[str] = []
    lines = OrderedLog(said.append)
    lines.emit("a")
    first, _ = lines.reserve([1, "alice"]), lines.reserve([2])
    lines.emit("b", "c")
    wanted: list[Any] = [{"tag": [1, "alice"]}, {"tag": [2]}, {"lines": ["b", "c"]}]
    assert lines.pending() == wanted
    first("scores")
    assert lines.pending() == wanted[1:]
    assert said == ["a", "scores"]
