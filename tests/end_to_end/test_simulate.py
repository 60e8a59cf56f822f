"""``fedws simulate`` as a process: its result, its record, its mistakes, its end."""

import json
import signal
from pathlib import Path

import pytest

from tests.helpers.processes import Processes

SHORT = (
    "simulate",
    "--num-workers",
    "4",
    "--dataset",
    "digits",
    "--model",
    "linear",
    "--lr",
    "0.01",
    "--run-dir",
    "sim",
)


def test_strategies_over_one_fleet(processes: Processes, tmp_path: Path) -> None:
    flags = (
        "--rounds",
        "6",
        "--evaluate-every",
        "2",
        "--disconnects-per-hour",
        "5",
        "--target-accuracy",
        "0.5",
        "--seed",
        "3",
    )
    command = processes.fork(*SHORT, *flags, "--algorithm", "fedavg", "--algorithm", "fedbuff:2")
    assert command.end() == 0, command.everything
    assert command.errors == []
    header, *rows, plot = command.lines[-4:]
    assert header.split() == ["algorithm", "to", "50", "%", "ended", "accuracy", "versions", "tasks", "lost", "drops"]
    assert [row.split()[0] for row in rows] == ["fedavg", "fedbuff:2"]
    assert all(len(line) <= 80 for line in command.lines)
    assert plot == "plot  sim/accuracy.png" and (tmp_path / "sim" / "accuracy.png").is_file()
    found = json.loads((tmp_path / "sim" / "simulation.json").read_text(encoding="utf-8"))
    assert found["conditions"]["seed"] == 3
    assert [outcome["num_versions"] for outcome in found["results"]] == [6, 12]
    assert all(outcome["evaluations"][-1][1] > 0.5 for outcome in found["results"])
    for strategy in ("fedavg", "fedbuff-2"):
        lines = (tmp_path / "sim" / strategy / "events.jsonl").read_text(encoding="utf-8").splitlines()
        assert json.loads(lines[0]) == {"t": 0.0, "event": "connected", "worker": "w1"}
        assert (tmp_path / "sim" / strategy / "model.safetensors").is_file()


@pytest.mark.long
def test_another_process_tells_the_same_events(processes: Processes, tmp_path: Path) -> None:
    flags = ("--rounds", "3", "--evaluate-every", "1", "--disconnects-per-hour", "20", "--algorithm", "fedasync")
    commands = []
    for salt in ("1", "2"):
        processes.environment["PYTHONHASHSEED"] = salt  # sets of texts have another order
        commands.append(processes.start("-m", "fedws", *SHORT[:-1], salt, *flags))
    for command in commands:
        assert command.end() == 0, command.everything
    told = [(tmp_path / salt / "fedasync" / "events.jsonl").read_bytes() for salt in ("1", "2")]
    assert told[0] == told[1] and told[0].count(b"\n") > 30


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (("--num-workers", "0"), "num_workers: Input should be greater than or equal to 1, not 0"),
        (("--num-workers", "many"), "argument --num-workers: invalid int value: 'many'"),
        (("--speed", "zipf"), "unknown argument '--speed'; did you mean '--slowdown'?"),
        (("--slowdown", "zipff"), "unknown slowdown 'zipff'; did you mean 'zipf'?"),
        (("--slowdown", "pareto:-1"), "slowdown pareto: alpha: Input should be greater than or equal to 0.1"),
        (("--partition", "shards:0"), "cannot split samples into 0 parts"),
        (("--algorithm", "fedavgg"), "unknown algorithm 'fedavgg'; did you mean 'fedavg'"),
        (
            ("--algorithm", "fedavg", "--algorithm", "fedavg"),
            "--algorithm fedavg is given more than once; remove the duplicate",
        ),
        (("--stop-at-target",), "--stop-at-target requires --target-accuracy"),
        (("--max-hours", "0"), "max_hours: Input should be greater than 0"),
        (("--disconnects-per-hour", "nan"), "disconnects_per_hour: Input should be"),
        (("--min-results", "5"), "--min-results 5 exceeds the number of workers, 4"),
        (("--dataset", "digitz"), "unknown dataset 'digitz'; did you mean 'digits'?"),
        (("--num-workers", "2000"), "1442 samples are too few for 2000 shares of at least 1"),
        (("--run-dir", "taken"), "--run-dir taken is not empty; choose a new or an empty directory"),
        (("--run-dir", "taken/file"), "--run-dir taken/file is a file; choose a new or an empty directory"),
        (("--plugin", "none.py"), "--plugin none.py: Python file not found"),
    ],
)
def test_a_mistake_is_one_line(processes: Processes, tmp_path: Path, flags: tuple[str, ...], text: str) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    command = processes.fork(*SHORT, *flags)
    assert command.end() == 2, command.everything
    assert len(command.errors) == 1 and command.errors[0].startswith(f"fedws simulate: {text}"), command.everything
    assert not (tmp_path / "sim").exists()


def test_verbose_prints_the_log_in_virtual_time(processes: Processes) -> None:
    command = processes.fork(*SHORT, "--rounds", "1", "--verbose")
    assert command.end() == 0, command.everything
    assert any(line.startswith("1970-01-01 00:00:00,000 | Training round 1/1") for line in command.lines)
    assert sum("Evaluating models" in line for line in command.lines) == 1


def test_ctrl_c_ends_it(processes: Processes) -> None:
    command = processes.fork(*SHORT, "--rounds", "100000", "--evaluate-every", "1")
    command.line("version 2 ")
    command.send(signal.SIGINT)
    assert command.end() == 130
    assert command.errors == ["fedws simulate: stopped"]


def test_a_strategy_that_cannot_go_on_does_not_end_the_others(processes: Processes) -> None:
    flags = ("--loss", "mse", "--rounds", "2", "--algorithm", "fedavg", "--algorithm", "fedasync")
    command = processes.fork(*SHORT, *flags)
    assert command.end() == 1
    assert [line.split(": ")[1] for line in command.errors] == ["fedavg", "fedasync"]
    assert all("refused the request: mse" in line for line in command.errors)
    assert command.lines[-1] == "plot  sim/accuracy.png"
