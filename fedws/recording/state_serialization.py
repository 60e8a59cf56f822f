"""Conversion of a state to JSON and tensors, and back.

A state consists of frozen dataclasses, mappings, lists, tuples, tensors, strings, numbers, booleans and None.
Dataclasses are stored by name and looked up among the modules that are already imported. Unpacking a state does not
import any module.
"""

import dataclasses
import inspect
import math
import struct
import sys
from collections.abc import Mapping
from typing import Any

import torch

from fedws.core.errors import UsageError
from fedws.core.tensors import DTYPE_NAMES, DTYPES

_MAX_DEPTH = 100  # nested levels of a state; a state that contains itself would overflow the stack


class StatePacker:
    """A function that converts a state to JSON and collects its tensors.

    A JSON object in the result is a tagged value, ``{kind: value}``. A dict of the state becomes a list of pairs.
    """

    def __init__(self) -> None:
        self.tensors: dict[str, torch.Tensor] = {}
        """Tensors by the first path of each."""
        self._paths: dict[int, str] = {}

    def __call__(self, value: Any, path: str, depth: int = 0) -> Any:
        """Return the JSON of ``value``, whose place in the state is ``path``.

        Raises TypeError for a value that a checkpoint cannot hold.
        """
        if depth > _MAX_DEPTH:
            raise TypeError(f"{path[:100]}... is nested deeper than {_MAX_DEPTH} levels")
        kind, depth = type(value), depth + 1
        if value is None or kind is bool or (kind is str and (value.isascii() or value.isprintable())):
            return value
        if kind is str:  # maybe with lone surrogates, which JSON would join to pairs
            return {"str": value.encode("utf-8", "surrogatepass").hex()}
        if kind is int:
            return value if -(2**63) <= value < 2**63 else {"int": hex(value)}
        if kind is float:
            return value if math.isfinite(value) else {"float": struct.pack(">d", value).hex()}
        if kind in (list, tuple):
            items = [self(item, f"{path}[{index}]", depth) for index, item in enumerate(value)]
            return items if kind is list else {"tuple": items}
        if kind is torch.Tensor:
            return self._pack_tensor(value, path)
        if dataclasses.is_dataclass(kind):
            name = f"{kind.__module__}:{kind.__qualname__}"
            if _find_dataclass(name) is not kind or kind.__new__ is not object.__new__:
                raise TypeError(f"{path} is a {name}, which is not a frozen dataclass that can be found by this name")
            values = ((field.name, getattr(value, field.name)) for field in dataclasses.fields(kind))
            return {"class": [name, {key: self(inner, f"{path}.{key}", depth) for key, inner in values}]}
        if isinstance(value, Mapping):
            for key in value:
                if type(key) is not str:
                    raise TypeError(f"{path} has the key {key!r}; a checkpoint holds string keys only")
            return {"dict": [[self(key, path), self(value[key], f"{path}[{key!r}]", depth)] for key in value]}
        raise TypeError(f"{path} is a {kind.__module__}.{kind.__qualname__}, which a checkpoint cannot hold")

    def _pack_tensor(self, tensor: torch.Tensor, path: str) -> Any:
        known = tensor.dtype in DTYPE_NAMES and tensor.layout is torch.strided and tensor.device.type in ("cpu", "meta")
        if not known or tensor.requires_grad:
            what = f"{tensor.dtype}, {tensor.layout}, {tensor.device}, requires_grad={tensor.requires_grad}"
            raise TypeError(f"{path} is a tensor that a checkpoint cannot hold: {what}")
        if tensor.is_meta:
            return {"meta": [DTYPE_NAMES[tensor.dtype], list(tensor.shape)]}
        name = self._paths.setdefault(id(tensor), path)
        self.tensors[name] = tensor  # also keeps the tensor alive, so that its id stays unique
        return {"tensor": name}


def unpack_state(packed: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    """Return the state that ``StatePacker`` converted.

    Raises UsageError for a class that is unknown or has other fields.
    """
    if isinstance(packed, list):
        return [unpack_state(item, tensors) for item in packed]
    if not isinstance(packed, dict):
        return packed
    ((kind, what),) = packed.items()
    match kind:
        case "str":
            return bytes.fromhex(what).decode("utf-8", "surrogatepass")
        case "int":
            return int(what, 16)
        case "float":
            return struct.unpack(">d", bytes.fromhex(what))[0]
        case "tuple":
            return tuple(unpack_state(item, tensors) for item in what)
        case "dict":
            return {unpack_state(key, tensors): unpack_state(value, tensors) for key, value in what}
        case "tensor":
            return tensors[what]
        case "meta":
            return torch.empty(what[1], dtype=DTYPES[what[0]], device="meta")
    name, values = what
    cls = _find_dataclass(name)
    if cls is None or {field.name for field in dataclasses.fields(cls)} != set(values):
        what = "is unknown here" if cls is None else "has other fields here"
        raise UsageError(f"the checkpoint holds a {name}, which {what}; continue with the code that wrote it")
    restored = object.__new__(cls)  # without __init__, whose effects are already in the stored fields
    for key, value in values.items():
        object.__setattr__(restored, key, unpack_state(value, tensors))
    return restored


def _find_dataclass(name: str) -> Any:
    """Return the imported frozen dataclass with the name ``module:qualname``, or None if it is not found."""
    module, _, qualname = name.partition(":")
    found: Any = sys.modules.get(module)
    for part in qualname.split("."):
        found = inspect.getattr_static(found, part, None)  # does not run __getattr__, which might import
    # vars() does not find the parameters of a parent class
    parameters = vars(found).get("__dataclass_params__") if isinstance(found, type) else None
    return found if parameters is not None and parameters.frozen else None
