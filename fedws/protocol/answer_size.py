"""How large an answer may be: the bytes of the tensors that its request can produce, and a fixed rest."""

from collections.abc import Iterable

from fedws.core.limits import CHUNK
from fedws.core.tensors import Tensors
from fedws.protocol.header import ALIGNMENT
from fedws.protocol.messages import Order

SLACK = CHUNK
"""Bytes that an answer may have beside the body that is expected: for its header, and for tensors that do not fit the
model, which the strategy then rejects by name."""


def body(lengths: Iterable[int]) -> int:
    """Return the bytes of a body that holds tensors of these lengths in bytes.

    >>> body([4, 40])
    104
    """
    position = 0
    for length in lengths:
        position += -position % ALIGNMENT + length
    return position


def weight(tensors: Tensors) -> int:
    """Return the bytes of a body that holds these tensors."""
    return body(tensor.nbytes for tensor in tensors.values())


def expected(algorithm: object, model: Tensors) -> int:
    """Return the bytes of the body of a report on ``model``.

    It holds the tensors of the algorithm's ``reported(model)`` where there is such a method, else a model.
    """
    reported = getattr(algorithm, "reported", None)
    return weight(model if reported is None else reported(model))


def allowed(orders: Iterable[Order]) -> int:
    """Return the bytes of the largest message that may come while these orders are open.

    An order that does not state its answer is expected to return tensors as large as its own.
    """
    bodies = (weight(order.tensors) if order.answer is None else order.answer for order in orders)
    return SLACK + max(bodies, default=0)
