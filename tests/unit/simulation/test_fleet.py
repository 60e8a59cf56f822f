"""Who holds what, how slow each is, and when it comes and goes."""

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fedws.core.errors import UsageError
from fedws.data.samples import ImageDataset
from fedws.simulation import fleet
from fedws.simulation.conditions import Conditions, build_conditions
from fedws.simulation.event_log import EventLog
from tests.helpers.federation import Points


def data(labels: int = 10) -> ImageDataset:
    pixels = torch.zeros(600, 1, 4, 4, dtype=torch.uint8)
    return ImageDataset(pixels, torch.arange(600) % labels, (0.5,), (0.5,))


def some(**settings: Any) -> Conditions:
    return build_conditions({"num_workers": 6, **settings})


@pytest.mark.parametrize("partition", ["iid", "dirichlet:0.5", "shards:2", "digits"])
def test_every_sample_is_dealt_once_and_by_the_seed(partition: str) -> None:
    one, again, other = (fleet.build_fleet(some(partition=partition, seed=seed), "mnist", data()) for seed in (1, 1, 2))
    assert sorted(np.concatenate(list(one.sample_indices.values())).tolist()) == list(range(600))
    assert all(np.array_equal(one.sample_indices[node], again.sample_indices[node]) for node in one.sample_indices)
    assert not all(np.array_equal(one.sample_indices[node], other.sample_indices[node]) for node in one.sample_indices)
    assert one.slowdowns == again.slowdowns != other.slowdowns


def test_a_seed_in_the_partition_wins() -> None:
    one, other = (fleet.build_fleet(some(partition="iid,seed=7", seed=seed), "mnist", data()) for seed in (1, 2))
    assert all(np.array_equal(one.sample_indices[node], other.sample_indices[node]) for node in one.sample_indices)


def test_digits_are_those_of_alice_bob_and_charlie_in_turn() -> None:
    found = fleet.build_fleet(build_conditions({"num_workers": 7, "partition": "digits"}), "mnist", data())
    held = [sorted(set((part % 10).tolist())) for part in found.sample_indices.values()]
    alice, bob, charlie = [0, 1, 2, 3], [4, 5, 6], [7, 8, 9]
    assert held == [alice, bob, charlie, alice, bob, charlie, alice]
    assert [len(part) for part in found.sample_indices.values()] == [80, 90, 90, 80, 90, 90, 80]


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"num_workers": 2, "partition": "digits"}, "partition digits requires at least 3 workers, got 2"),
        ({"num_workers": 601}, "600 samples are too few for 601 shares of at least 1"),
        ({"num_workers": 1000, "partition": "digits"}, "240 samples are too few for 334 shares of at least 1"),
        ({"partition": "idd"}, "unknown partition 'idd'; did you mean 'iid'."),
        ({"slowdown": "parreto"}, "unknown slowdown 'parreto'; did you mean 'pareto'."),
        ({"slowdown": "uniform:5"}, "uniform: high=4 is less than low=5"),
    ],
)
def test_what_cannot_be_dealt_or_drawn_is_said(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError, match=f"^{text}"):
        fleet.build_fleet(some(**settings), "mnist", data())


@pytest.mark.parametrize("partition", ["dirichlet", "shards", "digits"])
def test_samples_without_labels_cannot_be_dealt_by_them(partition: str) -> None:
    plain = Points(Path(), True)
    plain.targets = plain.targets.float()
    with pytest.raises(UsageError, match=r"dataset points has no class labels: .* float32; .*iid"):
        fleet.build_fleet(some(partition=partition), "points", plain)


def test_samples_without_labels_can_be_dealt_equally(tmp_path: Path) -> None:
    plain = Points(Path(), True)
    labelled = fleet.build_fleet(some(), "points", plain)
    plain.targets = plain.targets.float()
    found = fleet.build_fleet(some(), "points", plain)
    assert all(
        np.array_equal(found.sample_indices[node], labelled.sample_indices[node]) for node in labelled.sample_indices
    )
    devices = found.build_devices(EventLog(tmp_path / "events.jsonl"))
    assert [device._worker._welcome.labels for device in devices] == [[]] * 6


