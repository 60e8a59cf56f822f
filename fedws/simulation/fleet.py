"""The devices of a simulation: who holds which samples, how slow each is, and when it comes and goes."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from fedws.core import registry
from fedws.core.errors import UsageError
from fedws.data import label_ranges, loading, partitioning, samples
from fedws.data.base import Dataset
from fedws.node.worker import Worker
from fedws.simulation.conditions import Conditions
from fedws.simulation.device import Device, Pace
from fedws.simulation.event_log import Journal
from fedws.simulation.tensor_cache import Shared

SPEEDS, ABSENCES = 1, 2
"""Streams of randomness: what one draws does not shift what the other does."""


@dataclass(frozen=True)
class Fleet:
    """Devices that share one data set in memory. Every run meets the same, and they come and go at the same times."""

    conditions: Conditions
    dataset: str
    data: Dataset
    parts: dict[str, np.ndarray]
    """The indices of each worker's samples."""
    slowness: dict[str, float]
    """How many times the seconds per sample each worker takes."""

    def devices(self, journal: Journal) -> list[Device]:
        """The devices, as they are when virtual time begins."""
        bandwidth = self.conditions.bandwidth * 1e6 / 8
        found, shared, known = [], Shared(), samples.labels(self.data)
        for number, (node, part) in enumerate(self.parts.items()):
            indices = torch.from_numpy(part)
            own = samples.Part(self.data, indices, None if known is None else known[indices])
            worker = Worker(node, self.dataset, own, labels=[] if known is None else None, details=True)
            pace = Pace(self.slowness[node] * self.conditions.seconds_per_sample, bandwidth)
            found.append(Device(worker, pace, self._absences(number), journal, shared))
        return found

    def _absences(self, number: int) -> Iterator[tuple[float, float]]:
        """Exponential stays and pauses, which depend on the seed and the device alone."""
        stay, pause = self.conditions.stay, 60 * self.conditions.pause
        if math.isinf(stay):
            return iter([(math.inf, 0.0)])
        random = np.random.default_rng([self.conditions.seed, ABSENCES, number])
        return ((random.exponential(stay), random.exponential(pause)) for _ in itertools.count())


def names(workers: int) -> list[str]:
    """What the workers are called.

    >>> names(10)[:2]
    ['w01', 'w02']
    """
    return [f"w{number:0{len(str(workers))}}" for number in range(1, workers + 1)]


def make(conditions: Conditions, dataset: str, data: Dataset) -> Fleet:
    """Deal ``data`` among the workers and draw their slowness. Raises UsageError."""
    nodes, random = names(conditions.workers), np.random.default_rng([conditions.seed, SPEEDS])
    slowness = registry.build("speed", conditions.speeds, conditions.workers, random)
    parts = dict(zip(nodes, _dealt(conditions, dataset, data), strict=True))
    return Fleet(conditions, dataset, data, parts, dict(zip(nodes, map(float, slowness), strict=True)))


def _dealt(conditions: Conditions, dataset: str, data: Dataset) -> list[np.ndarray]:
    if conditions.partition == "digits":
        return by_digits(loading.labels(data, dataset).numpy(), conditions.workers, conditions.seed)
    partition = loading.seeded(conditions.partition, conditions.seed)
    return loading.dealt(data, dataset, partition, conditions.workers)


def by_digits(targets: np.ndarray, workers: int, seed: int) -> list[np.ndarray]:
    """The split of the demo, for more workers: the first holds alice's digits, the second bob's, the third charlie's,

    the fourth alice's again, and so on; those with the same digits hold equal shares of them. Samples of labels from
    10 on are nobody's. Raises UsageError when there are fewer than three workers or too few samples.
    """
    groups = list(label_ranges.DEFAULTS.values())
    if workers < len(groups):
        raise UsageError(f"partition digits is for {len(groups)} workers or more, not {workers}")
    random, found = partitioning.generator(seed), [np.empty(0, dtype=np.int64)] * workers
    for first, group in enumerate(groups):
        held = np.flatnonzero(np.isin(targets, group))
        holders = range(first, workers, len(groups))
        partitioning.check(len(held), len(holders))
        for worker, part in zip(holders, np.array_split(random.permutation(held), len(holders)), strict=True):
            found[worker] = np.sort(part)
    return found
