"""The devices of a simulation, with their samples, their slowdowns and the times at which they are connected."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from fedws.core import registry
from fedws.core.demo_nodes import DEMO_LABELS
from fedws.core.errors import UsageError
from fedws.data import loading, partitioning, samples, targets
from fedws.data.base import Dataset
from fedws.node.worker import Worker
from fedws.simulation.conditions import Conditions
from fedws.simulation.device import Device, DeviceSpeed
from fedws.simulation.event_log import EventLog
from fedws.simulation.tensor_cache import TensorCache

SLOWDOWN_STREAM, AVAILABILITY_STREAM = 1, 2
"""Ids of independent random streams, so that draws from one do not change draws from the other."""


@dataclass(frozen=True)
class SimulatedFleet:
    """Devices that share one data set in memory, with the same connection times in every run."""

    conditions: Conditions
    dataset: str
    data: Dataset
    sample_indices: dict[str, np.ndarray]
    """Indices of the samples of each worker."""
    slowdowns: dict[str, float]
    """Factor of each worker by which its training time per sample is multiplied."""

    def build_devices(self, event_log: EventLog) -> list[Device]:
        """Return new devices in their state at virtual time 0."""
        bandwidth = self.conditions.bandwidth * 1e6 / 8
        devices, tensor_cache, labels = [], TensorCache(), targets.find_labels(self.data)
        for number, (node, part) in enumerate(self.sample_indices.items()):
            indices = torch.from_numpy(part)
            subset = samples.SampleSubset(self.data, indices, None if labels is None else labels[indices])
            worker = Worker(node, self.dataset, subset, labels=[] if labels is None else None, send_error_details=True)
            speed = DeviceSpeed(self.slowdowns[node] * self.conditions.seconds_per_sample, bandwidth)
            devices.append(Device(worker, speed, self._draw_availability(number), event_log, tensor_cache))
        return devices

    def _draw_availability(self, number: int) -> Iterator[tuple[float, float]]:
        """Yield exponential connected and offline times in seconds, which depend only on the seed and the device."""
        online, offline = self.conditions.mean_online_seconds, 60 * self.conditions.mean_offline_minutes
        if math.isinf(online):
            return iter([(math.inf, 0.0)])
        random = np.random.default_rng([self.conditions.seed, AVAILABILITY_STREAM, number])
        return ((random.exponential(online), random.exponential(offline)) for _ in itertools.count())


def name_workers(num_workers: int) -> list[str]:
    """Return the names of the workers.

    >>> name_workers(10)[:2]
    ['w01', 'w02']
    """
    return [f"w{number:0{len(str(num_workers))}}" for number in range(1, num_workers + 1)]


def build_fleet(conditions: Conditions, dataset: str, data: Dataset) -> SimulatedFleet:
    """Split ``data`` among the workers and draw their slowdowns. Raise UsageError for conditions that do not work."""
    nodes, random = name_workers(conditions.num_workers), np.random.default_rng([conditions.seed, SLOWDOWN_STREAM])
    slowdowns = registry.build_piece("slowdown", conditions.slowdown, conditions.num_workers, random)
    parts = dict(zip(nodes, _split(conditions, dataset, data), strict=True))
    return SimulatedFleet(conditions, dataset, data, parts, dict(zip(nodes, map(float, slowdowns), strict=True)))


def _split(conditions: Conditions, dataset: str, data: Dataset) -> list[np.ndarray]:
    if conditions.partition == "digits":
        return split_by_demo_labels(
            loading.require_labels(data, dataset).numpy(), conditions.num_workers, conditions.seed
        )
    partition = partitioning.with_seed(conditions.partition, conditions.seed)
    return partitioning.split_into_shares(data, dataset, partition, conditions.num_workers)


def split_by_demo_labels(labels: np.ndarray, num_workers: int, seed: int) -> list[np.ndarray]:
    """Return the sample indices of each worker for the split of the demo, extended to more workers.

    The first worker holds the digits of alice, the second those of bob, the third those of charlie, the fourth those
    of alice, and so on. Workers with the same digits hold equal shares of them. Samples with labels of 10 or more are
    not used. Raise UsageError if there are fewer than three workers or too few samples.
    """
    groups = list(DEMO_LABELS.values())
    if num_workers < len(groups):
        raise UsageError(f"partition digits requires at least {len(groups)} workers, got {num_workers}")
    random, shares = partitioning.build_generator(seed), [np.empty(0, dtype=np.int64)] * num_workers
    for first, group in enumerate(groups):
        labelled = np.flatnonzero(np.isin(labels, group))
        holders = range(first, num_workers, len(groups))
        partitioning.check_share_sizes(len(labelled), len(holders))
        for worker, part in zip(holders, np.array_split(random.permutation(labelled), len(holders)), strict=True):
            shares[worker] = np.sort(part)
    return shares
