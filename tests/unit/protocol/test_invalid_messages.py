"""Invalid messages are refused with an error of one line."""

import math

import msgpack
import pytest

from fedws.core.errors import ProtocolError
from fedws.protocol.decoder import Decoder
from fedws.protocol.messages import TaskRequest
from tests.helpers.decoded_messages import decoded
from tests.helpers.handmade_messages import BODY, HEADER, MISNAMED, changed, field, nested, raw, row

_bomb = nested(400)
MANY = {f"k{number}": 0 for number in range(33)}


def packed_map(*pairs: bytes) -> bytes:
    return bytes([0x80 | len(pairs) // 2]) + b"".join(pairs)


def long_header(**parts: bytes) -> bytes:
    """HEADER with some values given as bytes of msgpack."""
    found = {key: msgpack.packb(value) for key, value in HEADER.items()} | parts
    return packed_map(*(piece for key, value in found.items() for piece in (msgpack.packb(key), value)))


WRONG: dict[str, tuple[bytes, str]] = {
    "another magic": (raw(magic=b"FDWT"), "not a fedws message"),
    "HTTP": (b"GET / HTTP/1.1\r\n\r\n", "not a fedws message"),
    "version 0": (raw(version=0), "unsupported protocol version 0, expected 1"),
    "version 2": (raw(version=2), "unsupported protocol version 2, expected 1"),
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
    "keys that are bytes": (raw(long_header(fields=b"\x81\xc4\x01x\x01")), "header: a key is not a string"),
    "keys that are lists": (raw(long_header(fields=b"\x81\x90\x01")), "header is not msgpack"),
    "nested beyond reason": (raw(long_header(fields=b"\x91" * 500_000)), "header is not msgpack"),
    "nested deeply": (raw(field(settings={"x": _bomb})), "header: maps and arrays are nested more than 16 deep"),
    "nested one level too deep": (raw(field(settings=nested(15))), "header: maps and arrays are nested more than 16"),
    "nested in the table": (raw(row(shape=_bomb)), "header: maps and arrays are nested more than 16"),
    "nested where a text is due": (raw(changed(type=_bomb)), "header: maps and arrays are nested more than 16"),
    "an extension type": (raw(field(settings={"x": msgpack.ExtType(5, b"code")})), "extension type 5"),
    "a time": (raw(field(settings={"x": msgpack.Timestamp(1, 1)})), "header: unsupported value of type Timestamp"),
    "a wrong time": (raw(long_header(offset=b"\xc7\x0c\xff" + b"\xff" * 12)), "header"),
    "unknown type": (raw(changed(type="bye")), "unknown message type 'bye'"),
    "type of a class": (raw(changed(type="fedws.protocol.messages.TaskRequest")), "unknown message type"),
    "type of another kind": (raw(changed(type=1)), "header: type: "),
    "type as bytes": (raw(changed(type=b"task_request")), "header: unsupported value of type bytes"),
    "no type": (raw({key: value for key, value in HEADER.items() if key != "type"}), "header: type: Field required"),
    "an extra key": (raw(changed(extra=1)), "header: extra: "),
    "an offset": (raw(changed(offset=1)), "cannot resume at byte 1: no partial body with this digest"),
    "an offset below 0": (raw(changed(offset=-1)), "header: offset: "),
    "a digest of capitals": (raw(changed(digest="A" * 64)), "header: digest: "),
    "an offset of no number": (raw(changed(offset=False)), "header: offset: "),
    "a long transfer id": (raw(changed(transfer="x" * 65)), "header: transfer: "),
    "a digest of bytes": (raw(changed(digest=b"x")), "header: unsupported value of type bytes"),
    "fields is a list": (raw(changed(fields=[])), "header: fields: "),
    "a missing field": (raw(changed(fields={"request_id": "1"})), "task_request: worker: Field required"),
    "an extra field": (raw(field(code="x")), "task_request: code: "),
    "tensors as a field": (raw(field(tensors=[])), "task_request: tensors: "),
    "a number as text": (raw(field(round="1")), "task_request: round: "),
    "a number as float": (raw(field(round=1.0)), "task_request: round: "),
    "a number as bool": (raw(field(round=True)), "task_request: round: "),
    "round 0": (raw(field(round=0)), "task_request: round: "),
    "a state round below 0": (raw(field(state_round=-1)), "task_request: state_round: "),
    "a seed below 0": (raw(field(seed=-1)), "task_request: seed: "),
    "an unknown transfer": (raw(changed(transfer="x" * 64)), f"unknown transfer '{'x' * 64}', expected 'store' or ''"),
    "a key twice": (raw(long_header(fields=b"\x82\xa1x\x01\xa1x\x02")), "header is not msgpack: duplicate key 'x'"),
    "text as bytes": (raw(field(request_id=b"1")), "header: unsupported value of type bytes"),
    "text as number": (raw(field(worker=1)), "task_request: worker: "),
    "a null": (raw(field(task=None)), "task_request: task: "),
    "settings are a list": (raw(field(settings=[])), "task_request: settings: "),
    "bytes in the settings": (raw(field(settings={"x": [b"y"]})), "header: unsupported value of type bytes"),
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
    "labels that are not numbers": (
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
        "unexpected tensors in message 'hello'",
    ),
    "tensors is a map": (raw(changed(tensors={})), "header: tensors: "),
    "a row is a list": (raw(changed(tensors=[["w", "int16", [2, 1], 4]])), "header: tensors.0: "),
    "a row without shape": (
        raw(changed(tensors=[{"name": "w", "dtype": "int16", "length": 4}])),
        "header: tensors.0.shape",
    ),
    "a row with more": (raw(row(stride=1)), "header: tensors.0.stride"),
    "a shape too large for its length": (raw(row(shape=[3, 1])), "4 bytes do not match shape [3, 1]"),
    "a shape too small for its length": (raw(row(shape=[1])), "4 bytes do not match shape [1]"),
    "no shape": (raw(row(shape=[])), "4 bytes do not match shape []"),
    "a negative size": (raw(row(shape=[-2, -1])), "header: tensors.0.shape.0"),
    "a negative length": (raw(row(length=-4)), "header: tensors.0.length"),
    "a size of no number": (raw(row(shape=["2", 1])), "header: tensors.0.shape.0"),
    "a size that is true": (raw(row(shape=[2, True])), "header: tensors.0.shape.1"),
    "a size of 2**64-1": (raw(row(shape=[2**64 - 1])), "header: tensors.0.shape.0"),
    "sizes that overflow": (raw(row(shape=[2**47, 2**47], length=0)), "0 bytes do not match shape"),
    "sizes that overflow but for a zero": (raw(row(shape=[2**47, 2**47, 0], length=0), b""), "is too large"),
    "too many dimensions": (raw(row(shape=[2] + [1] * 16)), "header: tensors.0.shape"),
    "an unknown dtype": (raw(row(dtype="quint8")), "unknown dtype 'quint8'"),
    "a dtype of numpy": (raw(row(dtype="<i2")), "unknown dtype '<i2'"),
    "a dtype of no text": (raw(row(dtype=3)), "header: tensors.0.dtype"),
    "a name twice": (raw(changed(tensors=HEADER["tensors"] * 2), BODY + bytes(60) + BODY), "duplicate tensor 'w'"),
    "a name of nothing": (raw(row(name="")), "header: tensors.0.name"),
    "a long name": (raw(row(name="w" * 257)), "header: tensors.0.name"),
    "a name as bytes": (raw(row(name=b"w")), "header: unsupported value of type bytes"),
    "a name that is NaN": (raw(row(name=math.nan)), "header: tensors.0.name"),
    **{f"the name {name!r}": (raw(row(name=name)), f"tensor {name!r}: a name must not ") for name in MISNAMED},
    "many keys in the header": (raw(changed(**MANY)), "header: 39 keys"),
    "many keys in a row": (raw(row(**MANY)), "header: tensors: 37 keys"),
    "many fields": (raw(field(**MANY)), "task_request: 37 keys"),
    "too many tensors": (
        raw(
            changed(tensors=[{"name": str(n), "dtype": "bool", "shape": [0], "length": 0} for n in range(10_001)]), b""
        ),
        "header",
    ),
    "a bool of 2": (raw(row(dtype="bool", shape=[4]), b"\0\1\2\1"), "tensor 'w': bool values must be 0 or 1"),
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
