"""The learning curves: the numbers behind them, and that every kind of run gives a picture."""

import json
import math
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from fedws.core.errors import UsageError
from fedws.recording.curves import draw_curves, spread_positions
from fedws.recording.evaluation_lines import FEDERATED_MODEL, distinct_label_sets
from fedws.recording.metrics_reader import metric_series, prediction_shares, read_records

GROUPS = {"alice": [0, 1, 2, 3], "bob": [4, 5, 6], "charlie": [7, 8, 9]}
TEST = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
ROUNDS = {1: 0.1719, 11: 0.8693, 21: 0.9427, 31: 0.9449, 40: 0.9592}
"""The article's federated accuracies."""


def score(round_number: int, model: str, accuracy: float | None, histogram: Sequence[int] | None) -> dict[str, Any]:
    loss = 2.0 - (accuracy or 0.0)
    return {
        "kind": "evaluation",
        "round": round_number,
        "model": model,
        "accuracy": accuracy,
        "loss": loss,
        "num_examples": 10000,
        "predicted_label_counts": None if histogram is None else list(histogram),
    }


def timing(round_number: int) -> dict[str, Any]:
    return {
        "kind": "round",
        "round": round_number,
        "seconds": 0.2 + round_number / 1000,
        "num_results": 3,
        "num_failures": 0,
    }


def run(groups: Mapping[str, Sequence[int]], rounds: Mapping[int, float] = ROUNDS) -> list[dict[str, Any]]:
    """A run in which each worker's model predicts, in the first round, only labels that the worker holds."""
    records = []
    for round_number, accuracy in rounds.items():
        for worker, labels in groups.items():
            own = [count if label in labels or round_number > 1 else 0 for label, count in enumerate(TEST)]
            records.append(score(round_number, worker, accuracy * sum(own) / 10000, own))
        records.append(score(round_number, FEDERATED_MODEL, accuracy, TEST))
    return [*records, *(timing(round_number) for round_number in range(1, max(rounds, default=0) + 1))]


def test_series_by_model_and_round() -> None:
    records = [
        score(11, "bob", 0.5, None),
        score(1, "bob", 0.25, None),
        timing(1),
        score(1, FEDERATED_MODEL, 0.1719, None),
    ]
    assert metric_series(records) == {"bob": [(1, 0.25), (11, 0.5)], FEDERATED_MODEL: [(1, 0.1719)]}
    assert metric_series(records, "loss")["bob"] == [(1, 1.75), (11, 1.5)]


def test_series_leaves_out_what_is_no_number_and_keeps_the_last_of_a_round_scored_twice() -> None:
    records = [score(1, "bob", None, None), score(2, "bob", math.nan, None), score(3, "bob", 0.1, None)]
    assert metric_series([*records, score(3, "bob", 0.2, None)]) == {"bob": [(3, 0.2)]}
    assert metric_series([timing(1)]) == {}


def lossy(round_number: int, loss: float, model: str = FEDERATED_MODEL) -> dict[str, Any]:
    return {**score(round_number, model, None, None), "loss": loss}


@pytest.mark.parametrize("losses", [[1.7e308], [-1.7e308], [1e308, -1e308], [1e31, 0.5], [1e30, -1e30], [5e-324, 1e30]])
def test_values_that_no_axis_holds_are_left_out_of_the_picture(losses: list[float], tmp_path: Path) -> None:
    records = [lossy(round_number, loss) for round_number, loss in enumerate(losses, 1)]
    draw_curves(records, {}, tmp_path / "curves.png")
    assert sum(map(len, metric_series(records, "loss").values())) == sum(abs(loss) <= 1e30 for loss in losses)
    assert (tmp_path / "curves.png").stat().st_size > 5000


@pytest.mark.parametrize("model", ["$\\frac{$", "a$b$c", "^_{"])
@pytest.mark.parametrize("groups", [{}, {"$\\frac{$": [0], "a$b$c": [1], "^_{": [2]}])
def test_a_name_is_no_formula(model: str, groups: Mapping[str, Sequence[int]], tmp_path: Path) -> None:
    draw_curves([score(1, model, 0.5, [1, 2, 3])], groups, tmp_path / "curves.png")


@pytest.mark.parametrize("seconds", [{}, {"seconds": 1e308}, {"seconds": 10**20}])
def test_any_seconds_of_a_round_give_a_picture(seconds: dict[str, Any], tmp_path: Path) -> None:
    draw_curves([{"kind": "round", "round": 1, **seconds}, timing(2)], {}, tmp_path / "curves.png")


def test_losses_that_are_large_integers_are_drawn(tmp_path: Path) -> None:
    draw_curves([lossy(1, 1), lossy(2, 10**20)], {}, tmp_path / "curves.png")


def test_shares_of_the_test_images() -> None:
    found = prediction_shares(run(GROUPS), GROUPS)
    assert list(found) == ["alice", "bob", "charlie", FEDERATED_MODEL]
    assert [found[worker][1] for worker in GROUPS] == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert found["alice"][40] == found[FEDERATED_MODEL][1] == [0.4157, 0.2832, 0.3011]
    assert prediction_shares([score(1, "alice", 0.5, None), score(2, "alice", 0.5, [0] * 10)], GROUPS) == {}


