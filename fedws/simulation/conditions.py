"""What a simulated fleet is like, in one value that is checked once."""

import math
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedws.core.errors import UsageError
from fedws.core.validation import NonNegative, Positive, describe_setting_error

SECONDS_PER_HOUR = 3600.0


class Conditions(BaseModel):
    """Field names are the flags' names."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_workers: Annotated[int, Field(ge=1, le=100_000)] = 30
    partition: str = "iid"
    """A registered partition, or ``digits``: the labels of alice, bob and charlie in turn, each dealt evenly."""
    slowdown: str = "pareto"
    """A registered speed: the distribution of how many times slower than the base a device is."""
    seconds_per_sample: Positive = 0.1
    """What a device with slowness 1 takes to train on one sample."""
    bandwidth: NonNegative = 0.0
    """Megabits a second, each way; 0: transfers take no time."""
    disconnects_per_hour: NonNegative = 0.0
    """How often a device disconnects, per hour that it is connected."""
    mean_offline_minutes: Positive = 10.0
    """Mean minutes until it connects again."""
    max_hours: Positive = 168.0
    """Virtual time after which a run ends."""
    target_accuracy: Annotated[float, Field(gt=0, le=1)] | None = None
    """An accuracy, 0 to 1."""
    stop_at_target: bool = False
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1

    @property
    def max_seconds(self) -> float:
        """Virtual seconds after which a run ends."""
        return self.max_hours * SECONDS_PER_HOUR

    @property
    def mean_online_seconds(self) -> float:
        """Seconds that a device stays, in the mean; infinite without drop-outs."""
        return SECONDS_PER_HOUR / self.disconnects_per_hour if self.disconnects_per_hour else math.inf

    @property
    def online_fraction(self) -> float:
        """Which part of the fleet is there, in the mean: 0 to 1."""
        return (
            1.0
            if math.isinf(self.mean_online_seconds)
            else self.mean_online_seconds / (self.mean_online_seconds + 60 * self.mean_offline_minutes)
        )


def build_conditions(settings: Mapping[str, Any]) -> Conditions:
    """Checked conditions. Raises UsageError with one line that names the first setting that is wrong.

    >>> build_conditions({"num_workers": 0})
    Traceback (most recent call last):
    fedws.core.errors.UsageError: num_workers: Input should be greater than or equal to 1, not 0
    """
    try:
        found = Conditions.model_validate(dict(settings))
    except ValidationError as error:
        raise UsageError(describe_setting_error(error)) from None
    if found.stop_at_target and found.target_accuracy is None:
        raise UsageError("--stop-at-target needs a --target-accuracy")
    return found
