"""Hypothesis strategies for messages: every type, with tensors of every dtype and layout."""

import math

import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from fedws.core.limits import MAX_CLASSES, MAX_EXAMPLES
from fedws.core.tensors import DTYPES
from fedws.core.untrusted_text import to_printable
from fedws.protocol.header import explain_invalid_name
from fedws.protocol.messages import (
    Challenge,
    Hello,
    Join,
    Message,
    Proof,
    Refusal,
    TaskFailure,
    TaskRequest,
    TaskResult,
    Welcome,
)

CALM = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])

words = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
_whole = st.integers(-(2**63), 2**64 - 1)
leaves = st.none() | st.booleans() | _whole | st.floats(allow_nan=False) | words
_json = st.dictionaries(
    words,
    st.recursive(leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3)),
    max_size=4,
)


@st.composite
def _tensor(draw: st.DrawFn) -> torch.Tensor:
    """Generate a tensor of any dtype and bits, also 0-d, empty, transposed, strided or expanded."""
    dtype = DTYPES[draw(st.sampled_from(sorted(DTYPES)))]
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    data = draw(st.binary(min_size=math.prod(shape) * dtype.itemsize, max_size=math.prod(shape) * dtype.itemsize))
    bits = torch.frombuffer(bytearray(data or b"\0"), dtype=torch.uint8)[: len(data)]
    tensor = ((bits & 1) if dtype is torch.bool else bits).view(dtype).reshape(shape)
    form = draw(st.sampled_from(["as it is", "transposed", "every other", "expanded"]))
    if form == "transposed":
        return tensor.permute(list(reversed(range(tensor.dim()))))
    if form == "every other" and tensor.dim():
        return tensor[::2]
    if form == "expanded":
        return tensor.unsqueeze(0).expand(3, *tensor.shape)
    return tensor


_names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
tensor_dicts = st.dictionaries(_names.filter(lambda name: not explain_invalid_name(name)), _tensor(), max_size=4)
_secrets = st.text("0123456789abcdef", min_size=64, max_size=64)
_held = st.dictionaries(_secrets, st.integers(0, 2**63), max_size=4)
_texts = words.map(to_printable)
_samples = st.integers(1, MAX_EXAMPLES)
_rounds = st.integers(1, 2**64 - 1)
messages: st.SearchStrategy[Message] = st.one_of(
    st.builds(
        Hello,
        run=_names,
        node=_names,
        protocol=_whole,
        coordinator=_names,
        nonce=st.just("") | _secrets,
        has_body_store=st.booleans(),
    ),
    st.builds(Join, node=_names, protocol=_whole, instance_id=_secrets),
    st.builds(Challenge, node=_names, nonce=_secrets, proof=_secrets),
    st.builds(
        Proof,
        proof=_secrets,
        takeover_key=_secrets,
        signature=st.just("") | st.builds(str.__mul__, _secrets, st.just(2)),
    ),
    st.builds(
        Welcome,
        node=_names,
        role=st.sampled_from(["worker", "evaluator"]),
        dataset=words,
        num_examples=_samples,
        labels=st.sets(st.integers(0, MAX_CLASSES - 1), max_size=4).map(sorted),
        cuda=st.booleans(),
        resume_offsets=_held,
        has_body_store=st.booleans(),
    ),
    st.builds(Refusal, kind=st.sampled_from(["busy", "node", "protocol", "key", "policy"]), reason=_texts),
    st.builds(
        TaskRequest,
        request_id=words,
        worker=words,
        round=_rounds,
        task=words,
        state_round=st.integers(0, 2**64 - 1),
        seed=st.integers(0, 2**64 - 1),
        settings=_json,
        resume_offsets=_held,
        tensors=tensor_dicts,
    ),
    st.builds(
        TaskResult,
        request_id=words,
        worker=words,
        round=_rounds,
        num_examples=_samples,
        metrics=_json,
        tensors=tensor_dicts,
    ),
    st.builds(
        TaskFailure,
        request_id=words,
        worker=words,
        round=_rounds,
        kind=st.sampled_from(["refused", "failed", "rejected", "lost"]),
        reason=_texts,
    ),
)
