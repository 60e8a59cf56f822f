"""The devices of a simulation: who holds which samples, how slow each is, and when it comes and goes."""

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
"""Streams of randomness: what one draws does not shift what the other does."""


@dataclass(frozen=True)
class SimulatedFleet:
    """Devices that share one data set in memory. Every run meets the same, and they come and go at the same times."""

    conditions: Conditions
    dataset: str
    data: Dataset
    sample_indices: dict[str, np.ndarray]
    """The indices of each worker's samples."""
    slowdowns: dict[str, float]
    """How many times the seconds per sample each worker takes."""

    def build_devices(self, event_log: EventLog) -> list[Device]:
        """The devices, as they are when virtual time begins."""
        bandwidth = self.conditions.bandwidth * 1e6 / 8
        found, shared, known = [], TensorCache(), targets.find_labels(self.data)
        for number, (node, part) in enumerate(self.sample_indices.items()):
            indices = torch.from_numpy(part)
            own = samples.SampleSubset(self.data, indices, None if known is None else known[indices])
            worker = Worker(node, self.dataset, own, labels=[] if known is None else None, send_error_details=True)
            speed = DeviceSpeed(self.slowdowns[node] * self.conditions.seconds_per_sample, bandwidth)
            found.append(Device(worker, speed, self._draw_availability(number), event_log, shared))
        return found

    def _draw_availability(self, number: int) -> Iterator[tuple[float, float]]:
        """Exponential stays and pauses, which depend on the seed and the device alone."""
        stay, pause = self.conditions.mean_online_seconds, 60 * self.conditions.mean_offline_minutes
        if math.isinf(stay):
            return iter([(math.inf, 0.0)])
        random = np.random.default_rng([self.conditions.seed, AVAILABILITY_STREAM, number])
        return ((random.exponential(stay), random.exponential(pause)) for _ in itertools.count())


def name_workers(num_workers: int) -> list[str]:
    """What the workers are called.

    >>> name_workers(10)[:2]
    ['w01', 'w02']
    """
    return [f"w{number:0{len(str(num_workers))}}" for number in range(1, num_workers + 1)]


def build_fleet(conditions: Conditions, dataset: str, data: Dataset) -> SimulatedFleet:
    """Deal ``data`` among the workers and draw their slowness. Raises UsageError."""
    nodes, random = name_workers(conditions.num_workers), np.random.default_rng([conditions.seed, SLOWDOWN_STREAM])
    slowness = registry.build_piece("slowdown", conditions.slowdown, conditions.num_workers, random)
    parts = dict(zip(nodes, _split(conditions, dataset, data), strict=True))
    return SimulatedFleet(conditions, dataset, data, parts, dict(zip(nodes, map(float, slowness), strict=True)))


def _split(conditions: Conditions, dataset: str, data: Dataset) -> list[np.ndarray]:
    if conditions.partition == "digits":
        return split_by_demo_labels(
            loading.require_labels(data, dataset).numpy(), conditions.num_workers, conditions.seed
        )
    partition = partitioning.with_seed(conditions.partition, conditions.seed)
    return partitioning.split_into_shares(data, dataset, partition, conditions.num_workers)


def split_by_demo_labels(labels: np.ndarray, num_workers: int, seed: int) -> list[np.ndarray]:
    """The split of the demo, for more workers: the first holds alice's digits, the second bob's, the third charlie's,

    the fourth alice's again, and so on; those with the same digits hold equal shares of them. Samples of labels from
    10 on are nobody's. Raises UsageError when there are fewer than three workers or too few samples.
    """
    groups = list(DEMO_LABELS.values())
    if num_workers < len(groups):
        raise UsageError(f"partition digits is for {len(groups)} workers or more, not {num_workers}")
    random, found = partitioning.build_generator(seed), [np.empty(0, dtype=np.int64)] * num_workers
    for first, group in enumerate(groups):
        labelled = np.flatnonzero(np.isin(labels, group))
        holders = range(first, num_workers, len(groups))
        partitioning.check_share_sizes(len(labelled), len(holders))
        for worker, part in zip(holders, np.array_split(random.permutation(labelled), len(holders)), strict=True):
            found[worker] = np.sort(part)
    return found