def test_groups_are_the_distinct_sets_in_the_order_of_the_workers() -> None:
    assert distinct_label_sets({"a": [6, 4, 5], "b": [0, 1], "c": [4, 5, 6], "d": []}) == [(4, 5, 6), (0, 1)]


def test_spread_keeps_order_and_distance() -> None:
    places = spread_positions([0.9, 0.95, 0.94, 0.2], 0.1)
    assert places == pytest.approx([0.8, 1.0, 0.9, 0.2])
    assert spread_positions([], 0.1) == []


TEN = {f"worker-{i}": [i, (i + 1) % 10] for i in range(10)}
MANY = {f"worker-{i}": [i % 10] for i in range(30)}
LONG = {"the-sensor-behind-the-greenhouse-17": [0, 1, 3, 5, 7], "b": [2], "c": [4, 6]}
IID = {worker: list(range(10)) for worker in GROUPS}
EVERY_ROUND = {round_number: round_number / 50 for round_number in range(1, 41)}
LOSSES = [{**r, "accuracy": None, "predicted_label_counts": None} for r in run(GROUPS) if r["kind"] == "evaluation"]
STEEP = [{**r, "loss": 10.0 ** -r["round"]} for r in LOSSES]
DIVERGED = [{**r, "loss": math.nan} for r in LOSSES]
LEFT = [r for r in run(GROUPS) if r.get("model") != "bob" or r["round"] < 30]


@pytest.mark.parametrize(
    ("records", "groups", "wide"),
    [
        pytest.param(run(GROUPS), GROUPS, True, id="the demo"),
        pytest.param(run(GROUPS, {1: 0.1719}), GROUPS, True, id="one scored round"),
        pytest.param(run(GROUPS, EVERY_ROUND), GROUPS, True, id="40 scored rounds"),
        pytest.param(run(TEN), TEN, True, id="ten workers, labels shared"),
        pytest.param(run(MANY), MANY, True, id="thirty workers"),
        pytest.param(run(LONG), LONG, True, id="a long name, a label that nobody holds"),
        pytest.param(LEFT, GROUPS, True, id="a worker that left"),
        pytest.param(run(IID), IID, False, id="every worker holds every label"),
        pytest.param(run({}), GROUPS, False, id="only the federated model scored"),
        pytest.param(LOSSES, {"alice": [], "bob": []}, False, id="regression"),
        pytest.param(STEEP, {}, False, id="losses over many decades"),
        pytest.param(DIVERGED, {}, False, id="diverged"),
        pytest.param([timing(1), timing(2)], GROUPS, False, id="no evaluator"),
        pytest.param([], {}, False, id="nothing at all"),
    ],
)
def test_every_run_gives_a_picture(
    tmp_path: Path, records: list[dict[str, Any]], groups: dict[str, list[int]], wide: bool
) -> None:
    path = tmp_path / "curves.png"
    path.write_bytes(b"an older one")
    draw_curves(records, groups, path, "fedavg, $run_1 of 学")
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    assert len(data) > 10_000
    size = int.from_bytes(data[16:20]), int.from_bytes(data[20:24])
    assert size == ((1600, 900) if wide else (1100, 700))
    assert list(tmp_path.iterdir()) == [path]


def test_a_picture_that_cannot_be_written_leaves_the_older_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Path, data: bytes) -> None:
        with self.open("wb") as file:
            file.write(b"half")
        raise OSError("no space left")

    path = tmp_path / "curves.png"
    path.write_bytes(b"an older one")
    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="no space"):
        draw_curves([], {}, path)
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("curves.png", b"an older one")]


def test_reading_records_costs_no_matplotlib() -> None:
    source = "import sys, fedws.recording.curves; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", source], timeout=60, check=False).returncode == 0


def test_read_leaves_out_a_line_that_was_cut(tmp_path: Path) -> None:
    whole = json.dumps(timing(1)).encode()
    (tmp_path / "metrics.jsonl").write_bytes(whole + b"\n" + whole[:-5])
    assert read_records(tmp_path) == [timing(1)]
    (tmp_path / "metrics.jsonl").write_bytes(whole + b"\n\xff\xc3")
    assert read_records(tmp_path) == [timing(1)]
    (tmp_path / "metrics.jsonl").write_bytes(whole)
    assert read_records(tmp_path) == [timing(1)]
    (tmp_path / "metrics.jsonl").write_bytes(b"")
    assert read_records(tmp_path) == []


@pytest.mark.parametrize("line", [b'{"kind": ', b"17", b"[1, 2]", b"\xff"])
def test_read_names_a_line_that_is_no_record(tmp_path: Path, line: bytes) -> None:
    whole = json.dumps(timing(1)).encode() + b"\n"
    (tmp_path / "metrics.jsonl").write_bytes(whole + line + b"\n" + whole)
    with pytest.raises(UsageError, match=r"metrics\.jsonl: line 2 is not a valid record"):
        read_records(tmp_path)


def test_read_where_no_run_is(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"metrics\.jsonl not found; give the directory of a run"):
        read_records(tmp_path / "nowhere")
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(UsageError, match=r"metrics\.jsonl: "):
        read_records(tmp_path)
