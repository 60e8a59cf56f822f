"""Named tensors: what a model is, everywhere in fedws."""

import hashlib
import math
from collections.abc import Mapping
from types import MappingProxyType

import torch

Tensors = Mapping[str, torch.Tensor]
"""A state dict: parameters and buffers by name. Never mutated in place."""

DTYPES: Mapping[str, torch.dtype] = MappingProxyType(
    {
        "float16": torch.float16,
        "bfloat16": torch.bfloat16,
        "float32": torch.float32,
        "float64": torch.float64,
        "int8": torch.int8,
        "int16": torch.int16,
        "int32": torch.int32,
        "int64": torch.int64,
        "uint8": torch.uint8,
        "bool": torch.bool,
    }
)
"""The dtypes that may cross the wire, by their name there."""

NAMES: Mapping[torch.dtype, str] = MappingProxyType({dtype: name for name, dtype in DTYPES.items()})


def detached(tensors: Tensors) -> dict[str, torch.Tensor]:
    """The same values on the CPU, outside any graph and in memory of their own."""
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}


def difference(tensors: Tensors, like: Tensors) -> str:
    """Where names, shapes or dtypes differ from ``like``, in words; empty when nowhere.

    >>> difference({"w": torch.zeros(2)}, {"w": torch.zeros(3)})
    'w has shape [2], not [3]'
    >>> difference({"w": torch.zeros(2)}, {"v": torch.zeros(2)})
    'v is missing'
    >>> difference({"w": torch.zeros(2)}, {"w": torch.ones(2)})
    ''
    """
    for name, wanted in like.items():
        if name not in tensors:
            return f"{name} is missing"
        got = tensors[name]
        if got.shape != wanted.shape:
            return f"{name} has shape {list(got.shape)}, not {list(wanted.shape)}"
        if got.dtype != wanted.dtype:
            return f"{name} is {NAMES.get(got.dtype, got.dtype)}, not {NAMES.get(wanted.dtype, wanted.dtype)}"
    for name in tensors:
        if name not in like:
            return f"{name} is not known here"
    return ""


def unfit(tensors: Tensors) -> str:
    """The first tensor that holds a value which is no finite number, in words; empty when there is none.

    Integers and booleans are always finite. One pass, without a mask in memory: the least and the greatest value are
    NaN where any is, and one of them is infinite where any is; unlike a sum they cannot overflow.

    >>> unfit({"w": torch.tensor([1.0, math.nan])})
    'w holds NaN'
    >>> unfit({"w": torch.tensor([1.0, -math.inf])})
    'w holds Inf'
    >>> unfit({"w": torch.tensor([1.0, -2.0])})
    ''
    """
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or not tensor.numel():
            continue
        ends = [float(end) for end in tensor.detach().aminmax()]
        if any(map(math.isnan, ends)):
            return f"{name} holds NaN"
        if any(map(math.isinf, ends)):
            return f"{name} holds Inf"
    return ""


def digest(tensors: Tensors) -> str:
    """SHA-256 of names, dtypes, shapes and values, as 64 hexadecimal digits; the order of names does not show.

    >>> digest({"v": torch.zeros(2), "w": torch.ones(1)}) == digest({"w": torch.ones(1), "v": torch.zeros(2)})
    True
    >>> digest({"w": torch.zeros(2)}) == digest({"w": torch.zeros(2, 1)})
    False
    """
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(f"{len(name)}:{name}:{NAMES[tensor.dtype]}:{list(tensor.shape)}:".encode())
        whole = tensor.detach().cpu().contiguous().reshape(-1)
        found.update(whole.view(torch.uint8).numpy().data)
    return found.hexdigest()
