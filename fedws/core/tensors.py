"""Named tensors: what a model is, everywhere in fedws."""

import hashlib
import math
from collections.abc import Mapping
from types import MappingProxyType

import torch

Tensors = Mapping[str, torch.Tensor]
"""A state dict: parameters and buffers by name. Never mutated in place."""

_PLAIN_NAMES = "float16 bfloat16 float32 float64 int8 int16 int32 int64 uint8 uint16 uint32 uint64 bool"
_FLOAT8_NAMES = "float8_e4m3fn float8_e5m2 float8_e4m3fnuz float8_e5m2fnuz float8_e8m0fnu"
_COMPLEX_NAMES = "complex32 complex64 complex128"

DTYPES: Mapping[str, torch.dtype] = MappingProxyType(
    {
        name: getattr(torch, name)
        for name in f"{_PLAIN_NAMES} {_FLOAT8_NAMES} {_COMPLEX_NAMES}".split()
        if hasattr(torch, name)  # float8_e8m0fnu came with torch 2.7
    }
)
"""The dtypes that may cross the wire, by their name there."""

DTYPE_NAMES: Mapping[torch.dtype, str] = MappingProxyType({dtype: name for name, dtype in DTYPES.items()})

FLOAT8_DTYPES = frozenset(DTYPES[name] for name in _FLOAT8_NAMES.split() if name in DTYPES)
"""Floats of one byte. Torch stores and converts them, but has no arithmetic for them."""

_COMPUTE_DTYPES = {**dict.fromkeys(FLOAT8_DTYPES, torch.float32), torch.complex32: torch.complex64}
_SIGNED_DTYPES = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}
_SLICE_ELEMENTS = 2**16  # elements of a float8 tensor that are converted at a time


def is_averaged(tensor: torch.Tensor) -> bool:
    """Return whether an aggregate takes the mean of such tensors: of floats and complex numbers.

    Of integers and booleans it takes the maximum, see :func:`maximum`.
    """
    return tensor.is_floating_point() or tensor.is_complex()


