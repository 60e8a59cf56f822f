"""The minimum number of distinct samples that a training request uses, computed from its settings alone."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from fedws.core.errors import TaskError
from fedws.core.validation import describe_setting_error


def min_distinct_samples(
    settings: Mapping[str, Any], num_examples: int, settings_type: type[BaseModel] | None = None
) -> int:
    """Return the minimum number of distinct samples that a task uses, out of ``num_examples``.

    ``settings_type`` is the model that the task is registered with to validate its settings, such as
    ``fedws.core.task_settings.TrainSettings``. It supplies the defaults of missing settings. Without it, a
    missing setting counts as 1. A setting that ``settings_type`` lacks also counts as 1. Raises TaskError if the
    settings are not valid for ``settings_type``.

    >>> [min_distinct_samples(it, 100) for it in ({"batch_size": 8, "max_local_batches": 2}, {"batch_size": 8}, {})]
    [16, 8, 1]
    """
    if settings_type is not None:
        try:
            checked = settings_type.model_validate(dict(settings))
        except ValidationError as error:
            raise TaskError(f"settings: {describe_setting_error(error)}") from None
        settings = {name: getattr(checked, name, None) for name in ("batch_size", "max_local_batches", "drop_last")}
    size, batches = _positive_int(settings.get("batch_size")), _positive_int(settings.get("max_local_batches"))
    used = min(num_examples, size * batches)
    return used - used % size if settings.get("drop_last") else used


def _positive_int(value: Any) -> int:
    return value if type(value) is int and value >= 1 else 1
