"""The audit log: every answer is on it, and no change to it goes unseen."""

import argparse
import json
import os
import stat
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fedws.cli import audit as command
from fedws.core import registry
from fedws.core.errors import TaskCancelled, TaskError, UsageError
from fedws.core.limits import MessageLimits
from fedws.node.worker import Worker
from fedws.privacy import audit_chain
from fedws.privacy.audit_chain import GENESIS_HASH, read_lines
from fedws.privacy.audit_entry import AuditEntry, current_timestamp
from fedws.privacy.audit_log import AuditLog
from fedws.privacy.audit_verify import verify_log
from fedws.privacy.usage_counts import UsageCounts
from fedws.protocol.encoder import encode_message
from fedws.protocol.messages import TaskFailure, TaskRequest, TaskResult
from fedws.protocol.run_claim import RunClaim
from fedws.training.task_context import TaskContext
from tests.helpers.support import REPOSITORY


def entry(number: int = 1, **changes: Any) -> AuditEntry:
    given: dict[str, Any] = {
        "time": f"2026-11-21T10:00:{number % 60:02}.000+00:00",
        "node": "alice",
        "coordinator": "coordinator",
        "run": "12345678",
        "request_id": f"{number}/alice",
        "round": number,
        "task": "fedavg.fit",
        "model": "mlp",
        "outcome": "result",
        "payload": "tensors",
        "num_bytes": 1000 + number,
    }
    return AuditEntry(**{**given, **changes})


def log(folder: Path, lines: int = 5) -> Path:
    """A log of so many lines."""
    path = folder / "alice.jsonl"
    kept = AuditLog(path)
    for number in range(1, lines + 1):
        kept.append(entry(number))
    return path


def head(path: Path) -> Path:
    return path.with_name(f"{path.name}.head")


def problems(path: Path) -> list[str]:
    return verify_log(path)[1]


# --------------------------------------------------------------------------- what is written


def test_a_line_is_bounded_whatever_others_write_into_a_request(tmp_path: Path) -> None:
    """Each answer is one, also a refusal, so a member can only add lines."""
    path, wide = tmp_path / "alice.jsonl", "\U0001f600" * 100_000
    node = Worker("alice", "points", [(torch.zeros(1), 0)], audit_log=AuditLog(path))
    node.start_run(RunClaim(wide, wide, wide))
    for task in ("fedavg.fit", wide):
        answer = node.execute(
            TaskRequest(request_id=wide, worker="alice", round=2**63, task=task, settings={"model": wide})
        )
        assert isinstance(answer, TaskFailure)
    lines = path.read_bytes().splitlines()
    assert len(lines) == 2 and max(map(len, lines)) <= 8192


def test_a_line_says_who_asked_what_and_what_left(tmp_path: Path) -> None:
    first, second = (line for line in read_lines(log(tmp_path, 2)) if line is not None)
    assert list(first) == ["number", *AuditEntry.__dataclass_fields__, "prev_hash", "hash"]
    assert (first["number"], first["prev_hash"], first["num_bytes"], first["epsilon"]) == (1, GENESIS_HASH, 1001, None)
    assert (second["number"], second["prev_hash"]) == (2, first["hash"])


def test_a_whole_log_is_whole_and_goes_on_after_a_new_start(tmp_path: Path) -> None:
    path = log(tmp_path, 3)
    for number in (4, 5):
        AuditLog(path).append(entry(number))
    end, found = verify_log(path)
    assert (found, end.num_lines, end.num_bytes) == ([], 5, path.stat().st_size)
    assert end.last_hash == json.loads(path.read_text().splitlines()[-1])["hash"]


def test_an_empty_log_is_whole(tmp_path: Path) -> None:
    assert verify_log(log(tmp_path, 0)) == (audit_chain.LogHead(), [])


def test_it_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "deep" / "alice.jsonl"
    AuditLog(path).append(entry())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_line_is_on_the_disk_before_add_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, synced = log(tmp_path, 0), []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(str(Path(f"/proc/self/fd/{handle}").readlink())))
    AuditLog(path).append(entry())
    assert str(path) in synced


