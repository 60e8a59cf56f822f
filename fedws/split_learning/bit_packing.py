"""Packing of bits into bytes, eight bits per byte.

The first bit of a byte is its most significant bit, as in ``numpy.packbits``. Unused bits after a record's last are 0.
"""

import math

import numpy as np
import torch

from fedws.core.untrusted_text import get_error_text


def packed_size(num_bits: int) -> int:
    """Return the number of bytes that hold ``num_bits`` bits.

    >>> [packed_size(bits) for bits in (0, 1, 8, 9)]
    [0, 1, 1, 2]
    """
    return -(-num_bits // 8)


def pack_bits(bits: torch.Tensor) -> torch.Tensor:
    """Pack bits [n, r], bool or uint8 of 0 and 1, into uint8 [n, packed_size(r)].

    >>> pack_bits(torch.tensor([[True, False, False, False, False, False, False, True, True]])).tolist()
    [[129, 128]]
    """
    return torch.from_numpy(np.packbits(bits.numpy(), axis=1))


def unpack_bits(packed: torch.Tensor, num_bits: int) -> torch.Tensor:
    """Unpack uint8 [n, packed_size(num_bits)] into bool [n, num_bits].

    Raises ValueError for another size, or if bits after the first ``num_bits`` of a record are set.
    """
    try:
        check_record_size(packed, packed_size(num_bits))
    except ValueError as error:
        raise ValueError(f"wrong bit count, expected {num_bits}: {get_error_text(error)}") from None
    values = packed.numpy()
    if num_bits % 8 and (values[:, -1] & (0xFF >> num_bits % 8)).any():
        raise ValueError(f"wrong bit count: bits after the first {num_bits} of a record are set")
    return torch.from_numpy(np.unpackbits(values, axis=1, count=num_bits).view(np.bool_))


def flatten_features(features: torch.Tensor) -> torch.Tensor:
    """Return features of shape [n, *shape] as [n, values]."""
    return features.reshape(len(features), math.prod(features.shape[1:]))


def check_record_size(packed: torch.Tensor, num_bytes: int) -> None:
    """Raise ValueError unless ``packed`` is uint8 [n, num_bytes]."""
    if packed.dtype != torch.uint8 or packed.dim() != 2 or packed.shape[1] != num_bytes:
        found = f"{str(packed.dtype).removeprefix('torch.')} {list(packed.shape)}"
        raise ValueError(f"wrong size: records must be uint8 [n, {num_bytes}], not {found}")
