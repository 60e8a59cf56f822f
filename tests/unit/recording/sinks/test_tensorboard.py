"""TensorBoard events: what is written, when it is on disk, and that nothing keeps a process alive."""

import errno
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from fedws.core.errors import UsageError
from fedws.recording.sinks.tensorboard import TensorBoardWriter, to_scalars
from tests.helpers.tensorboard_reader import frames, written

SCORE = {
    "kind": "evaluation",
    "round": 11,
    "model": "alice",
    "accuracy": 0.25,
    "loss": 1.5,
    "num_correct": 2500,
    "num_examples": 10000,
    "predicted_label_counts": [1000] * 10,
}
ROUND = {"kind": "round", "round": 12, "seconds": 0.5, "bytes_sent": 4096, "bytes_received": 2048, "num_results": 3}


def test_what_is_added_is_on_disk_before_the_file_is_closed(tmp_path: Path) -> None:
    events = TensorBoardWriter(tmp_path / "made" / "events")
    events.write(SCORE)
    events.write(ROUND)
    try:
        assert written(tmp_path / "made" / "events") == [
            (11, "accuracy/alice", 0.25),
            (11, "loss/alice", 1.5),
            (12, "round/seconds", 0.5),
            (12, "round/bytes_sent", 4096),
            (12, "round/bytes_received", 2048),
            (12, "round/num_results", 3),
        ]
    finally:
        events.close()


def test_the_file_opens_as_tensorboard_expects(tmp_path: Path) -> None:
    TensorBoardWriter(tmp_path).close()
    (path,) = tmp_path.iterdir()
    assert path.name.startswith("events.out.tfevents.")
    assert [event.file_version for event in frames(path)] == ["brain.Event:2"]


def test_closing_twice_is_safe_and_starts_no_thread(tmp_path: Path) -> None:
    before = threading.active_count()
    events = TensorBoardWriter(tmp_path)
    events.write(ROUND)
    assert threading.active_count() == before
    events.close()
    events.close()


def test_a_run_that_goes_on_writes_all_anew(tmp_path: Path) -> None:
    """TensorBoard would draw what an earlier file holds of rounds that come again."""
    (tmp_path / "run.log").write_text("precious")
    first = TensorBoardWriter(tmp_path)
    for round_number in (1, 2, 3):
        first.write({**ROUND, "round": round_number})
    first.close()
    kept = [{**ROUND, "round": 1}, {**SCORE, "round": 1}, {"kind": "note", "round": 1}]
    second = TensorBoardWriter(tmp_path)
    for record in kept:
        second.write(record)
    second.write({**ROUND, "round": 2, "seconds": 0.75})
    second.close()
    second.close()
    rounds = [(step, value) for step, tag, value in written(tmp_path) if tag == "round/seconds"]
    assert rounds == [(1, 0.5), (2, 0.75)]
    assert (1, "accuracy/alice", 0.25) in written(tmp_path)
    assert len(list(tmp_path.glob("*tfevents*"))) == 1
    assert (tmp_path / "run.log").read_text() == "precious"


def test_two_writers_in_one_second_have_files_of_their_own(tmp_path: Path) -> None:
    for folder in ("a", "a", "b"):
        events = TensorBoardWriter(tmp_path / folder)
        events.write(ROUND)
        events.close()
        assert [tag for _, tag, _ in written(tmp_path / folder)].count("round/seconds") == 1


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"kind": "note", "round": 1, "seconds": 1.0},
        {"kind": "evaluation", "round": 1, "model": "a", "accuracy": None},
    ],
)
def test_a_record_with_nothing_to_show_writes_nothing(tmp_path: Path, record: dict[str, Any]) -> None:
    events = TensorBoardWriter(tmp_path)
    events.write(record)
    events.close()
    assert written(tmp_path) == []


def test_metrics_of_nodes_have_tags_of_their_own() -> None:
    """One that is called as a number of the score is not taken for it; without that number it has the tag."""
    metrics = {"loss": 0.5, "seconds": 3.0, "gone": None}
    assert to_scalars({**ROUND, "metrics": metrics}) == {
        **to_scalars(ROUND),
        "workers/loss": 0.5,
        "workers/seconds": 3.0,
    }
    found = to_scalars({**SCORE, "metrics": {"f1": 0.75, "accuracy": 7.0, "loss": 9.0}})
    assert found == {**to_scalars(SCORE), "f1/alice": 0.75}
    assert to_scalars({**SCORE, "accuracy": None, "metrics": {"accuracy": 0.5}})["accuracy/alice"] == 0.5


def test_only_numbers_are_scalars() -> None:
    assert to_scalars({**ROUND, "resumed": True, "note": "x"}) == to_scalars(ROUND)
    assert to_scalars({**SCORE, "accuracy": None}) == {"loss/alice": 1.5}


def test_a_directory_that_cannot_be_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot write events to ") as caught:
        TensorBoardWriter(tmp_path / "file")
    assert "\n" not in str(caught.value)


START = f"""
import os, pathlib, resource, signal, sys
from fedws.recording.sinks.tensorboard import TensorBoardWriter
events, record = TensorBoardWriter(pathlib.Path(sys.argv[1])), {ROUND}
events.write(record)
"""
FULL = """
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (900, 900))
try:
    while True:
        events.write(record)
except OSError as error:
    os._exit(error.errno)
"""


def run(source: str, directory: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", START + source, str(directory)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_killed_process_loses_no_record(tmp_path: Path) -> None:
    done = run("os.kill(os.getpid(), signal.SIGKILL)", tmp_path)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (12, "round/seconds", 0.5) in written(tmp_path)


def test_a_process_that_forgets_to_close_ends(tmp_path: Path) -> None:
    done = run("", tmp_path)
    assert done.returncode == 0, done.stderr
    assert (12, "round/seconds", 0.5) in written(tmp_path)


def test_a_full_disk_raises_and_does_not_hang(tmp_path: Path) -> None:
    done = run(FULL, tmp_path)
    assert done.returncode == errno.EFBIG, done.stderr
    (path,) = tmp_path.iterdir()
    assert path.stat().st_size <= 900
