"""Operations on named tensors, which represent a model everywhere in fedws."""

import hashlib
import math
from collections.abc import Mapping
from types import MappingProxyType

import torch

Tensors = Mapping[str, torch.Tensor]
"""Parameters and buffers of a model by name, as in a state dict; they are never changed in place."""

_PLAIN_NAMES = "float16 bfloat16 float32 float64 int8 int16 int32 int64 uint8 uint16 uint32 uint64 bool"
_FLOAT8_NAMES = "float8_e4m3fn float8_e5m2 float8_e4m3fnuz float8_e5m2fnuz float8_e8m0fnu"
_COMPLEX_NAMES = "complex32 complex64 complex128"

DTYPES: Mapping[str, torch.dtype] = MappingProxyType(
    {
        name: getattr(torch, name)
        for name in f"{_PLAIN_NAMES} {_FLOAT8_NAMES} {_COMPLEX_NAMES}".split()
        if hasattr(torch, name)  # float8_e8m0fnu requires torch 2.7
    }
)
"""Dtypes that messages can contain, by their names in messages."""

DTYPE_NAMES: Mapping[torch.dtype, str] = MappingProxyType({dtype: name for name, dtype in DTYPES.items()})

FLOAT8_DTYPES = frozenset(DTYPES[name] for name in _FLOAT8_NAMES.split() if name in DTYPES)
"""Floating-point dtypes of one byte, which torch can store and convert, but not compute with."""

_COMPUTE_DTYPES = {**dict.fromkeys(FLOAT8_DTYPES, torch.float32), torch.complex32: torch.complex64}
_SIGNED_DTYPES = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}
_SLICE_ELEMENTS = 2**16  # a float8 tensor is converted in slices of this many elements, to save memory


def is_averaged(tensor: torch.Tensor) -> bool:
    """Return whether aggregation takes the mean of such tensors, which it does for floats and complex numbers.

    For integers and booleans it takes the maximum, see ``maximum``.
    """
    return tensor.is_floating_point() or tensor.is_complex()


def as_real(tensor: torch.Tensor) -> torch.Tensor:
    """Return a complex tensor as real numbers of shape [..., 2], real part first; any other tensor is unchanged.

    The mean of complex tensors, and whether they contain NaN or Inf, is computed from these parts.

    >>> as_real(torch.tensor([1 + 2j])).tolist()
    [[1.0, 2.0]]
    """
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def to_compute_dtype(tensor: torch.Tensor) -> torch.Tensor:
    """Return the values in a dtype that torch can compute with.

    float8 dtypes become float32, complex32 becomes complex64, and other dtypes are unchanged.
    """
    return tensor.to(_COMPUTE_DTYPES.get(tensor.dtype, tensor.dtype))


def maximum(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return the element-wise maximum of two tensors of integers or booleans.

    Not every version of torch can compare uint16, uint32 and uint64. If their highest bit is flipped, they have the
    order of signed integers, which every version compares.

    >>> maximum(torch.tensor([1, 2**63], dtype=torch.uint64), torch.tensor([2, 7], dtype=torch.uint64)).tolist()
    [2, 9223372036854775808]
    """
    signed = _SIGNED_DTYPES.get(one.dtype)
    if signed is None:
        return torch.maximum(one, other)
    flip = torch.iinfo(signed).min
    return (torch.maximum(one.view(signed) ^ flip, other.view(signed) ^ flip) ^ flip).view(one.dtype)


def view_bytes(tensor: torch.Tensor) -> memoryview:
    """Return the bytes of a tensor in row-major order, as a view of its memory if it is contiguous on the CPU."""
    whole = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    flat = whole.as_strided((whole.numel(),), (1,))  # a dimension of size 1 may have kept another stride
    return memoryview(flat.view(torch.uint8).numpy())  # type: ignore[arg-type]


def copy_to_cpu(tensors: Tensors) -> dict[str, torch.Tensor]:
    """Return copies of the tensors on the CPU, detached from any autograd graph."""
    copies = {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}
    return {name: copy.resolve_conj().resolve_neg().contiguous() for name, copy in copies.items()}


def find_mismatch(tensors: Tensors, reference: Tensors) -> str:
    """Return a description of the first name, shape or dtype that differs from ``reference``; empty if none does.

    >>> find_mismatch({"w": torch.zeros(2)}, {"w": torch.zeros(3)})
    'w has shape [2], expected [3]'
    >>> find_mismatch({"w": torch.zeros(2)}, {"v": torch.zeros(2)})
    'v is missing'
    >>> find_mismatch({"w": torch.zeros(2)}, {"w": torch.ones(2)})
    ''
    """
    for name, expected in reference.items():
        if name not in tensors:
            return f"{name} is missing"
        found = tensors[name]
        if found.shape != expected.shape:
            return f"{name} has shape {list(found.shape)}, expected {list(expected.shape)}"
        if found.dtype != expected.dtype:
            dtypes = [DTYPE_NAMES.get(dtype, dtype) for dtype in (found.dtype, expected.dtype)]
            return f"{name} is {dtypes[0]}, expected {dtypes[1]}"
    for name in tensors:
        if name not in reference:
            return f"unexpected tensor {name!r}"
    return ""


def find_nonfinite(tensors: Tensors) -> str:
    """Return a description of the first tensor that contains NaN or Inf; empty if all values are finite.

    Integers and booleans are always finite. A complex number is NaN or Inf if its real or imaginary part is.

    The check needs one pass and no mask in memory, because it only computes the minimum and the maximum. Both are NaN
    if any value is NaN, and one of them is infinite if any value is. Unlike a sum, they cannot overflow.

    >>> find_nonfinite({"w": torch.tensor([1.0, math.nan])})
    'w contains NaN'
    >>> find_nonfinite({"w": torch.tensor([1.0, -math.inf])})
    'w contains Inf'
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
            return f"{name} contains NaN"
        if any(map(math.isinf, ends)):
            return f"{name} contains Inf"
    return ""


def hash_tensors(tensors: Tensors) -> str:
    """Return the SHA-256 of names, dtypes, shapes and values, as 64 hexadecimal digits.

    The result does not depend on the order of the names.

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
    """Return float64 ``values`` such that torch's conversion to ``dtype`` gives the nearest number of that dtype.

    Torch converts to dtypes of one or two bytes through float32, so it rounds twice. Rounding to odd in the first step
    makes the result correct: Boldo, Melquiond, "When double rounding is odd" (IMACS 2005), Theorem 3.1.

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
