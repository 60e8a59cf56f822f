"""The size of an algorithm's results."""

from typing import Protocol, runtime_checkable

from fedws.core.tensors import Tensors
from fedws.protocol.answer_size import compute_tensors_size


@runtime_checkable
class ResultTemplate(Protocol):
    """An algorithm whose results have other tensors than its model.

    Other algorithms do not need the method.
    """

    def result_template(self, model: Tensors) -> Tensors:
        """Return tensors with the names, shapes and dtypes of a result on ``model``."""


def compute_result_size(algorithm: object, model: Tensors) -> int:
    """Return the size in bytes of the body of a result on ``model``; see ``ResultTemplate``."""
    template = algorithm.result_template(model) if isinstance(algorithm, ResultTemplate) else model
    return compute_tensors_size(template)
