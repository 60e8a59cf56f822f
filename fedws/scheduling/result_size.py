"""How large the results of an algorithm are."""

from typing import Protocol, runtime_checkable

from fedws.core.tensors import Tensors
from fedws.protocol.answer_size import compute_tensors_size


@runtime_checkable
class ResultTemplate(Protocol):
    """An algorithm whose results have other tensors than a model's; the method is optional for all others."""

    def result_template(self, model: Tensors) -> Tensors:
        """Return tensors of the names, shapes and dtypes that a result on ``model`` has."""


def compute_result_size(algorithm: object, model: Tensors) -> int:
    """Return the bytes of the body of a result on ``model``; see :class:`ResultTemplate`."""
    template = algorithm.result_template(model) if isinstance(algorithm, ResultTemplate) else model
    return compute_tensors_size(template)