def as_real(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor of real numbers: a complex one as [..., 2], real part first; any other as it is.

    Mean, NaN and Inf of complex tensors are those of their parts.

    >>> as_real(torch.tensor([1 + 2j])).tolist()
    [[1.0, 2.0]]
    """
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def to_compute_dtype(tensor: torch.Tensor) -> torch.Tensor:
    """Return the values in a dtype that torch computes in: float8 as float32, complex32 as complex64, else as it is."""
    return tensor.to(_COMPUTE_DTYPES.get(tensor.dtype, tensor.dtype))


def maximum(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return the larger of two integers or booleans, element by element.

    Not every torch compares uint16, uint32 and uint64. With the highest bit flipped, signed integers have their order.

    >>> maximum(torch.tensor([1, 2**63], dtype=torch.uint64), torch.tensor([2, 7], dtype=torch.uint64)).tolist()
    [2, 9223372036854775808]
    """
    signed = _SIGNED_DTYPES.get(one.dtype)
    if signed is None:
        return torch.maximum(one, other)
    flip = torch.iinfo(signed).min
    return (torch.maximum(one.view(signed) ^ flip, other.view(signed) ^ flip) ^ flip).view(one.dtype)


def view_bytes(tensor: torch.Tensor) -> memoryview:
    """Return the bytes of a tensor, row by row: a view of its memory if they lie there so."""
    whole = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    flat = whole.as_strided((whole.numel(),), (1,))  # a dimension of size 1 may have kept another stride
    return memoryview(flat.view(torch.uint8).numpy())  # type: ignore[arg-type]


def copy_to_cpu(tensors: Tensors) -> dict[str, torch.Tensor]:
    """The same values on the CPU, outside any graph and in memory of their own."""
    copies = {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}
    return {name: copy.resolve_conj().resolve_neg().contiguous() for name, copy in copies.items()}


def find_mismatch(tensors: Tensors, reference: Tensors) -> str:
    """Where names, shapes or dtypes differ from ``reference``, in words; empty when nowhere.

    >>> find_mismatch({"w": torch.zeros(2)}, {"w": torch.zeros(3)})
    'w has shape [2], not [3]'
    >>> find_mismatch({"w": torch.zeros(2)}, {"v": torch.zeros(2)})
    'v is missing'
    >>> find_mismatch({"w": torch.zeros(2)}, {"w": torch.ones(2)})
    ''
    """
    for name, wanted in reference.items():
        if name not in tensors:
            return f"{name} is missing"
        got = tensors[name]
        if got.shape != wanted.shape:
            return f"{name} has shape {list(got.shape)}, not {list(wanted.shape)}"
        if got.dtype != wanted.dtype:
            return (
                f"{name} is {DTYPE_NAMES.get(got.dtype, got.dtype)}, not {DTYPE_NAMES.get(wanted.dtype, wanted.dtype)}"
            )
    for name in tensors:
        if name not in reference:
            return f"{name} is not known here"
    return ""


def find_nonfinite(tensors: Tensors) -> str:
    """The first tensor that holds a value which is no finite number, in words; empty when there is none.

    Integers and booleans are always finite. One pass, without a mask in memory: the least and the greatest value are
    NaN where any is, and one of them is infinite where any is; unlike a sum they cannot overflow. A complex number
    is NaN or Inf if its real or its imaginary part is.

    >>> find_nonfinite({"w": torch.tensor([1.0, math.nan])})
    'w holds NaN'
    >>> find_nonfinite({"w": torch.tensor([1.0, -math.inf])})
    'w holds Inf'
    >>> find_nonfinite({"w": torch.tensor([1.0, -2.0])})
    ''
    """
    for name, tensor in tensors.items():
        if not is_averaged(tensor) or not tensor.numel():
            continue
        values = as_real(tensor.detach())
        parts = (
            [values]
            if values.dtype not in FLOAT8_DTYPES
            else map(to_compute_dtype, values.reshape(-1).split(_SLICE_ELEMENTS))
        )
        ends = [float(end) for part in parts for end in part.aminmax()]
        if any(map(math.isnan, ends)):
            return f"{name} holds NaN"
        if any(map(math.isinf, ends)):
            return f"{name} holds Inf"
    return ""


def hash_tensors(tensors: Tensors) -> str:
    """SHA-256 of names, dtypes, shapes and values, as 64 hexadecimal digits; the order of names does not show.

    >>> first, second = torch.zeros(2), torch.ones(1)
    >>> hash_tensors({"v": first, "w": second}) == hash_tensors({"w": second, "v": first})
    True
    >>> hash_tensors({"w": torch.zeros(2)}) == hash_tensors({"w": torch.zeros(2, 1)})
    False
    """
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(f"{len(name)}:{name}:{DTYPE_NAMES[tensor.dtype]}:{list(tensor.shape)}:".encode())
        found.update(view_bytes(tensor))
    return found.hexdigest()


def round_to_odd(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return ``values``, float64, such that torch's conversion to ``dtype`` gives the nearest number of that dtype.

    Torch converts to dtypes of one or two bytes by way of float32, and so would round twice. Rounding to odd in between
    makes that harmless: Boldo, Melquiond, "When double rounding is odd" (IMACS 2005), Theorem 3.1.

    >>> value = torch.tensor([704 - 2.0**-20], dtype=torch.float64)  # below the middle of 640 and 768
    >>> [float(found.to(torch.float8_e5m2)) for found in (value, round_to_odd(value, torch.float8_e5m2))]
    [768.0, 640.0]
    """
    if dtype.itemsize > 2:
        return values
    near = values.float()
    wide, bits = near.double(), near.view(torch.int32)
    bits = torch.where(wide.abs() > values.abs(), bits - 1, bits)  # toward zero
    return torch.where(wide != values, bits | 1, bits).view(torch.float32)
