"""The devices of a simulation: who holds which samples, how slow each is, and when it comes and goes."""

import inspect
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from fedws import digits, registry, samples, shares
from fedws.errors import UsageError
from fedws.interfaces import Dataset
from fedws.simulation.conditions import Conditions
from fedws.simulation.device import Device, Pace
from fedws.simulation.journal import Journal
from fedws.worker import Worker

SPEEDS, ABSENCES = 1, 2
"""Streams of randomness: what one draws does not shift what the other does."""


@dataclass(frozen=True)
class Fleet:
    """Workers with their slowness. Every strategy meets the same ones, and they come and go at the same times."""

    conditions: Conditions
    workers: tuple[Worker, ...]
    slowness: tuple[float, ...]
    """How many times the seconds per sample each takes."""

    def devices(self, journal: Journal) -> list[Device]:
        """The devices, from the beginning of virtual time."""
        bandwidth = self.conditions.bandwidth * 1e6 / 8
        return [
            Device(worker, Pace(slow * self.conditions.seconds_per_sample, bandwidth), self._absences(number), journal)
            for number, (worker, slow) in enumerate(zip(self.workers, self.slowness, strict=True))
        ]

    def _absences(self, number: int) -> Iterator[tuple[float, float]]:
        """Exponential stays and pauses, which depend on the seed and the device alone."""
        stay, pause = self.conditions.stay, 60 * self.conditions.pause
        if math.isinf(stay):
            return iter([(math.inf, 0.0)])
        random = np.random.default_rng([self.conditions.seed, ABSENCES, number])
        return ((random.exponential(stay), random.exponential(pause)) for _ in itertools.count())


def make(conditions: Conditions, dataset: str, data: Dataset) -> Fleet:
    """Deal ``data`` among workers ``w01``, ``w02``, ... and draw their slowness. Raises UsageError.

    The workers share the data set; each has the indices of its own samples.
    """
    random = np.random.default_rng([conditions.seed, SPEEDS])
    slowness = registry.build("speed", conditions.speeds, conditions.workers, random)
    width = len(str(conditions.workers))
    workers = tuple(
        Worker(f"w{number:0{width}}", dataset, samples.Part(data, torch.from_numpy(part)))
        for number, part in enumerate(_dealt(conditions, dataset, data), 1)
    )
    return Fleet(conditions, workers, tuple(float(slow) for slow in slowness))


def _dealt(conditions: Conditions, dataset: str, data: Dataset) -> list[np.ndarray]:
    targets = samples.labels(data)
    if targets is None or targets.dim() != 1 or targets.is_floating_point():
        raise UsageError(f"dataset {dataset} has no labels (targets), so it cannot be split by them")
    labels = targets.to(torch.int64).numpy()
    if conditions.partition == "digits":
        return by_digits(labels, conditions.workers, conditions.seed)
    partition, seed = conditions.partition, conditions.seed
    wanted = registry.Spec.parse(partition)
    takes = inspect.signature(registry.find("partition", wanted.name)).parameters
    if "seed" in takes and "seed" not in wanted.options:
        partition = f"{partition},seed={seed}"
    parts = registry.build("partition", partition, labels, conditions.workers)
    return [np.asarray(part, dtype=np.int64) for part in parts]


def by_digits(targets: np.ndarray, workers: int, seed: int) -> list[np.ndarray]:
    """The split of the demo, for more workers: the first holds alice's digits, the second bob's, the third charlie's,

    the fourth alice's again, and so on; those with the same digits hold equal shares of them. Samples of labels from
    10 on are nobody's. Raises UsageError when there are fewer than three workers or too few samples.
    """
    groups = list(digits.DEFAULTS.values())
    if workers < len(groups):
        raise UsageError(f"partition digits is for {len(groups)} workers or more, not {workers}")
    random, found = shares.generator(seed), [np.empty(0, dtype=np.int64)] * workers
    for first, group in enumerate(groups):
        held = np.flatnonzero(np.isin(targets, group))
        holders = range(first, workers, len(groups))
        shares.check(len(held), len(holders))
        for worker, part in zip(holders, np.array_split(random.permutation(held), len(holders)), strict=True):
            found[worker] = np.sort(part)
    return found
