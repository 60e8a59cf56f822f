"""Safetensors files of tensors of all dtypes that messages can contain.

A dtype that safetensors does not support is stored as another one. Complex numbers are stored as real numbers of shape
[..., 2], real part first. The other such dtypes have elements of one byte, and are stored as uint8. The metadata of the
file then contain the original dtypes, see ``DTYPES_KEY``.
"""

import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open

from fedws.core.atomic_files import atomic_file
from fedws.core.tensors import DTYPE_NAMES, DTYPES, Tensors, as_real
from fedws.core.untrusted_text import get_error_text

DTYPES_KEY = "fedws.dtypes"
"""Metadata key of a JSON object that maps the names of converted tensors to their original dtypes."""
DTYPE_CODES: Mapping[str, str] = MappingProxyType(
    {
        "float16": "F16",
        "bfloat16": "BF16",
        "float32": "F32",
        "float64": "F64",
        "int8": "I8",
        "int16": "I16",
        "int32": "I32",
        "int64": "I64",
        "uint8": "U8",
        "uint16": "U16",
        "uint32": "U32",
        "uint64": "U64",
        "bool": "BOOL",
        "float8_e4m3fn": "F8_E4M3",
        "float8_e5m2": "F8_E5M2",
        "float8_e4m3fnuz": "F8_E4M3FNUZ",
        "float8_e5m2fnuz": "F8_E5M2FNUZ",
        "float8_e8m0fnu": "F8_E8M0",
        "complex64": "C64",
    }
)
"""Dtype codes of the safetensors format, which has none for complex32 and complex128."""


@cache
def is_storable(dtype: torch.dtype) -> bool:
    """Return whether the installed version of safetensors can write and read tensors of this dtype."""
    try:
        found = safetensors.torch.load(safetensors.torch.save({"one": torch.zeros(1, dtype=dtype)}))
    except (LookupError, TypeError, ValueError, RuntimeError, SafetensorError):
        return False
    return found["one"].dtype == dtype


def to_storable(
    tensors: Tensors, can_store: Callable[[torch.dtype], bool] = is_storable
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return the tensors in dtypes that a file can store, and the metadata with the original dtypes.

    ``can_store`` decides which dtypes a file can store. The metadata are empty if it accepts all dtypes.

    >>> to_storable({"w": torch.tensor([1 + 2j], dtype=torch.complex128)})
    ({'w': tensor([[1., 2.]], dtype=torch.float64)}, {'fedws.dtypes': '{"w": "complex128"}'})
    """
    others = {name: DTYPE_NAMES[tensor.dtype] for name, tensor in tensors.items() if not can_store(tensor.dtype)}
    found = {name: _to_storable_dtype(tensor) if name in others else tensor for name, tensor in tensors.items()}
    return found, {DTYPES_KEY: json.dumps(others)} if others else {}


def from_storable(tensors: Tensors, metadata: Mapping[str, str]) -> dict[str, torch.Tensor]:
    """Return the original tensors, as the inverse of ``to_storable``.

    Raises SafetensorError if the metadata do not match the tensors.
    """
    found = dict(tensors)
    try:
        for name, dtype in json.loads(metadata.get(DTYPES_KEY, "{}")).items():
            found[name] = _from_storable_dtype(found[name], DTYPES[dtype])
    except (AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
        raise SafetensorError(f"{DTYPES_KEY} does not match the tensors: {get_error_text(error)}") from None
    return found


def encode_tensors(tensors: Tensors) -> bytes:
    """Return the tensors as the bytes of a safetensors file."""
    found, metadata = to_storable(tensors)
    return bytes(safetensors.torch.save(found, metadata or None))


def save_tensors(tensors: Tensors, path: Path, extra_metadata: Mapping[str, str] = MappingProxyType({})) -> None:
    """Write the tensors and ``extra_metadata`` to a file atomically. Raises OSError or SafetensorError."""
    found, metadata = to_storable({name: tensor.contiguous() for name, tensor in tensors.items()})
    with atomic_file(path) as part:
        safetensors.torch.save_file(found, part, {**extra_metadata, **metadata} or None)


def decode_tensors(data: bytes) -> dict[str, torch.Tensor]:
    """Return the tensors in the bytes of a safetensors file. Raises SafetensorError."""
    tensors = safetensors.torch.load(data)
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return from_storable(tensors, header.get("__metadata__", {}))


def load_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a file. Raises OSError or SafetensorError."""
    return load_tensors_and_metadata(path)[0]


def load_tensors_and_metadata(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return the tensors of a file, and its metadata. Raises OSError or SafetensorError."""
    with safe_open(path, framework="pt") as file:
        metadata: dict[str, str] = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # the file is not a mapping
    return from_storable(tensors, metadata), metadata


def _to_storable_dtype(tensor: torch.Tensor) -> torch.Tensor:
    return as_real(tensor) if tensor.is_complex() else tensor.view(torch.uint8)


def _from_storable_dtype(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    if not dtype.is_complex:
        return tensor.view(dtype)
    found = torch.view_as_complex(tensor)
    if found.dtype != dtype:
        raise TypeError(f"expected {DTYPE_NAMES[dtype]}, got {DTYPE_NAMES[found.dtype]}")
    return found
