"""The mean of results, weighted by samples or not, in the memory of one model for any number of results."""

from dataclasses import dataclass

from fedws.core.errors import RejectedUpdate
from fedws.core.registry import register
from fedws.core.tensors import Tensors, find_mismatch
from fedws.protocol.messages import TaskResult
from fedws.updates.weighted_mean import MAX_WEIGHT, add_weighted, divide_totals


@dataclass(frozen=True)
class MeanAccumulator:
    """The state of a ``MeanAggregator`` after some results."""

    totals: Tensors
    """Float64 sums of floats and of the parts of complex numbers; maxima of other tensors."""
    templates: Tensors
    """Tensors without memory, with the names, shapes and dtypes that results must have."""
    total_weight: int


@register("aggregator", "mean")
class MeanAggregator:
    """An aggregator that returns the weighted mean ``sum(weight * result) / sum(weight)``.

    The weight of a result is its number of samples with ``weight_by_samples``, and otherwise 1. Sums are float64 with
    integer weights. They are divided once and rounded once to the tensor's dtype, so the order of the results does not
    change the mean. The real and imaginary parts of complex tensors are averaged separately. Integer and boolean
    tensors, such as the counters of batch norm, take the maximum.
    """

    def __init__(self, *, weight_by_samples: bool = False) -> None:
        self._weight_by_samples = weight_by_samples

    def init(self) -> MeanAccumulator:
        """Return an empty accumulator."""
        return MeanAccumulator({}, {}, 0)

    def accumulate(self, accumulator: MeanAccumulator, result: TaskResult) -> MeanAccumulator:
        """Add one result to the sums, whose memory is reused.

        Raises RejectedUpdate if its names, shapes or dtypes differ from those before, if it has no tensors, or if its
        number of samples is not a valid weight.
        """
        weight = result.num_examples if self._weight_by_samples else 1
        if not 1 <= weight <= MAX_WEIGHT:
            raise RejectedUpdate(f"a result with {result.num_examples} samples cannot be weighted")
        if not result.tensors:
            raise RejectedUpdate("the result has no tensors")
        templates = accumulator.templates or {name: tensor.to("meta") for name, tensor in result.tensors.items()}
        if problem := find_mismatch(result.tensors, templates):
            raise RejectedUpdate(problem)
        totals = add_weighted(accumulator.totals, result.tensors, weight)
        return MeanAccumulator(totals, templates, accumulator.total_weight + weight)

    def finalize(self, accumulator: MeanAccumulator) -> Tensors:
        """Return the mean in the dtypes of the results."""
        return divide_totals(accumulator.totals, accumulator.templates, accumulator.total_weight)