def test_several_that_write_it_at_once_make_one_chain(tmp_path: Path) -> None:
    path = log(tmp_path, 0)
    logs = [AuditLog(path) for _ in range(4)]

    def write(kept: AuditLog) -> None:
        for number in range(10):
            kept.append(entry(number))

    threads = [threading.Thread(target=write, args=(kept,)) for kept in logs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    end, found = verify_log(path)
    assert (end.num_lines, found) == (40, [])


# --------------------------------------------------------------------------- what is noticed


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
    wanted = f"line {number + 2} does not follow the line before it" if number < 4 else "it does not end as alice.jsonl"
    assert put(lines)[0].startswith(wanted)


@pytest.mark.parametrize("number", range(4))
def test_a_line_that_was_removed_is_named(whole: tuple[bytes, bytes], put: Put, number: int) -> None:
    lines = whole[0].splitlines(keepends=True)
    del lines[number]
    first, *_, last = put(lines)
    assert first == f"line {number + 1} does not follow the line before it: one was removed, added or moved"
    assert last == "1 missing at the end: alice.jsonl.head counts 5 lines"


@pytest.mark.parametrize("left", range(5))
def test_lines_missing_at_the_end_are_counted(whole: tuple[bytes, bytes], put: Put, left: int) -> None:
    lines = whole[0].splitlines(keepends=True)[:left]
    assert put(lines) == [f"{5 - left} missing at the end: alice.jsonl.head counts 5 lines"]


def test_a_line_that_shows_a_reader_another_value_was_edited(whole: tuple[bytes, bytes], put: Put) -> None:
    """To programs it reads the same, of which the last of two keys holds; the order of keys is no matter either."""
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
        "1 at the end that alice.jsonl.head does not count: added, or the node was killed as it wrote",
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
    with pytest.raises(UsageError, match=r"cannot be continued \(alice\.jsonl\.head is missing\); name"):
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
    with pytest.raises(UsageError, match=r"lines are missing at its end\); name .*--audit-log, or move it away$"):
        AuditLog(path)
    with pytest.raises(OSError, match="lines are missing"):
        kept.append(entry(6))
    assert path.read_bytes() == cut


OLD_KEYS = {
    "request_id": "order",
    "outcome": "answer",
    "payload": "data",
    "num_bytes": "bytes",
    "upload_id": "upload",
    "resent": "again",
    "counted_as": "counts",
    "prev_hash": "before",
}


def old_lines(number: int) -> bytes:
    """Lines as earlier versions wrote them."""
    text, last = b"", GENESIS_HASH
    for each in range(1, number + 1):
        now = {"number": each, **entry(each, upload_id="a5", payload="features").__dict__, "prev_hash": last}
        line = {OLD_KEYS.get(key, key): value for key, value in now.items()}
        line["hash"] = last = audit_chain.line_hash(line)
        text += audit_chain.encode_line(line)
    return text


OLD = r"its lines have the format of an older fedws; read it with that version"


def test_a_log_of_an_earlier_version_is_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without its lines, uploads that have left would not count any more."""
    path, text = tmp_path / "alice.jsonl", old_lines(3)
    path.write_bytes(text)
    end = {"lines": 3, "hash": json.loads(text.splitlines()[-1])["hash"], "size": len(text)}
    head(path).write_text(json.dumps(end).ljust(159) + "\n")
    with pytest.raises(UsageError, match=rf"^the audit log {path} cannot be continued \({OLD}\); name another with --"):
        AuditLog(path)
    for verify in (False, True):
        with pytest.raises(UsageError, match=rf"^{path} cannot be read: {OLD}$"):
            command.main(argparse.Namespace(node=str(path), verify=verify))
    assert capsys.readouterr().out == ""
    assert path.read_bytes() == text


@pytest.mark.parametrize("first", [False, True])
def test_a_line_of_an_earlier_version_is_not_skipped_where_lines_are_counted(first: bool, tmp_path: Path) -> None:
    """Whatever wrote it there, with a head that fits."""
    path = log(tmp_path, 0 if first else 2)
    text = path.read_bytes() + old_lines(1)
    path.write_bytes(text)
    audit_chain.write_head(path, audit_chain.LogHead(3, json.loads(text.splitlines()[-1])["hash"], len(text)))
    for counted in (AuditLog(path).answer_ages, lambda name: AuditLog(path).sent_upload_ids(name, "mnist", "")):
        with pytest.raises(OSError, match=OLD):
            counted("alice")


# --------------------------------------------------------------------------- a node that was killed


def test_what_was_being_written_when_a_node_was_killed_is_cut_off(tmp_path: Path) -> None:
    path = log(tmp_path, 2)
    with path.open("ab") as file:
        file.write(b'{"number": 3, "time": "20')
    assert len(problems(path)) == 1
    AuditLog(path).append(entry(3))
    end, found = verify_log(path)
    assert (end.num_lines, found) == (3, [])


def test_a_line_that_the_head_does_not_count_yet_is_kept(tmp_path: Path) -> None:
    """Killed between the two, or a head put back by somebody who wants the node itself to cut the end off."""
    path = log(tmp_path, 2)
    kept = head(path).read_bytes()
    for number in (3, 4):
        AuditLog(path).append(entry(number))
    head(path).write_bytes(kept)
    AuditLog(path).append(entry(5))
    end, found = verify_log(path)
    assert (end.num_lines, found) == (5, [])
    assert [line["round"] for line in read_lines(path) if line] == [1, 2, 3, 4, 5]


@settings(deadline=None)
@given(st.data())
def test_wherever_a_node_was_killed_the_log_is_whole_after_the_next_line(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = log(tmp_path_factory.mktemp("killed"), 2)
    kept, size = head(path).read_bytes(), path.stat().st_size
    AuditLog(path).append(entry(3))
    text = path.read_bytes()
    head(path).write_bytes(kept)
    path.write_bytes(text[: data.draw(st.integers(size, len(text)))])
    AuditLog(path).append(entry(9))
    assert problems(path) == []
    assert [line["round"] for line in read_lines(path) if line][:2] == [1, 2]


# --------------------------------------------------------------------------- in a worker


class Points:
    """Four samples."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.zeros(2), 0


def trains(order: TaskRequest, workspace: TaskContext) -> TaskResult:
    return workspace.build_result(order, {"loss": 0.5}, {"w": torch.zeros(3)})


def scores(order: TaskRequest, workspace: TaskContext) -> TaskResult:
    return workspace.build_result(order, {"loss": 0.5})


def will_not(order: TaskRequest, workspace: TaskContext) -> TaskResult:
    raise TaskError("no")


def cannot(order: TaskRequest, workspace: TaskContext) -> TaskResult:
    raise RuntimeError("out of order")


def stopped(order: TaskRequest, workspace: TaskContext) -> TaskResult:
    raise TaskCancelled("told to stop")


def odd(order: TaskRequest, workspace: TaskContext) -> TaskResult:
    return workspace.build_result(order, {}, {"w": torch.zeros(3).to_sparse()})


TASKS: dict[str, Any] = {f.__name__: f for f in (trains, scores, will_not, cannot, stopped, odd)}


def worker(path: Path) -> Worker:
    made = Worker("alice", "points", Points(), tasks=TASKS, audit_log=AuditLog(path))
    made.start_run(RunClaim("0123456789abcdef", "coordinator"))
    return made


def order(task: str, **changes: Any) -> TaskRequest:
    settings = {"model": "mlp", **changes.pop("settings", {})}
    return TaskRequest(
        **{"request_id": "1/alice", "worker": "alice", "round": 7, "task": task, "settings": settings, **changes}
    )


def test_every_answer_is_a_line_whatever_it_is(tmp_path: Path) -> None:
    node, path = worker(tmp_path / "log"), tmp_path / "log"
    answers = [node.execute(order(task)) for task in [*TASKS, "unknown"]]
    lines = [line for line in read_lines(path) if line is not None]
    assert [(line["task"], line["outcome"], line["payload"]) for line in lines] == [
        ("trains", "result", "tensors"),
        ("scores", "result", "metrics"),
        ("will_not", "refused", "reason"),
        ("cannot", "failed", "reason"),
        ("stopped", "failed", "reason"),
        ("odd", "failed", "reason"),
        ("unknown", "refused", "reason"),
    ]
    assert [line["num_bytes"] for line in lines] == [encode_message(answer).size for answer in answers]
    first = lines[0]
    assert (first["node"], first["coordinator"], first["run"]) == ("alice", "coordinator", "01234567")
    assert (first["request_id"], first["round"], first["model"], first["epsilon"]) == ("1/alice", 7, "mlp", None)
    assert problems(path) == []


def test_why_nothing_left_is_in_its_line_and_in_the_nodes_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    node, path = worker(tmp_path / "log"), tmp_path / "log"
    refused = node.execute(order("will_not"))
    node.execute(order("trains"))
    assert isinstance(refused, TaskFailure) and refused.reason
    assert [line["reason"] for line in read_lines(path) if line is not None] == [refused.reason, ""]
    assert caplog.messages == [f"alice: will_not was refused: {refused.reason}"]


def test_a_report_above_the_limit_does_not_leave_and_is_not_said_to_have_left(tmp_path: Path) -> None:
    node, path = worker(tmp_path / "log"), tmp_path / "log"
    size = encode_message(node.execute(order("trains"))).size
    assert isinstance(node.execute(order("trains"), MessageLimits(size)), TaskResult)
    answer = node.execute(order("trains"), MessageLimits(size - 1, peer="the coordinator"))
    assert isinstance(answer, TaskFailure) and (answer.kind, answer.code) == ("refused", "permanent")
    assert answer.reason.startswith(f"the result has {size:,} bytes, and the coordinator accepts at most {size - 1:,}")
    assert [line["payload"] for line in read_lines(path) if line is not None] == ["tensors", "tensors", "reason"]


def test_a_long_log_is_counted_a_line_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Members can make it as long as they like, and it is read when a node has started anew."""
    monkeypatch.setattr(os, "fsync", lambda file: None)
    written = AuditLog(tmp_path / "alice.jsonl")
    for number in range(1, 1001):
        written.append(entry(number, payload="features", upload_id=f"{number % 3}", reason="\u2603" * 500))
    assert written.path.stat().st_size > 3_000_000
    found = AuditLog(written.path)
    tracemalloc.start()
    try:
        assert found.sent_upload_ids("alice", "mnist", "") == {"0", "1", "2"}
        assert tracemalloc.get_traced_memory()[1] < 300_000
    finally:
        tracemalloc.stop()
    written.append(entry(1001, payload="features", upload_id="more"))
    assert found.sent_upload_ids("alice", "mnist", "") == {"0", "1", "2", "more"}


def test_the_parts_of_an_upload_count_once_however_many_leave() -> None:
    """A coordinator may request one part as often as it likes, and what counts is looked through at each request."""
    counts = UsageCounts(track_recent=True)
    line = {"node": "alice", "counted_as": "upload", "upload_id": "a5", "payload": "features"}
    tracemalloc.start()
    try:
        for number in range(2000):
            part = {**line, "number": number, "time": current_timestamp()}
            counts.add(part)
        assert tracemalloc.get_traced_memory()[0] < 100_000
    finally:
        tracemalloc.stop()
    counts.add({**line, "time": "3026-11-21T10:00:00.000+00:00"})
    (age,) = counts.answer_ages("alice").values()
    assert age < 60, "the newest, but for what a clock that was ahead wrote"
    assert counts.sent_upload_ids("alice", "", "") == {"a5"}


def test_where_it_cannot_be_written_nothing_leaves(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "logs" / "log"
    node = worker(path)
    assert isinstance(node.execute(order("trains")), TaskResult)
    head(path).unlink()
    head(path).mkdir()  # also for those who may write anything
    answer = node.execute(order("trains"))
    assert isinstance(answer, TaskFailure)
    assert (answer.kind, answer.reason) == ("failed", "the audit log cannot be written, so nothing leaves")
    assert "alice: the audit log cannot be written, so nothing leaves: " in caplog.text
    head(path).rmdir()
    path.unlink()
    assert isinstance(node.execute(order("trains")), TaskFailure)


def test_a_full_disk_lets_nothing_leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node = worker(tmp_path / "log")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert isinstance(node.execute(order("trains")), TaskFailure)
    monkeypatch.undo()
    assert isinstance(node.execute(order("trains")), TaskResult)
    assert problems(tmp_path / "log") == []


@settings(deadline=None, max_examples=30)
@given(st.text(max_size=100), st.text(max_size=100), st.one_of(st.text(max_size=100), st.integers(), st.none()))
def test_what_a_coordinator_calls_things_cannot_break_a_line(
    tmp_path_factory: pytest.TempPathFactory, task: str, name: str, model: Any
) -> None:
    path = tmp_path_factory.mktemp("names") / "log"
    node = worker(path)
    node.start_run(RunClaim(name, name))
    node.execute(order(task, request_id=name, settings={"model": model}))
    assert problems(path) == []
    (line,) = read_lines(path)
    assert line is not None
    assert all(text.isprintable() and len(text) <= 300 for text in line.values() if isinstance(text, str))


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "log", tmp_path):
        with pytest.raises(UsageError, match=rf"^the audit log {path} cannot be continued \(.+\); name another"):
            AuditLog(path)


# --------------------------------------------------------------------------- what is printed


def table(*lines: Mapping[str, object], most: int = 80) -> list[str]:
    widths = command._fit_column_widths(lines, most)
    return [command._format_row(line, widths) for line in (command._COLUMN_TITLES, *lines)]


def test_a_row_is_as_wide_as_what_is_in_it() -> None:
    heading, row = table({**entry(3).__dict__, "epsilon": 0.5})
    assert heading.split() == ["time", "(UTC)", "coordinator", "task", "model", "payload", "bytes", "epsilon"]
    assert row.split() == ["11-21", "10:00:03", "coordinator", "fedavg.fit", "mlp", "tensors", "1003", "0.5"]
    assert [heading.index(title) for title in ("coordinator", "task", "model")] == [15, 27, 38]


def test_a_row_tells_a_report_that_was_sent_again() -> None:
    assert " tensors resent " in table({**entry(3).__dict__, "resent": True})[1]


def test_a_row_is_no_wider_than_a_terminal() -> None:
    whole, long = entry(3).__dict__, dict.fromkeys(command._COLUMN_TITLES, "x" * 200)
    for row in table(whole, long):
        assert len(row) <= 80
    assert row.count("~") == len(command._COLUMN_TITLES) - 1
    assert "~" not in table(long, most=2000)[1]
    long = {**whole, "coordinator": "a-laboratory", "task": "somebodys_own_algorithm.fit", "model": "mnist_cnn"}
    row = table(long)[1]
    assert row.split() == ["11-21", "10:00", "a-laboratory", "somebodys_own_algorith~", "mnist_cnn", "tensors", "1003"]


def test_no_tasks_name_is_cut_at_80_columns() -> None:
    """Of those that ship, in the longest lines that they leave."""
    features = {
        **entry(3).__dict__,
        "model": "mnist_cnn",
        "payload": "features",
        "num_bytes": 4_194_304,
        "epsilon": 5764.0,
    }
    for name in registry.list_pieces("task"):
        heading, row = table({**features, "task": name})
        assert len(heading) <= 80 and len(row) <= 80
        assert name in row.split() and "coordinator" in row.split() and "~" not in row


def test_a_reason_is_told_below_its_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "log"
    node = worker(path)
    node.execute(order("trains"))
    reason = node.execute(order("will_not")).reason  # type: ignore[union-attr]
    assert command.main(argparse.Namespace(node=str(path), verify=False)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and lines[3].split(": ", 1) == [f"{'':15}refused", reason]


def test_what_features_spent_is_told_below_the_first_of_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And that there is no bound, which is not the same as nothing to bound."""
    log, features = AuditLog(tmp_path / "log"), {"payload": "features", "task": "mistnet.upload"}
    told = "each of a record's 11 features leaves as floats, without noise, and epsilon 4 for its label; no bound"
    log.append(entry(payload="metrics"))
    for number in (2, 3):
        log.append(entry(number, **features, privacy=told))
    assert command.main(argparse.Namespace(node=str(log.path), verify=False)) == 0
    _, numbers, first, below, second = capsys.readouterr().out.splitlines()
    assert below == f"{'':15}{told}"
    assert (numbers.endswith("none"), first.endswith("none"), second.endswith("none")) == (False, True, True)


def test_a_reader_that_has_enough_is_no_broken_log(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "log")
    for _ in range(2000):
        log.append(entry())
    shown = subprocess.run(
        f"{sys.executable} -m fedws audit {log.path} | head -1",
        shell=True, capture_output=True, text=True, cwd=REPOSITORY, timeout=60,
    )  # fmt: skip
    assert (shown.stderr, len(shown.stdout.splitlines())) == ("", 1)


@given(
    st.dictionaries(st.sampled_from([*command._COLUMN_TITLES, "other"]), st.one_of(st.text(), st.none(), st.floats()))
)
def test_no_line_does_harm_to_a_terminal(line: dict[str, object]) -> None:
    for row in table(line):
        assert len(row) <= 80 and row.isprintable()
