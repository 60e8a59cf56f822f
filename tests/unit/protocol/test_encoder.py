import copy
import itertools
import math
import struct
import tracemalloc
from collections.abc import Iterator
from typing import Any

import msgpack
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedws.core.errors import MessageTooLarge, ProtocolError, UsageError
from fedws.core.limits import MAX_CLASSES, MAX_EXAMPLES, MAX_HEADER_BYTES, MessageLimits
from fedws.core.tensors import DTYPE_NAMES, DTYPES
from fedws.core.untrusted_text import to_printable
from fedws.protocol.decoder import Decoder
from fedws.protocol.encoder import FRAGMENT_BYTES, encode_message
from fedws.protocol.header import explain_invalid_name
from fedws.protocol.messages import (
    MESSAGE_TYPES,
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

# --------------------------------------------------------------------------- what can be said

_words = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
_whole = st.integers(-(2**63), 2**64 - 1)
_leaves = st.none() | st.booleans() | _whole | st.floats(allow_nan=False) | _words
_json = st.dictionaries(
    _words,
    st.recursive(_leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_words, inner, max_size=3)),
    max_size=4,
)


@st.composite
def _tensor(draw: st.DrawFn) -> torch.Tensor:
    """Any bits of any dtype; 0-d, empty, transposed, strided and expanded ones among them."""
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
_tensors = st.dictionaries(_names.filter(lambda name: not explain_invalid_name(name)), _tensor(), max_size=4)
_secrets = st.text("0123456789abcdef", min_size=64, max_size=64)
_held = st.dictionaries(_secrets, st.integers(0, 2**63), max_size=4)
_texts = _words.map(to_printable)
_samples = st.integers(1, MAX_EXAMPLES)
_messages: st.SearchStrategy[Message] = st.one_of(
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
        dataset=_words,
        num_examples=_samples,
        labels=st.sets(st.integers(0, MAX_CLASSES - 1), max_size=4).map(sorted),
        cuda=st.booleans(),
        resume_offsets=_held,
        has_body_store=st.booleans(),
    ),
    st.builds(Refusal, kind=st.sampled_from(["busy", "node", "protocol", "key", "policy"]), reason=_texts),
    st.builds(
        TaskRequest,
        request_id=_words,
        worker=_words,
        round=_whole,
        task=_words,
        seed=_whole,
        settings=_json,
        resume_offsets=_held,
        tensors=_tensors,
    ),
    st.builds(
        TaskResult,
        request_id=_words,
        worker=_words,
        round=_whole,
        num_examples=_samples,
        metrics=_json,
        tensors=_tensors,
    ),
    st.builds(
        TaskFailure,
        request_id=_words,
        worker=_words,
        round=_whole,
        kind=st.sampled_from(["refused", "failed", "rejected", "lost"]),
        reason=_texts,
    ),
)


def data_of(message: Message) -> bytes:
    return b"".join(encode_message(message).fragments())


def decoded(data: bytes, limit: int = 2**30) -> Message:
    decoder = Decoder(limit)
    decoder.feed(data)
    return decoder.build_message()


def bits_of(tensor: torch.Tensor) -> list[int]:
    return tensor.clone(memory_format=torch.contiguous_format).flatten().view(torch.uint8).tolist()


def plain(message: Message) -> dict[str, Any]:
    """A message as what can be compared: tensors as dtype, shape and bits, in their order."""
    found: dict[str, Any] = {"type": type(message), **vars(message)}
    if "tensors" in found:
        found["tensors"] = [
            (name, tensor.dtype, tensor.shape, bits_of(tensor)) for name, tensor in found["tensors"].items()
        ]
    return found


def order(**tensors: torch.Tensor) -> TaskRequest:
    return TaskRequest(request_id="1/alice", worker="alice", round=1, task="t", tensors=tensors)


HEADER: dict[str, Any] = {
    "type": "task_request",
    "fields": {"request_id": "1/alice", "worker": "alice", "round": 1, "task": "t"},
    "tensors": [{"name": "w", "dtype": "int16", "shape": [2, 1], "length": 4}],
    "transfer": "",
    "digest": None,
    "offset": 0,
}
BODY = b"\1\0\2\0"


def raw(
    header: Any = HEADER, body: bytes = BODY, *, magic: bytes = b"FDWS", version: int = 1, length: int = -1
) -> bytes:
    """A message made by hand; ``header`` is packed unless it is bytes."""
    packed = header if isinstance(header, bytes) else msgpack.packb(header)
    head = struct.pack("<4sII", magic, version, len(packed) if length < 0 else length) + packed
    return head + bytes(-len(head) % 64) + body


