"""The maximum size of an answer: the tensors that its request can produce, plus a fixed allowance."""

from collections.abc import Iterable

from fedws.core.limits import CHUNK_BYTES
from fedws.core.tensors import Tensors
from fedws.protocol.header import ALIGNMENT_BYTES
from fedws.protocol.messages import TaskRequest

ANSWER_SLACK_BYTES = CHUNK_BYTES
"""Allowance in bytes of an answer beyond its expected body.

It covers the header, and tensors that do not fit the model, which the scheduler then rejects by name.
"""


def compute_body_size(lengths: Iterable[int]) -> int:
    """Return the size in bytes of a body that holds tensors of these lengths in bytes.

    >>> compute_body_size([4, 40])
    104
    """
    position = 0
    for length in lengths:
        position += -position % ALIGNMENT_BYTES + length
    return position


def compute_tensors_size(tensors: Tensors) -> int:
    """Return the size in bytes of a body that holds these tensors."""
    return compute_body_size(tensor.nbytes for tensor in tensors.values())


def compute_max_answer_size(requests: Iterable[TaskRequest]) -> int:
    """Return the size in bytes of the largest message that may arrive while these requests are open.

    A request without ``max_result_bytes`` is expected to return tensors as large as its own.
    """
    bodies = (
        compute_tensors_size(request.tensors) if request.max_result_bytes is None else request.max_result_bytes
        for request in requests
    )
    return ANSWER_SLACK_BYTES + max(bodies, default=0)
