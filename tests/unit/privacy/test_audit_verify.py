"""The verification of an audit log: changed, moved, added and missing lines, and damaged heads."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fedws.core.errors import UsageError
from fedws.privacy import audit_chain
from fedws.privacy.audit_log import AuditLog
from fedws.privacy.audit_verify import verify_log
from tests.helpers.audit_logs import entry, head, log, problems


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    """The bytes of a log of five lines, and of its head."""
    path = log(tmp_path_factory.mktemp("whole"))
    return path.read_bytes(), head(path).read_bytes()


Put = Callable[[Sequence[bytes]], list[str]]


@pytest.fixture(scope="module")
def put(whole: tuple[bytes, bytes], tmp_path_factory: pytest.TempPathFactory) -> Put:
    """Puts these lines in the place of the log's; gives what verify says."""
    path = log(tmp_path_factory.mktemp("put"))
    head(path).write_bytes(whole[1])

    def put(lines: Sequence[bytes]) -> list[str]:
        path.write_bytes(b"".join(lines))
        return problems(path)

    return put


def test_as_it_was_it_is_whole(whole: tuple[bytes, bytes], put: Put) -> None:
    assert put([whole[0]]) == []


@settings(deadline=None)
@given(st.data())
def test_any_byte_that_is_changed_added_or_taken_away_is_noticed(
    whole: tuple[bytes, bytes], put: Put, data: st.DataObject
) -> None:
    text = whole[0]
    at, length = data.draw(st.integers(0, len(text))), data.draw(st.integers(0, 3))
    edited = text[:at] + data.draw(st.binary(max_size=3)) + text[at + length :]
    assume(edited != text)
    assert put([edited]) != []


@settings(deadline=None)
@given(st.data())
def test_lines_in_any_other_row_are_noticed(whole: tuple[bytes, bytes], put: Put, data: st.DataObject) -> None:
    """Removed, doubled, moved, whatever."""
    lines = whole[0].splitlines(keepends=True)
    other = data.draw(st.lists(st.sampled_from(lines), max_size=7))
    assert (put(other) == []) == (other == lines)


@pytest.mark.parametrize("number", range(5))
def test_an_edited_line_is_named(whole: tuple[bytes, bytes], put: Put, number: int) -> None:
    lines = whole[0].splitlines(keepends=True)
    lines[number] = lines[number].replace(b"fedavg.fit", b"evaluate")
    assert put(lines) == [f"line {number + 1} was edited"]


@pytest.mark.parametrize("number", range(5))
def test_a_line_that_was_edited_with_its_hash_is_found_by_the_next(
    whole: tuple[bytes, bytes], put: Put, number: int
) -> None:
    lines = whole[0].splitlines(keepends=True)
    line = {**json.loads(lines[number]), "task": "evaluate"}
    line["hash"] = audit_chain.line_hash(line)
    lines[number] = audit_chain.encode_line(line)
    wanted = f"line {number + 2} does not follow the previous line" if number < 4 else "the last line does not have"
    assert put(lines)[0].startswith(wanted)


@pytest.mark.parametrize("number", range(4))
def test_a_line_that_was_removed_is_named(whole: tuple[bytes, bytes], put: Put, number: int) -> None:
    lines = whole[0].splitlines(keepends=True)
    del lines[number]
    first, *_, last = put(lines)
    assert first == f"line {number + 1} does not follow the previous line: a line was removed, added or moved"
    assert last == "missing lines at the end: 1; alice.jsonl.head counts 5 lines"


@pytest.mark.parametrize("left", range(5))
def test_lines_missing_at_the_end_are_counted(whole: tuple[bytes, bytes], put: Put, left: int) -> None:
    lines = whole[0].splitlines(keepends=True)[:left]
    assert put(lines) == [f"missing lines at the end: {5 - left}; alice.jsonl.head counts 5 lines"]


def test_a_line_that_shows_a_reader_another_value_was_edited(whole: tuple[bytes, bytes], put: Put) -> None:
    """Programs read the same from it: the last of two equal keys counts, and their order does not matter."""
    lines = whole[0].splitlines(keepends=True)
    double = [lines[0].replace(b'"num_bytes": 1001', b'"num_bytes": 1, "num_bytes": 1001'), *lines[1:]]
    assert json.loads(double[0]) == json.loads(lines[0])
    assert put(double) == ["line 1 was edited"]
    turned = json.dumps(dict(reversed(json.loads(lines[0]).items()))).encode() + b"\n"
    assert put([turned, *lines[1:]]) == ["line 1 was edited"]


def test_lines_added_at_the_end_are_noticed_though_they_fit(tmp_path: Path) -> None:
    path = log(tmp_path, 2)
    kept = head(path).read_bytes()
    AuditLog(path).append(entry(3))
    head(path).write_bytes(kept)
    end, found = verify_log(path)
    assert end.num_lines == 2
    assert found == [
        "uncounted lines at the end: 1; they were added, or the node was killed before it updated alice.jsonl.head",
    ]


@pytest.mark.parametrize(
    "text", [b"", b"{}", b"[]", b"null", b'{"num_lines": "5", "last_hash": "", "num_bytes": 1}', b"\xff", b"[" * 9999]
)
def test_a_spoilt_head_is_told_and_never_begun_anew(text: bytes, tmp_path: Path) -> None:
    path = log(tmp_path)
    kept = AuditLog(path)
    before = path.read_bytes()
    head(path).write_bytes(text)
    assert problems(path) == ["alice.jsonl.head is damaged"]
    with pytest.raises(UsageError, match=r"alice\.jsonl\.head is damaged"):
        AuditLog(path)
    with pytest.raises(OSError, match="is damaged"):
        kept.append(entry(6))
    assert path.read_bytes() == before


def test_a_log_without_its_head_is_not_written_over(tmp_path: Path) -> None:
    path = log(tmp_path)
    kept = AuditLog(path)
    before = path.read_bytes()
    head(path).unlink()
    assert problems(path) == ["alice.jsonl.head is missing"]
    with pytest.raises(UsageError, match=r"alice\.jsonl: alice\.jsonl\.head is missing; choose"):
        AuditLog(path)
    with pytest.raises(OSError, match="is missing"):
        kept.append(entry(6))
    assert path.read_bytes() == before
    path.write_bytes(before.replace(b"fedavg.fit", b"evaluate", 1))
    assert problems(path) == ["alice.jsonl.head is missing", "line 1 was edited"]


@pytest.mark.parametrize("removed", [False, True])
def test_a_log_that_was_cut_is_not_gone_on_with(removed: bool, tmp_path: Path) -> None:
    path = log(tmp_path)
    kept = AuditLog(path)
    cut = b"" if removed else b"".join(path.read_bytes().splitlines(keepends=True)[:3])
    path.write_bytes(cut)
    with pytest.raises(UsageError, match=r"lines are missing at its end; choose .*--audit-log, or move it$"):
        AuditLog(path)
    with pytest.raises(OSError, match="lines are missing"):
        kept.append(entry(6))
    assert path.read_bytes() == cut