def changed(**changes: Any) -> dict[str, Any]:
    return {**HEADER, **changes}


def field(**changes: Any) -> dict[str, Any]:
    return changed(fields={**HEADER["fields"], **changes})


def row(**changes: Any) -> dict[str, Any]:
    return changed(tensors=[{**HEADER["tensors"][0], **changes}])


def nested(levels: int) -> Any:
    """So many maps and lists in each other."""
    found: Any = 1
    for level in range(levels):
        found = {"x": found} if (levels - level) % 2 else [found]
    return found


_bomb = nested(400)
MISNAMED = [
    "../w",
    "/etc/passwd",
    "a/",
    "a//b",
    "a/../b",
    "a/./b",
    "a/..",
    "a\\b",
    "..",
    ".",
    ".ssh",
    "..\\w",
    "C:\\w",
    "w\0",
    "a\nb",
    "\x1b[2J",
    "w\x7f",
    "w\x9b",
]
MISNAMED += ["nan", "NaN", "NAN", "+nan", "-NaN"]
MANY = {f"k{number}": 0 for number in range(33)}
ONE = torch.ones(1)

# --------------------------------------------------------------------------- round trips


@settings(CALM, max_examples=300)
@given(_messages)
def test_every_message_comes_back_as_it_was(message: Message) -> None:
    assert plain(decoded(data_of(message))) == plain(message)


def test_every_message_is_among_the_generated_ones() -> None:
    assert set(MESSAGE_TYPES.values()) == {
        Join,
        Hello,
        Challenge,
        Proof,
        Welcome,
        Refusal,
        TaskRequest,
        TaskResult,
        TaskFailure,
    }


@pytest.mark.parametrize("name", DTYPES)
def test_every_dtype_comes_back_to_the_bit(name: str) -> None:
    bits = torch.randint(0, 2 if name == "bool" else 256, (3, 16), dtype=torch.uint8)
    message = order(w=bits.view(DTYPES[name]), scalar=bits.view(DTYPES[name])[0, 0], none=bits.view(DTYPES[name])[:0])
    assert plain(decoded(data_of(message))) == plain(message)


def test_a_message_is_laid_out_as_the_protocol_says() -> None:
    data = data_of(order(a=torch.tensor([1, 2, 3], dtype=torch.uint8), b=torch.tensor(-2, dtype=torch.int32)))
    magic, version, length = struct.unpack_from("<4sII", data)
    assert (magic, version) == (b"FDWS", 1)
    assert msgpack.unpackb(data[12 : 12 + length]) == {
        "type": "task_request",
        "fields": {
            "request_id": "1/alice",
            "worker": "alice",
            "round": 1,
            "task": "t",
            "state_round": 0,
            "seed": 0,
            "settings": {},
            "resume_offsets": {},
        },
        "tensors": [
            {"name": "a", "dtype": "uint8", "shape": [3], "length": 3},
            {"name": "b", "dtype": "int32", "shape": [], "length": 4},
        ],
        "transfer": "",
        "digest": None,
        "offset": 0,
    }
    body = 12 + length + -(12 + length) % 64
    assert data[12 + length : body] == bytes(body - 12 - length)
    assert data[body:] == b"\1\2\3" + bytes(61) + b"\xfe\xff\xff\xff"


def test_a_message_of_another_writer_is_read() -> None:
    """Keys in another order, defaults left out."""
    message = decoded(raw({key: HEADER[key] for key in reversed(HEADER)}))
    assert isinstance(message, TaskRequest) and message.seed == 0 and message.settings == {}
    assert message.tensors["w"].tolist() == [[1], [2]]


def test_gradients_and_devices_stay_behind() -> None:
    message = decoded(data_of(order(w=torch.nn.Parameter(torch.ones(2)))))
    assert isinstance(message, TaskRequest) and not message.tensors["w"].requires_grad


def test_a_single_value_with_a_stride_is_sent() -> None:
    message = decoded(data_of(order(w=torch.arange(2.0)[::2], t=torch.ones(1, 2).t()[:1, :1])))
    assert isinstance(message, TaskRequest)
    assert message.tensors["w"].tolist() == [0] and message.tensors["t"].tolist() == [[1]]


def test_what_is_received_may_be_written_to_without_changing_what_was_sent() -> None:
    mine = torch.ones(3)
    message = decoded(data_of(order(w=mine)))
    assert isinstance(message, TaskRequest)
    message.tensors["w"].zero_()
    assert mine.tolist() == [1, 1, 1]


