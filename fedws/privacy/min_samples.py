"""The least number of distinct samples that a request to train can use, from its settings alone."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from fedws.core.errors import TaskError
from fedws.core.plan import explain


def least(settings: Mapping[str, Any], held: int, kind: type[BaseModel] | None = None) -> int:
    """Return the least number of distinct samples that a task uses, of ``held``.

    ``kind`` is what the task is registered to check its settings against, as
    :class:`fedws.core.task_settings.Training`: it gives what the settings leave out. Without it, what is not stated
    counts as 1; so does a setting that the kind lacks. Raises TaskError for settings that are not of ``kind``.

    >>> least({"batch_size": 8, "batches": 2}, 100), least({"batch_size": 8}, 100), least({}, 100)
    (16, 8, 1)
    """
    if kind is not None:
        try:
            checked = kind.model_validate(dict(settings))
        except ValidationError as error:
            raise TaskError(f"settings: {explain(error)}") from None
        settings = {name: getattr(checked, name, None) for name in ("batch_size", "batches", "drop_last")}
    size, batches = _count(settings.get("batch_size")), _count(settings.get("batches"))
    used = min(held, size * batches)
    return used - used % size if settings.get("drop_last") else used


def _count(value: Any) -> int:
    return value if type(value) is int and value >= 1 else 1
