"""Functions for tensors in dicts, tuples, lists and dataclasses, which a model may have as inputs and outputs."""

import copy
import dataclasses
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any

import torch


def move_tensors(value: Any, device: torch.device) -> Any:
    """Return ``value`` with all its tensors on ``device`` and all other values unchanged.

    An object with a method ``to`` is moved by this method, such as a packed sequence or the batch of a tokenizer.
    """
    if hasattr(value, "to"):
        return value.to(device)
    if isinstance(value, MutableMapping):
        found = copy.copy(value)
        found.update({key: move_tensors(item, device) for key, item in value.items()})
        return found
    if isinstance(value, Mapping):
        return {key: move_tensors(item, device) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(move_tensors(item, device) for item in value))
    if isinstance(value, tuple | list):
        return type(value)(move_tensors(item, device) for item in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        moved = copy.copy(value)
        for field in dataclasses.fields(value):
            object.__setattr__(moved, field.name, move_tensors(getattr(value, field.name), device))
        return moved
    return value


def iter_tensors(value: Any) -> Iterator[torch.Tensor]:
    """Yield every tensor in ``value``, in order.

    >>> [int(tensor) for tensor in iter_tensors({"a": torch.tensor(1), "b": (torch.tensor(2), "text")})]
    [1, 2]
    """
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from iter_tensors(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from iter_tensors(item)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from iter_tensors(getattr(value, field.name))


def find_tensor(value: Any, name: str) -> torch.Tensor | None:
    """Return the tensor ``name`` of a dict, dataclass or named tuple, or None if it has no such tensor.

    >>> find_tensor({"loss": torch.tensor(0.5)}, "loss"), find_tensor({"loss": None}, "loss"), find_tensor([1], "loss")
    (tensor(0.5000), None, None)
    """
    if isinstance(value, Mapping):
        found = value.get(name)
    elif dataclasses.is_dataclass(value) or hasattr(value, "_fields"):
        found = getattr(value, name, None)
    else:
        return None
    return found if isinstance(found, torch.Tensor) else None


def describe_type(value: Any) -> str:
    """Return the type and size of ``value`` for an error message, without any of its values or keys.

    The message may be sent to the coordinator, and keys may contain private data.

    >>> describe_type({"a": 1, "b": 2}), describe_type((1, 2)), describe_type(torch.ones(2, 3))
    ('a dict of 2', 'a tuple of 2', 'a tensor of shape [2, 3]')
    """
    kind = f"{'an' if type(value).__name__[:1].lower() in 'aeio' else 'a'} {type(value).__name__}"
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {list(value.shape)}"
    return f"{kind} of {len(value)}" if isinstance(value, Mapping | tuple | list) else kind
