"""The table that ``fedws audit`` prints: widths of columns, reasons, and hostile values."""

import argparse
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedws.cli import audit as command
from fedws.core import registry
from fedws.privacy.audit_log import AuditLog
from tests.helpers.audit_logs import entry
from tests.helpers.audited_worker import order, worker
from tests.helpers.support import REPOSITORY


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
    """And that a bound is missing, which differs from a record without features."""
    log, features = AuditLog(tmp_path / "log"), {"payload": "features", "task": "mistnet.upload"}
    cost = "each of a record's 11 features is sent as floats, without noise, and epsilon 4 for its label; no bound"
    log.append(entry(payload="metrics"))
    for number in (2, 3):
        log.append(entry(number, **features, privacy=cost))
    assert command.main(argparse.Namespace(node=str(log.path), verify=False)) == 0
    _, numbers, first, below, second = capsys.readouterr().out.splitlines()
    assert below == f"{'':15}{cost}"
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
