"""The table, the file and the picture of a simulation."""

import json
from pathlib import Path

import pytest
import torch

from fedws.core.errors import UsageError
from fedws.data.samples import ImageDataset
from fedws.recording import curves
from fedws.simulation import fleet, report
from fedws.simulation.conditions import build_conditions
from fedws.simulation.run import SimulationResult

COUNTS = {"connected": 33, "request": 629, "result": 600, "lost": 2, "disconnected": 3, "version": 60, "evaluation": 3}
FAST = SimulationResult("fedbuff:10", [(60.0, 0.5), (125.9, 0.91), (3600.0, 0.9)], 60, 3600.0, COUNTS)
SLOW = SimulationResult("fedavg", [(60.0, 0.5)], 20, 604800.0, {"request": 5}, "round 21: too few workers are left")
NONE = SimulationResult("a" * 60)


def test_the_table() -> None:
    assert report.format_table([FAST, SLOW, NONE], 0.9) == [
        "algorithm               to 90 %      ended accuracy versions   tasks  lost drops",
        "fedbuff:10              0:02:05    1:00:00  90.00 %       60     629     2     3",
        "fedavg                        -  168:00:00  50.00 %       20       5     0     0",
        "aaaaaaaaaaaaaaaaaaa…          -    0:00:00        -        0       0     0     0",
    ]


def test_the_table_without_a_target() -> None:
    assert report.format_table([FAST], None)[1] == (
        "fedbuff:10                         1:00:00  90.00 %       60     629     2     3"
    )


def test_the_table_fits_a_terminal() -> None:
    crowd = SimulationResult(
        "x" * 60, [(9e6, 1.0)], 10**6, 9e6, {"request": 10**6, "lost": 10**4, "disconnected": 10**3}
    )
    assert all(len(line) <= 80 for line in report.format_table([crowd, FAST], 0.12345))


def test_the_target_is_reached_when_it_first_is() -> None:
    assert (
        FAST.seconds_to_accuracy(0.9),
        FAST.seconds_to_accuracy(0.91),
        FAST.seconds_to_accuracy(0.92),
        NONE.seconds_to_accuracy(0.1),
    ) == (125.9, 125.9, None, None)


def test_the_file_holds_everything(tmp_path: Path) -> None:
    data = ImageDataset(torch.zeros(60, 1, 2, 2, dtype=torch.uint8), torch.arange(60) % 10, (0.5,), (0.5,))
    devices = fleet.build_fleet(
        build_conditions({"num_workers": 3, "target_accuracy": 0.9, "slowdown": "uniform:2,high=2"}), "mnist", data
    )
    report.write_report(tmp_path / "simulation.json", devices, [FAST, SLOW])
    found = json.loads((tmp_path / "simulation.json").read_text(encoding="utf-8"))
    assert found["conditions"]["target_accuracy"] == 0.9
    assert found["devices"] == {node: {"slowdown": 2.0, "num_examples": 20} for node in ("w1", "w2", "w3")}
    assert [outcome["seconds_to_target"] for outcome in found["results"]] == [125.9, None]
    assert found["results"][0]["evaluations"] == [list(score) for score in FAST.evaluations]
    with pytest.raises(UsageError, match=r"^cannot write .*simulation\.json: "):
        report.write_report(tmp_path / "nowhere" / "simulation.json", devices, [])


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"fedavg": []},
        {"fedavg": [(0.0, 0.5)]},
        {
            "fedavg": FAST.evaluations,
            "$fedbuff_{k}$": SLOW.evaluations,
            "a" * 60: [(float(n), n / 100) for n in range(100)],
        },
        {f"s{n}": [(86400.0 * n, 0.5)] for n in range(20)},
    ],
)
@pytest.mark.parametrize("target", [None, 0.9])
def test_the_picture(values: dict[str, list[tuple[float, float]]], target: float | None, tmp_path: Path) -> None:
    curves.draw_over_time(values, tmp_path / "accuracy.png", "30 devices, 漢字 $x$", target)
    assert (tmp_path / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["accuracy.png"]
