"""The conditions of a simulated fleet, which are validated once."""

import math
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedws.core.errors import UsageError
from fedws.core.validation import NonNegative, Positive, describe_setting_error

SECONDS_PER_HOUR = 3600.0


class Conditions(BaseModel):
    """The conditions of a simulated fleet. The fields have the names of the flags."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_workers: Annotated[int, Field(ge=1, le=100_000)] = 30
    partition: str = "iid"
    """A registered partition, or ``digits``.

    With ``digits`` the workers hold the labels of alice, bob and charlie in turn, and share each group evenly.
    """
    slowdown: str = "pareto"
    """A registered distribution of the factors by which devices are slower than ``seconds_per_sample``."""
    seconds_per_sample: Positive = 0.1
    """Training time in seconds per sample of a device with slowdown 1."""
    bandwidth: NonNegative = 0.0
    """Bandwidth in megabits per second in each direction. 0 means that transfers take no time."""
    disconnects_per_hour: NonNegative = 0.0
    """Mean number of disconnections of a device per hour of connected time."""
    mean_offline_minutes: Positive = 10.0
    """Mean time in minutes until a device reconnects."""
    max_hours: Positive = 168.0
    """Virtual time in hours after which a run ends."""
    target_accuracy: Annotated[float, Field(gt=0, le=1)] | None = None
    """Accuracy between 0 and 1 whose virtual time is reported, or None."""
    stop_at_target: bool = False
    """True if a run ends when it reaches ``target_accuracy``."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1

    @property
    def max_seconds(self) -> float:
        """Return the virtual time in seconds after which a run ends."""
        return self.max_hours * SECONDS_PER_HOUR

    @property
    def mean_online_seconds(self) -> float:
        """Return the mean time in seconds that a device stays connected, infinite without disconnections."""
        return SECONDS_PER_HOUR / self.disconnects_per_hour if self.disconnects_per_hour else math.inf

    @property
    def online_fraction(self) -> float:
        """Return the mean fraction of the fleet that is connected, 0 to 1."""
        return (
            1.0
            if math.isinf(self.mean_online_seconds)
            else self.mean_online_seconds / (self.mean_online_seconds + 60 * self.mean_offline_minutes)
        )


def build_conditions(settings: Mapping[str, Any]) -> Conditions:
    """Return validated conditions. Raise UsageError with one line that names the first invalid setting.

    >>> build_conditions({"num_workers": 0})
    Traceback (most recent call last):
    fedws.core.errors.UsageError: num_workers: Input should be greater than or equal to 1, not 0
    """
    try:
        conditions = Conditions.model_validate(dict(settings))
    except ValidationError as error:
        raise UsageError(describe_setting_error(error)) from None
    if conditions.stop_at_target and conditions.target_accuracy is None:
        raise UsageError("--stop-at-target requires --target-accuracy")
    return conditions