class Counted:
    """Samples that count how often their targets are read."""

    def __init__(self, targets: list[float]) -> None:
        self._targets = targets
        self.read = 0

    def __len__(self) -> int:
        return len(self._targets)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return torch.zeros(4), self._targets[index]

    @property
    def targets(self) -> list[float]:
        self.read += 1
        return self._targets


@pytest.mark.parametrize("workers", [3, 60])
@pytest.mark.parametrize("labelled", [True, False])
def test_targets_are_converted_once_however_many_devices(workers: int, labelled: bool, tmp_path: Path) -> None:
    whole = Counted([number % 10 if labelled else number / 10 for number in range(120)])
    found = fleet.build_fleet(some(num_workers=workers), "counted", whole)
    whole.read = 0
    devices = found.build_devices(EventLog(tmp_path / "events.jsonl"))
    assert whole.read == 1
    for device, part in zip(devices, found.sample_indices.values(), strict=True):
        wanted = sorted(set((part % 10).tolist())) if labelled else []
        assert device._worker._welcome.labels == wanted


def test_the_devices_share_the_data_in_memory(tmp_path: Path) -> None:
    whole = data()
    devices = fleet.build_fleet(some(), "mnist", whole).build_devices(EventLog(tmp_path / "events.jsonl"))
    assert [device.url for device in devices][:2] == ["memory://w1", "memory://w2"]
    assert all(device._worker._context.data._dataset is whole for device in devices)  # type: ignore[attr-defined]


def test_speeds_are_the_base_times_the_slowness(tmp_path: Path) -> None:
    found = fleet.build_fleet(some(seconds_per_sample=0.5, bandwidth=8.0), "mnist", data())
    paces = {device.node: device._speed for device in found.build_devices(EventLog(tmp_path / "events.jsonl"))}
    assert {node: pace.seconds_per_sample for node, pace in paces.items()} == {
        n: 0.5 * s for n, s in found.slowdowns.items()
    }
    assert {pace.bytes_per_second for pace in paces.values()} == {1e6}  # 8 Mbit/s


def absences(conditions: Conditions, number: int, count: int) -> list[tuple[float, float]]:
    return list(itertools.islice(fleet.build_fleet(conditions, "mnist", data())._draw_availability(number), count))


def test_stays_and_pauses_have_their_means() -> None:
    stays, pauses = np.array(absences(some(disconnects_per_hour=2, mean_offline_minutes=5), 0, 20_000)).T
    assert stays.mean() == pytest.approx(1800, rel=0.03)
    assert pauses.mean() == pytest.approx(300, rel=0.03)
    assert (stays > 1800).mean() == pytest.approx(math.exp(-1), abs=0.02)


def test_absences_are_of_the_seed_and_the_device_alone() -> None:
    one = absences(some(disconnects_per_hour=2, seed=1), 3, 5)
    assert one == absences(some(disconnects_per_hour=2, seed=1, num_workers=30, slowdown="zipf"), 3, 5)
    assert one != absences(some(disconnects_per_hour=2, seed=1), 4, 5)
    assert one != absences(some(disconnects_per_hour=2, seed=2), 3, 5)


def test_without_drop_outs_nobody_leaves() -> None:
    assert absences(some(), 0, 5) == [(math.inf, 0.0)]


def test_which_part_is_present() -> None:
    assert some().online_fraction == 1
    assert some(disconnects_per_hour=1, mean_offline_minutes=20).online_fraction == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"num_workers": 0}, "num_workers: Input should be greater than or equal to 1, not 0"),
        ({"disconnects_per_hour": -1}, "disconnects_per_hour: Input should be greater than or equal to 0, not -1"),
        ({"max_hours": math.inf}, "max_hours: .*finite.*"),
        ({"target_accuracy": 90}, "target_accuracy: Input should be less than or equal to 1, not 90"),
        ({"stop_at_target": True}, "--stop-at-target requires --target-accuracy"),
        ({"speed": "zipf"}, "unknown setting 'speed'"),
    ],
)
def test_conditions_are_checked(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError, match=f"^{text}$"):
        build_conditions(settings)
