"""The lines of an audit log: their content and size, the end of a log after a kill, and refused older formats."""

import argparse
import json
import os
import stat
import threading
import tracemalloc
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedws.cli import audit as command
from fedws.core.errors import UsageError
from fedws.node.worker import Worker
from fedws.privacy import audit_chain
from fedws.privacy.audit_chain import GENESIS_HASH, read_lines
from fedws.privacy.audit_entry import AuditEntry, current_timestamp
from fedws.privacy.audit_log import AuditLog
from fedws.privacy.audit_verify import verify_log
from fedws.privacy.usage_counts import UsageCounts
from fedws.protocol.messages import TaskFailure, TaskRequest
from fedws.protocol.run_claim import RunClaim
from tests.helpers.audit_logs import entry, head, log, problems

# --------------------------------------------------------------------------- lines


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


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "log", tmp_path):
        with pytest.raises(UsageError, match=rf"^cannot append to audit log {path}: .+; choose another"):
            AuditLog(path)


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


# --------------------------------------------------------------------------- the end of a log after a kill


def test_what_was_being_written_when_a_node_was_killed_is_cut_off(tmp_path: Path) -> None:
    path = log(tmp_path, 2)
    with path.open("ab") as file:
        file.write(b'{"number": 3, "time": "20')
    assert len(problems(path)) == 1
    AuditLog(path).append(entry(3))
    end, found = verify_log(path)
    assert (end.num_lines, found) == (3, [])


def test_a_line_that_the_head_does_not_count_yet_is_kept(tmp_path: Path) -> None:
    """Killed between the two, or an old head restored by an attacker so that the node itself cuts off the end."""
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


# --------------------------------------------------------------------------- older formats


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


OLD = r"it was written by an older fedws; read it with that version"


def test_a_log_of_an_earlier_version_is_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without its lines, uploads that have left would not count any more."""
    path, text = tmp_path / "alice.jsonl", old_lines(3)
    path.write_bytes(text)
    end = {"lines": 3, "hash": json.loads(text.splitlines()[-1])["hash"], "size": len(text)}
    head(path).write_text(json.dumps(end).ljust(159) + "\n")
    with pytest.raises(UsageError, match=rf"^cannot append to audit log {path}: {OLD}; choose another with --"):
        AuditLog(path)
    for verify in (False, True):
        with pytest.raises(UsageError, match=rf"^cannot read {path}: {OLD}$"):
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
