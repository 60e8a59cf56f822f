"""How large an answer may be: the bytes of the tensors that its request can produce, and a fixed rest."""

from collections.abc import Iterable

from fedws.core.limits import CHUNK_BYTES
from fedws.core.tensors import Tensors
from fedws.protocol.header import ALIGNMENT_BYTES
from fedws.protocol.messages import TaskRequest

ANSWER_SLACK_BYTES = CHUNK_BYTES
"""Bytes that an answer may have beside the body that is expected: for its header, and for tensors that do not fit the
model, which the scheduler then rejects by name."""


def compute_body_size(lengths: Iterable[int]) -> int:
    """Return the bytes of a body that holds tensors of these lengths in bytes.

    >>> compute_body_size([4, 40])
    104
    """
    position = 0
    for length in lengths:
        position += -position % ALIGNMENT_BYTES + length
    return position


def compute_tensors_size(tensors: Tensors) -> int:
    """Return the bytes of a body that holds these tensors."""
    return compute_body_size(tensor.nbytes for tensor in tensors.values())


def compute_max_answer_size(requests: Iterable[TaskRequest]) -> int:
    """Return the bytes of the largest message that may come while these requests are open.

    A request that does not state its answer is expected to return tensors as large as its own.
    """
    bodies = (
        compute_tensors_size(request.tensors) if request.max_result_bytes is None else request.max_result_bytes
        for request in requests
    )
    return ANSWER_SLACK_BYTES + max(bodies, default=0)
