"""The weighted mean of tensors and of numbers, with running sums and one division at the end."""

import math
from collections.abc import Iterable, Iterator

import torch

from fedws.core.limits import MAX_EXAMPLES
from fedws.core.tensors import Tensors, as_real, is_averaged, maximum, round_to_odd

MAX_WEIGHT = MAX_EXAMPLES
"""Maximum weight of a result. A peer sends the weight, and the sum of the weights must fit into 64 bits."""
_CHUNK_ELEMENTS = 2**17
"""Number of elements per step, which fit into the processor's cache. This is 8 times faster than whole tensors."""
_FRACTION_BITS = 1074
"""Number of fraction bits; every finite float64 is a multiple of ``2**-1074``, so integer sums of them are exact."""


def add_weighted(totals: Tensors, tensors: Tensors, weight: float) -> Tensors:
    """Add ``weight`` times ``tensors`` to ``totals``, and return the totals in the same memory.

    New totals are created if ``totals`` is empty. Totals of floats are float64. Those of complex numbers are float64
    with a last dimension of 2. The total of integers and booleans is the maximum. Names and shapes must be those of the
    totals.
    """
    if not totals:
        return {name: _initial_total(tensor, weight) for name, tensor in tensors.items()}
    for name, tensor in tensors.items():
        averaged = is_averaged(tensor)
        for part, more in _chunk_pairs(totals[name], as_real(tensor)):
            if averaged:
                part.add_(more.double(), alpha=weight)
            else:
                part.copy_(maximum(part, more))
    return totals


def divide_totals(totals: Tensors, templates: Tensors, total_weight: float) -> Tensors:
    """Return ``totals / total_weight``, rounded once to the dtypes of ``templates``; maxima are not divided.

    ``templates`` have the names, shapes and dtypes of the tensors that were added, and need no memory.
    """
    result = {}
    for name, total in totals.items():
        mean = torch.empty(templates[name].shape, dtype=templates[name].dtype)
        for part, whole in _chunk_pairs(as_real(mean), total):
            part.copy_(round_to_odd(whole / total_weight, part.dtype) if is_averaged(mean) else whole)
        result[name] = mean
    return result


def average_numbers(weighted: Iterable[tuple[int, float]]) -> float:
    """Return the mean of pairs of weight and value, which is computed exactly and rounded once.

    It is NaN if a value is NaN.
    """
    total = total_weight = 0
    for weight, value in weighted:
        if math.isnan(value):
            return math.nan
        numerator, denominator = value.as_integer_ratio()
        total += weight * numerator * ((1 << _FRACTION_BITS) // denominator)
        total_weight += weight
    return total / (total_weight << _FRACTION_BITS)


def _chunk_pairs(first: torch.Tensor, second: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield the elements of two tensors of one shape in chunks; chunks of a contiguous tensor share its memory."""
    pairs = (tensor.contiguous().view(-1).split(_CHUNK_ELEMENTS) for tensor in (first, second))
    return zip(*pairs, strict=True)


def _initial_total(tensor: torch.Tensor, weight: float) -> torch.Tensor:
    """Return the total of one update in new memory."""
    if not is_averaged(tensor):
        return tensor.clone(memory_format=torch.contiguous_format)
    values = as_real(tensor)
    total = torch.empty(values.shape, dtype=torch.float64)
    for part, first in _chunk_pairs(total, values):
        torch.mul(first.double(), weight, out=part)
    return total