# --------------------------------------------------------------------------- fragments


@settings(CALM, max_examples=40)
@given(st.lists(st.integers(0, 40), max_size=8), st.integers(-3, 3))
def test_fragments_are_the_message_cut_small(sixteenths: list[int], off: int) -> None:
    tensors = {
        str(place): torch.full((max(0, size * FRAGMENT_BYTES // 16 + off),), place, dtype=torch.uint8)
        for place, size in enumerate(sixteenths)
    }
    encoded = encode_message(order(**tensors))
    pieces = [bytes(piece) for piece in encoded.fragments()]
    whole = b"".join(pieces)
    assert all(0 < len(piece) <= FRAGMENT_BYTES for piece in pieces)
    assert len(whole) == encoded.size and whole == encoded.head + b"".join(encoded.body)
    assert len(pieces) <= len(whole) // FRAGMENT_BYTES + len(tensors) + 1
    message = decoded(whole)
    assert isinstance(message, TaskRequest) and all(
        torch.equal(message.tensors[name], tensors[name]) for name in tensors
    )


@pytest.mark.parametrize("off", [-65, -64, -1, 0, 1, 63, 64])
@pytest.mark.parametrize("fragments", [1, 2])
def test_a_tensor_may_end_at_any_place_in_a_fragment(off: int, fragments: int) -> None:
    head = len(encode_message(order(w=torch.zeros(FRAGMENT_BYTES, dtype=torch.uint8))).head)
    size = fragments * FRAGMENT_BYTES - head + off
    message = order(w=torch.arange(size).to(torch.uint8))
    pieces = list(encode_message(message).fragments())
    assert [len(piece) for piece in pieces[:-1]] == [FRAGMENT_BYTES] * (len(pieces) - 1)
    assert sum(map(len, pieces)) == head + size and 0 < len(pieces[-1]) <= FRAGMENT_BYTES
    found = decoded(b"".join(pieces))
    assert isinstance(found, TaskRequest) and torch.equal(found.tensors["w"], message.tensors["w"])


def test_many_small_tensors_travel_together() -> None:
    tensors = {str(place): torch.ones(3) for place in range(500)}
    assert len(list(encode_message(order(**tensors)).fragments())) == 1


def test_fragments_may_be_taken_twice() -> None:
    """A broadcast is encoded once."""
    encoded = encode_message(order(w=torch.ones(FRAGMENT_BYTES)))
    assert [bytes(one) for one in encoded.fragments()] == [bytes(other) for other in encoded.fragments()]


@CALM
@given(_messages, st.data())
def test_bytes_may_be_cut_anywhere(message: Message, data: st.DataObject) -> None:
    whole = data_of(message)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    decoder = Decoder()
    for start, end in itertools.pairwise([0, *cuts, len(whole)]):
        decoder.feed(memoryview(whole)[start:end])
    assert plain(decoder.build_message()) == plain(message)


@pytest.mark.parametrize("body", [b"", BODY])
def test_bytes_may_come_one_at_a_time(body: bytes) -> None:
    whole = raw(HEADER if body else changed(tensors=[]), body)
    decoder = Decoder()
    for place in range(len(whole)):
        with pytest.raises(ProtocolError, match="ends before"):
            decoder.build_message()
        decoder.feed(whole[place : place + 1])
    assert plain(decoder.build_message()) == plain(decoded(whole))


def test_a_message_cut_short_at_any_byte_is_refused() -> None:
    whole = raw()
    for end in range(len(whole)):
        with pytest.raises(ProtocolError, match="message ends before the length it declares"):
            decoded(whole[:end])


@pytest.mark.parametrize("header", [HEADER, changed(tensors=[])])
def test_a_message_with_a_byte_too_many_is_refused(header: dict[str, Any]) -> None:
    body = BODY if header["tensors"] else b""
    with pytest.raises(ProtocolError, match=f"longer than the {len(body)} bytes of body it declares"):
        decoded(raw(header, body + b"\0"))
    decoder = Decoder()
    decoder.feed(raw(header, body))
    with pytest.raises(ProtocolError, match="longer than"):
        decoder.feed(b"\0")


# --------------------------------------------------------------------------- memory


def address(piece: memoryview | bytes) -> int:
    return int(np.frombuffer(piece, np.uint8).ctypes.data)


def test_large_tensors_are_sent_from_where_they_lie() -> None:
    tensor = torch.ones(4 * FRAGMENT_BYTES // 4)
    first, last = tensor.data_ptr(), tensor.data_ptr() + 4 * FRAGMENT_BYTES
    pieces = list(encode_message(order(small=torch.ones(3), w=tensor)).fragments())
    views = [piece for piece in pieces if isinstance(piece, memoryview) and first <= address(piece) < last]
    assert sum(map(len, views)) >= 3 * FRAGMENT_BYTES - 2**14
    tensor.zero_()
    assert not any(bytes(views[1])) and any(bytes(pieces[0]))


def test_encoding_makes_no_second_model() -> None:
    tensor = torch.ones(2**23)  # 32 MiB
    tracemalloc.start()
    try:
        for piece in encode_message(order(w=tensor)).fragments():
            assert len(piece)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * FRAGMENT_BYTES


def test_received_tensors_view_one_buffer_that_was_allocated_once(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = encode_message(order(a=torch.ones(2**18), b=torch.tensor(True), c=torch.ones(3, 5).t()))
    pieces = [bytes(piece) for piece in encoded.fragments()]
    asked = watched(monkeypatch)
    decoder = Decoder()
    for piece in pieces:
        decoder.feed(piece)
    message = decoder.build_message()
    assert isinstance(message, TaskRequest)
    assert [size for size in asked if size] == [encoded.size - len(encoded.head)]
    assert len({tensor.untyped_storage().data_ptr() for tensor in message.tensors.values()}) == 1


@CALM
@given(_tensors)
def test_every_tensor_lies_at_a_multiple_of_64(tensors: dict[str, torch.Tensor]) -> None:
    encoded = encode_message(TaskRequest(request_id="1", worker="a", round=1, task="t", tensors=tensors))
    assert len(encoded.head) % 64 == 0
    message = decoded(encoded.head + b"".join(encoded.body))
    assert isinstance(message, TaskRequest)
    for tensor in message.tensors.values():
        assert tensor.is_contiguous() and tensor.storage_offset() * tensor.element_size() % 64 == 0
        assert tensor.untyped_storage().data_ptr() % 64 == 0 or not tensor.numel()


def watched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes that torch.empty is asked for from now on."""
    asked: list[int] = []
    empty = torch.empty

    def spy(size: int, **options: Any) -> torch.Tensor:
        asked.append(size)
        return empty(size, **options)

    monkeypatch.setattr(torch, "empty", spy)
    return asked


# --------------------------------------------------------------------------- limits


@pytest.mark.parametrize(
    ("dtype", "shape", "length"),
    [("uint8", [2**40], 2**40), ("float64", [2**20, 2**20], 2**43), ("bool", [2**30 - 64], 2**30 - 64)],
)
def test_a_body_above_the_limit_is_refused_before_it_is_allocated(
    monkeypatch: pytest.MonkeyPatch, dtype: str, shape: list[int], length: int
) -> None:
    asked = watched(monkeypatch)
    with pytest.raises(ProtocolError, match=r"message of \d+ bytes; at most 1073741824"):
        decoded(raw(row(dtype=dtype, shape=shape, length=length), b""))
    assert not any(asked)


def test_the_limit_is_of_the_whole_message() -> None:
    whole = raw()
    assert decoded(whole, len(whole))
    with pytest.raises(ProtocolError, match=f"message of {len(whole)} bytes; at most {len(whole) - 1}"):
        decoded(whole, len(whole) - 1)
    message = order(w=torch.ones(100))
    size = encode_message(message).size
    assert encode_message(message, MessageLimits(size)).size == size
    what = rf"^{size:,} bytes, and bob accepts at most {size - 1:,}; give bob --max-message-bytes {2**20}$"
    with pytest.raises(MessageTooLarge, match=what):
        encode_message(message, MessageLimits(size - 1, peer="bob"))


def test_many_tensors_that_are_each_below_the_limit_are_added_up() -> None:
    rows = [{"name": str(place), "dtype": "uint8", "shape": [2**20], "length": 2**20} for place in range(1025)]
    with pytest.raises(ProtocolError, match="at most 1073741824"):
        decoded(raw(changed(tensors=rows), b""))


def test_a_header_above_its_limit_is_refused_before_it_comes() -> None:
    with pytest.raises(ProtocolError, match=f"header of {2**19 + 1} bytes; at most {2**19}"):
        decoded(struct.pack("<4sII", b"FDWS", 1, 2**19 + 1))
    with pytest.raises(ProtocolError, match=f"header of {2**32 - 1} bytes"):
        decoded(struct.pack("<4sII", b"FDWS", 1, 2**32 - 1))


def test_a_header_above_its_limit_is_not_sent() -> None:
    with pytest.raises(MessageTooLarge, match="bytes of names and settings, and a message holds at most 524,288"):
        encode_message(Hello(run="r" * 2**19, node="a", protocol=1))
    with pytest.raises(MessageTooLarge, match="10,001 tensors, and the other side accepts at most 10,000"):
        encode_message(order(**{str(place): torch.ones(0) for place in range(10_001)}))
    few = MessageLimits(max_tensors=2, peer="alice")
    assert encode_message(order(a=torch.ones(1), b=torch.ones(1)), few)
    with pytest.raises(MessageTooLarge, match="3 tensors, and alice accepts at most 2"):
        encode_message(order(a=torch.ones(1), b=torch.ones(1), c=torch.ones(1)), few)


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (order(w=torch.eye(2).to_sparse()), "tensor 'w' cannot travel: it is torch.sparse_coo, and only strided"),
        (order(w=ONE.to("meta")), "tensor 'w' cannot travel: it is on the device meta, and so has no values"),
        (order(w=torch.zeros(1, dtype=torch.uint8).view(torch.bits8)), "tensor 'w' cannot travel: it is torch.bits8; "),
        (order(w=torch.zeros([1] * 17)), "tensor 'w' cannot travel: it has 17 dimensions; use at most 16"),
        (
            TaskResult(request_id="1", worker="a", round=1, num_examples=1, metrics={"x": 2**64}),
            "a task_result cannot travel: ",
        ),
        (
            TaskResult(request_id="1", worker="a", round=1, num_examples=1, metrics={"x": np.float32(1)}),
            "a task_result cannot travel: ",
        ),
        (Hello(run="\ud800", node="a", protocol=1), "a hello cannot travel: "),
    ],
)
def test_what_cannot_travel_is_said(message: Message, text: str) -> None:
    with pytest.raises(UsageError) as caught:
        encode_message(message)
    assert str(caught.value).startswith(text)


def test_a_header_above_the_limit_of_its_message_is_refused_before_it_comes() -> None:
    with pytest.raises(ProtocolError, match="message of 65600 bytes; at most 65536"):
        decoded(struct.pack("<4sII", b"FDWS", 1, 2**16), 2**16)


@pytest.mark.parametrize("name", [*MISNAMED, "", "w" * 257, 1])
def test_no_tensor_is_sent_under_a_name_that_nobody_takes(name: Any) -> None:
    with pytest.raises(UsageError, match=r"^tensor .*: (no name is|a name is a text of 1 to 256 characters$)"):
        encode_message(TaskRequest(**{**vars(order()), "tensors": {name: ONE}}))


def test_names_of_ordinary_modules_pass() -> None:
    class Odd(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.__private = torch.nn.Linear(1, 1)
            self.größe = torch.nn.ParameterDict(
                {"a b": torch.ones(1), "key:1": torch.ones(1), "list[0]": torch.ones(1)}
            )
            self.towers = torch.nn.ModuleDict({"sensor/1": torch.nn.Linear(1, 1), "sensor/": torch.nn.Linear(1, 1)})
            self.blocks = torch.nn.ModuleDict({"conv-1": torch.nn.BatchNorm2d(1), "nanny": torch.nn.GRU(1, 1)})
            self.bound = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(1, 1))
            self.layers = torch.nn.TransformerEncoderLayer(4, 2, 4)

    tensors = {**Odd().state_dict(), **{f"gradient:{name}": ONE for name in ("0.weight", "nan.x")}}
    assert len(tensors) > 30
    found = decoded(data_of(order(**tensors)))
    assert isinstance(found, TaskRequest) and list(found.tensors) == list(tensors)


def test_settings_that_are_nested_too_deeply_are_not_sent() -> None:
    message = TaskResult(request_id="1", worker="a", round=1, num_examples=1, metrics=nested(14))
    assert decoded(data_of(message)) == message
    with pytest.raises(
        UsageError, match="a task_result cannot travel: header: more than 16 maps and arrays in each other"
    ):
        encode_message(TaskResult(request_id="1", worker="a", round=1, num_examples=1, metrics=nested(15)))


# --------------------------------------------------------------------------- what is no message


def packed_map(*pairs: bytes) -> bytes:
    return bytes([0x80 | len(pairs) // 2]) + b"".join(pairs)


def long_header(**parts: bytes) -> bytes:
    """HEADER with some values given as bytes of msgpack."""
    found = {key: msgpack.packb(value) for key, value in HEADER.items()} | parts
    return packed_map(*(piece for key, value in found.items() for piece in (msgpack.packb(key), value)))


WRONG: dict[str, tuple[bytes, str]] = {
    "another magic": (raw(magic=b"FDWT"), "not a fedws message"),
    "HTTP": (b"GET / HTTP/1.1\r\n\r\n", "not a fedws message"),
    "version 0": (raw(version=0), "protocol version 0; this node speaks version 1"),
    "version 2": (raw(version=2), "protocol version 2; this node speaks version 1"),
    "big-endian version": (raw(version=2**24), "protocol version 16777216"),
    "empty header": (raw(b"", b""), "header is not msgpack"),
    "length too small": (raw(length=20), "header is not msgpack"),
    "length too large": (raw(length=len(msgpack.packb(HEADER)) + 1), "header is not msgpack"),
    "header is a list": (raw([HEADER]), "header: "),
    "header is a number": (raw(7), "header: "),
    "header is nothing": (raw(msgpack.packb(None)), "header: "),
    "header is not msgpack": (raw(b"\xc1" * 8), "header is not msgpack"),
    "text that is not UTF-8": (raw(long_header(type=b"\xa2\xff\xfe")), "header is not msgpack"),
    "a list longer than the header": (raw(long_header(tensors=b"\xdd\xff\xff\xff\xff")), "header is not msgpack"),
    "a map longer than the header": (raw(long_header(fields=b"\xdf\xff\xff\xff\xff")), "header is not msgpack"),
    "keys that are numbers": (raw(long_header(fields=b"\x81\x01\x01")), "header is not msgpack"),
    "keys that are bytes": (raw(long_header(fields=b"\x81\xc4\x01x\x01")), "header: a key that is no text"),
    "keys that are lists": (raw(long_header(fields=b"\x81\x90\x01")), "header is not msgpack"),
    "nested beyond reason": (raw(long_header(fields=b"\x91" * 500_000)), "header is not msgpack"),
    "nested deeply": (raw(field(settings={"x": _bomb})), "header: more than 16 maps and arrays in each other"),
    "nested one level too deep": (raw(field(settings=nested(15))), "header: more than 16 maps and arrays"),
    "nested in the table": (raw(row(shape=_bomb)), "header: more than 16 maps and arrays"),
    "nested where a text is due": (raw(changed(type=_bomb)), "header: more than 16 maps and arrays"),
    "an extension type": (raw(field(settings={"x": msgpack.ExtType(5, b"code")})), "extension type 5"),
    "a time": (raw(field(settings={"x": msgpack.Timestamp(1, 1)})), "header: Timestamp, which no message holds"),
    "a wrong time": (raw(long_header(offset=b"\xc7\x0c\xff" + b"\xff" * 12)), "header"),
    "unknown type": (raw(changed(type="bye")), "unknown message type 'bye'"),
    "type of a class": (raw(changed(type="fedws.protocol.messages.TaskRequest")), "unknown message type"),
    "type of another kind": (raw(changed(type=1)), "header: type: "),
    "type as bytes": (raw(changed(type=b"task_request")), "header: bytes, which no message holds"),
    "no type": (raw({key: value for key, value in HEADER.items() if key != "type"}), "header: type: Field required"),
    "an extra key": (raw(changed(extra=1)), "header: extra: "),
    "an offset": (raw(changed(offset=1)), "it continues at byte 1 of a body that did not begin here"),
    "an offset below 0": (raw(changed(offset=-1)), "header: offset: "),
    "a digest of capitals": (raw(changed(digest="A" * 64)), "header: digest: "),
    "an offset of no number": (raw(changed(offset=False)), "header: offset: "),
    "a long transfer id": (raw(changed(transfer="x" * 65)), "header: transfer: "),
    "a digest of bytes": (raw(changed(digest=b"x")), "header: bytes"),
    "fields is a list": (raw(changed(fields=[])), "header: fields: "),
    "a missing field": (raw(changed(fields={"request_id": "1"})), "task_request: worker: Field required"),
    "an extra field": (raw(field(code="x")), "task_request: code: "),
    "tensors as a field": (raw(field(tensors=[])), "task_request: tensors: "),
    "a number as text": (raw(field(round="1")), "task_request: round: "),
    "a number as float": (raw(field(round=1.0)), "task_request: round: "),
    "a number as bool": (raw(field(round=True)), "task_request: round: "),
    "text as bytes": (raw(field(request_id=b"1")), "header: bytes"),
    "text as number": (raw(field(worker=1)), "task_request: worker: "),
    "a null": (raw(field(task=None)), "task_request: task: "),
    "settings are a list": (raw(field(settings=[])), "task_request: settings: "),
    "bytes in the settings": (raw(field(settings={"x": [b"y"]})), "header: bytes"),
    "a failure of no kind": (
        raw(
            changed(
                type="task_failure",
                fields={"request_id": "1", "worker": "a", "round": 1, "kind": "maybe", "reason": ""},
                tensors=[],
            ),
            b"",
        ),
        "task_failure: kind: ",
    ),
    "labels that are no numbers": (
        raw(
            changed(
                type="welcome",
                fields={"node": "a", "role": "worker", "dataset": "d", "num_examples": 1, "labels": ["1"]},
                tensors=[],
            ),
            b"",
        ),
        "welcome: labels.0: ",
    ),
    "tensors in a hello": (
        raw(changed(type="hello", fields={"run": "r", "node": "a", "protocol": 1})),
        "a hello carries no tensors",
    ),
    "tensors is a map": (raw(changed(tensors={})), "header: tensors: "),
    "a row is a list": (raw(changed(tensors=[["w", "int16", [2, 1], 4]])), "header: tensors.0: "),
    "a row without shape": (
        raw(changed(tensors=[{"name": "w", "dtype": "int16", "length": 4}])),
        "header: tensors.0.shape",
    ),
    "a row with more": (raw(row(stride=1)), "header: tensors.0.stride"),
    "a shape too large for its length": (raw(row(shape=[3, 1])), "4 bytes do not make shape [3, 1]"),
    "a shape too small for its length": (raw(row(shape=[1])), "4 bytes do not make shape [1]"),
    "no shape": (raw(row(shape=[])), "4 bytes do not make shape []"),
    "a negative size": (raw(row(shape=[-2, -1])), "header: tensors.0.shape.0"),
    "a negative length": (raw(row(length=-4)), "header: tensors.0.length"),
    "a size of no number": (raw(row(shape=["2", 1])), "header: tensors.0.shape.0"),
    "a size that is true": (raw(row(shape=[2, True])), "header: tensors.0.shape.1"),
    "a size of 2**64-1": (raw(row(shape=[2**64 - 1])), "header: tensors.0.shape.0"),
    "sizes that overflow": (raw(row(shape=[2**47, 2**47], length=0)), "0 bytes do not make shape"),
    "sizes that overflow but for a zero": (raw(row(shape=[2**47, 2**47, 0], length=0), b""), "no tensor has shape"),
    "too many dimensions": (raw(row(shape=[2] + [1] * 16)), "header: tensors.0.shape"),
    "an unknown dtype": (raw(row(dtype="quint8")), "unknown dtype 'quint8'"),
    "a dtype of numpy": (raw(row(dtype="<i2")), "unknown dtype '<i2'"),
    "a dtype of no text": (raw(row(dtype=3)), "header: tensors.0.dtype"),
    "a name twice": (raw(changed(tensors=HEADER["tensors"] * 2), BODY + bytes(60) + BODY), "tensor 'w' is there twice"),
    "a name of nothing": (raw(row(name="")), "header: tensors.0.name"),
    "a long name": (raw(row(name="w" * 257)), "header: tensors.0.name"),
    "a name as bytes": (raw(row(name=b"w")), "header: bytes"),
    "a name that is NaN": (raw(row(name=math.nan)), "header: tensors.0.name"),
    **{f"the name {name!r}": (raw(row(name=name)), f"tensor {name!r}: no name is ") for name in MISNAMED},
    "many keys in the header": (raw(changed(**MANY)), "header: 39 keys"),
    "many keys in a row": (raw(row(**MANY)), "header: tensors: 37 keys"),
    "many fields": (raw(field(**MANY)), "task_request: 37 keys"),
    "too many tensors": (
        raw(
            changed(tensors=[{"name": str(n), "dtype": "bool", "shape": [0], "length": 0} for n in range(10_001)]), b""
        ),
        "header",
    ),
    "a bool of 2": (raw(row(dtype="bool", shape=[4]), b"\0\1\2\1"), "tensor 'w': a bool is 0 or 1"),
    "lines in a field's name": (raw(field(**{"a\nb" * 1000: 1})), r"task_request: 'a\nba\nb"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_refused_in_one_line(what: str) -> None:
    data, text = WRONG[what]
    with pytest.raises(ProtocolError) as caught:
        decoded(data)
    assert text in str(caught.value)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 800


@pytest.mark.parametrize(
    "data",
    [
        raw(),
        raw(field(seed=2**64 - 1)),
        raw(field(seed=-1)),
        raw(row(name="w" * 256)),
        raw(field(settings=nested(14))),  # with the header and its fields: sixteen
    ],
)
def test_what_the_wrong_ones_were_made_of_is_right(data: bytes) -> None:
    assert isinstance(decoded(data), TaskRequest)


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_refused_however_it_is_cut(what: str) -> None:
    data, _ = WRONG[what]
    decoder = Decoder()
    with pytest.raises(ProtocolError):
        for place in range(0, len(data), 7 if len(data) < 4096 else 4099):
            decoder.feed(data[place : place + (7 if len(data) < 4096 else 4099)])
        decoder.build_message()


# --------------------------------------------------------------------------- mutations of what is right

_odd = st.one_of(
    _leaves,
    st.sampled_from(
        [0, 1, -1, 2, 2**31, 2**47, 2**48, 2**63, 2**64 - 1, "", "w", "task_request", "bool", "float64", b"", b"w"]
    ),
    st.sampled_from([[], {}, [[]], {"a": 1}, [2**47, 2**47, 0], [0, 2**63], math.nan, math.inf, True]),
    st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=8)),
    st.just(msgpack.Timestamp(5)),
).map(copy.deepcopy)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in nested lists and dicts."""
    if path:
        yield path
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*path, key))


@st.composite
def _mutant(draw: st.DrawFn) -> bytes:
    """A valid message whose header was changed at some places, and maybe the body, or single bytes."""
    data = data_of(draw(_messages))
    length = struct.unpack_from("<I", data, 8)[0]
    header, body = msgpack.unpackb(data[12 : 12 + length]), data[12 + length + -(12 + length) % 64 :]
    for _ in range(draw(st.integers(0, 3))):
        *path, last = draw(st.sampled_from(list(places(header))))
        holder = header
        for key in path:
            holder = holder[key]
        change = draw(st.sampled_from(["replace", "remove", "add", "double"]))
        if change == "replace":
            holder[last] = draw(_odd)
        elif change == "remove":
            del holder[last]
        elif isinstance(holder, list):
            holder.append(copy.deepcopy(holder[last]) if change == "double" else draw(_odd))
        else:
            holder[draw(_words)] = draw(_odd)
        if not header:
            break
    body = body[: draw(st.integers(0, len(body)))] if draw(st.booleans()) else body + draw(st.binary(max_size=70))
    found = bytearray(raw(header, body))
    for place in draw(st.lists(st.integers(0, len(found) - 1), max_size=3)) if draw(st.booleans()) else []:
        found[place] ^= draw(st.integers(1, 255))
    return bytes(found)


def is_json(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and is_json(inner) for key, inner in value.items())
    if isinstance(value, list):
        return all(map(is_json, value))
    return value is None or type(value) in (bool, int, float, str)


def check(data: bytes, limit: int = 2**20) -> None:
    """Either a ProtocolError of one line, or a message that is right in every respect."""
    try:
        message = decoded(data, limit)
    except ProtocolError as error:
        assert str(error).isprintable() and len(str(error)) < 800
        return
    assert type(message) in MESSAGE_TYPES.values()
    values = {key: value for key, value in vars(message).items() if key != "tensors"}
    assert is_json(values)
    for tensor in getattr(message, "tensors", {}).values():
        assert tensor.dtype in DTYPE_NAMES and (tensor == tensor).numel() == tensor.numel()
    assert repr(plain(decoded(data_of(message)))) == repr(plain(message))


@settings(CALM, max_examples=400)
@given(_mutant())
def test_a_mutant_is_refused_or_right(data: bytes) -> None:
    check(data)


@CALM
@given(st.binary(max_size=200))
def test_noise_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        decoded(data)


@settings(CALM, max_examples=200)
@given(st.binary(max_size=200))
def test_noise_for_a_header_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        decoded(raw(data, b""))


def test_every_bit_of_a_message_may_flip() -> None:
    whole = raw()
    for place in range(len(whole)):
        for bit in range(8):
            data = bytearray(whole)
            data[place] ^= 1 << bit
            check(bytes(data), MAX_HEADER_BYTES)
