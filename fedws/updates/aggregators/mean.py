"""The mean of results, weighted by samples or not, held as one model however many results come."""

from dataclasses import dataclass

from fedws.core.errors import RejectedUpdate
from fedws.core.registry import register
from fedws.core.tensors import Tensors, find_mismatch
from fedws.protocol.messages import TaskResult
from fedws.updates.weighted_mean import MAX_WEIGHT, add_weighted, divide_totals


@dataclass(frozen=True)
class MeanAccumulator:
    """What has been added: float64 sums of floats and of the parts of complex numbers; maxima of all others."""

    totals: Tensors
    templates: Tensors
    """Empty-memory tensors of the names, shapes and dtypes that results must have."""
    total_weight: int


@register("aggregator", "mean")
class MeanAggregator:
    """``sum(weight * result) / sum(weight)``, with weight = samples, or 1 when not ``weight_by_samples``.

    Accumulates in float64 with integer weights, divides once and rounds once to the tensor's dtype, so the order of
    arrival does not show in the result. Of complex tensors real and imaginary parts have a mean each. Integer and
    boolean tensors (batch norm's counters) take the maximum.
    """

    def __init__(self, *, weight_by_samples: bool = False) -> None:
        self._weight_by_samples = weight_by_samples

    def init(self) -> MeanAccumulator:
        """Nothing added yet."""
        return MeanAccumulator({}, {}, 0)

    def accumulate(self, accumulator: MeanAccumulator, result: TaskResult) -> MeanAccumulator:
        """Add one result; reuses the sums. Raises RejectedUpdate when its tensors are not like those before."""
        weight = result.num_examples if self._weight_by_samples else 1
        if not 1 <= weight <= MAX_WEIGHT:
            raise RejectedUpdate(f"a result of {result.num_examples} samples cannot be weighted")
        if not result.tensors:
            raise RejectedUpdate("a result without tensors")
        templates = accumulator.templates or {name: tensor.to("meta") for name, tensor in result.tensors.items()}
        if problem := find_mismatch(result.tensors, templates):
            raise RejectedUpdate(problem)
        totals = add_weighted(accumulator.totals, result.tensors, weight)
        return MeanAccumulator(totals, templates, accumulator.total_weight + weight)

    def finalize(self, accumulator: MeanAccumulator) -> Tensors:
        """The mean, in the results' dtypes."""
        return divide_totals(accumulator.totals, accumulator.templates, accumulator.total_weight)
