"""docs/protocol.md says what the code does: its tables, numbers and every byte of its examples."""

import dataclasses
import hmac
import inspect
import json
import re
import typing
from datetime import datetime
from hashlib import sha256
from typing import Any, Literal

import msgpack
import pytest
import torch
from pydantic import BaseModel, ValidationError

from fedws.algorithms.fedsgd import send_gradient
from fedws.coordinator.listener import REPLACED_REASON, duplicate_node_reason
from fedws.core import registry, seeds
from fedws.core.errors import ProtocolError, TaskError
from fedws.core.limits import MAX_HEADER_BYTES, MAX_MESSAGE_TENSORS
from fedws.core.task_settings import EvalSettings, TrainSettings
from fedws.core.tensors import DTYPES
from fedws.core.validation import NODE_ID_PATTERN, Count
from fedws.data.samples import ImageDataset
from fedws.network import admission, liveness
from fedws.network.base import MAX_HANDSHAKE_MESSAGE_BYTES, Limits
from fedws.network.mqtt import channel as mqtt_channel
from fedws.network.transports import ws
from fedws.node.evaluator import evaluate_request
from fedws.node.run_lease import TAKEN_OVER_REASON, LeaseManager
from fedws.node.worker import Worker
from fedws.protocol import encoder, handshake
from fedws.protocol.close_codes import MAX_REASON_BYTES, CloseCode
from fedws.protocol.decoder import Decoder
from fedws.protocol.evaluation_result import EvalResult
from fedws.protocol.header import (
    ALIGNMENT_BYTES,
    MAX_DEPTH,
    MAX_DIMENSIONS,
    MAX_NAME_CHARS,
    Header,
    TensorRow,
)
from fedws.protocol.messages import (
    MESSAGE_TYPES,
    Challenge,
    DatasetName,
    Hello,
    Hex32Bytes,
    Identifier,
    Json,
    Labels,
    NumExamples,
    PrintableText,
    Proof,
    Refusal,
    ResumeOffsets,
    Seconds,
    Signature,
    TaskRequest,
    TaskResult,
    Weight,
    list_header_fields,
)
from fedws.protocol.run_claim import RunClaim
from fedws.security import network_key
from fedws.split_learning.extraction import ExtractSettings
from fedws.split_learning.fine_tuning import FineTuneSettings
from fedws.split_learning.upload_progress import UploadSettings
from fedws.training import client_state
from fedws.training.task_context import TaskContext
from tests.helpers.protocol_page import KEY, TEXT, example, examples, parse_message, section, table
from tests.helpers.support import REPOSITORY, registered_by_benchmarks

NEEDED = "must be there"
TYPES: dict[Any, str] = {
    str: "string",
    int: "integer",
    float: "float",
    bool: "boolean",
    Labels: "array of integers",
    NumExamples: "integer, 1 to 1099511627776",
    Weight: "integer, 0 to 1099511627776",
    DatasetName: "string of at most 256 characters",
    PrintableText: "text",
    Json: "map",
    dict[str, str]: "map of strings",
    ResumeOffsets: "map",
    Identifier: "name",
    Count: "integer, 1 or more",
    Seconds: "float, 0 or more",
    Hex32Bytes: "secret",
    Hex32Bytes | Literal[""]: 'secret or `""`',
    Signature: 'signature or `""`',
}
RANGES: dict[str, tuple[list[float], list[float]]] = {
    "any": ([], []),
    "≥ 1": ([1, 2**62], [0, -1]),
    "> 0, finite": ([1e-300, 1e300], [0.0, -1.0, float("inf"), float("nan")]),
    "> 0, ≤ 1": ([1e-300, 1.0], [0.0, 1.001, float("nan")]),
}
"""What a range takes and what it does not."""


def hexdump(data: bytes) -> str:
    """Sixteen bytes a line: offset, hexadecimal, text."""
    lines = []
    for start in range(0, len(data), 16):
        piece = data[start : start + 16]
        text = "".join(chr(byte) if 32 <= byte < 127 and byte != 96 else "." for byte in piece)
        lines.append(f"{start:04x}  {piece.hex(' '):47}  {text}")
    return "\n".join(lines)


# ------------------------------------------------------------------ section 2: the format


def test_the_numbers() -> None:
    limits = {row["limit"]: int(row["value"]) for row in table(section("Limits"), "limit")}
    assert list(limits.values()) == [
        MAX_HEADER_BYTES,
        MAX_MESSAGE_TENSORS,
        MAX_NAME_CHARS,
        MAX_DIMENSIONS,
        MAX_DEPTH,
        ALIGNMENT_BYTES,
        encoder.FRAGMENT_BYTES,
        Limits().max_message_bytes,
        MAX_HANDSHAKE_MESSAGE_BYTES,
    ]
    assert (
        f"at most {encoder.FRAGMENT_BYTES:,} bytes (1 MiB)" in TEXT
        and f"at most {Limits().max_message_bytes:,} bytes (1 GiB)" in TEXT
    )
    assert (
        f"at most {MAX_HANDSHAKE_MESSAGE_BYTES:,} bytes (64 KiB)" in TEXT
        and f"above {MAX_HANDSHAKE_MESSAGE_BYTES:,}\n" in TEXT
    )
    assert f"magic: {encoder.MAGIC.hex(' ')}" in TEXT and f"version: {encoder.PROTOCOL_VERSION}" in TEXT
    assert NODE_ID_PATTERN == r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$", "the first section words it"


def test_timers_follow_from_silence() -> None:
    settings = ws._library_settings(Limits())
    assert Limits().peer_timeout == 60 and "60 s by default" in TEXT
    assert (settings["ping_interval"], settings["ping_timeout"]) == (20, None), "what is watched is not a pong"
    assert ws._library_settings(Limits(ping_interval=7))["ping_interval"] == 7
    assert (settings["open_timeout"], settings["close_timeout"]) == (10, 10)
    assert (
        f"{liveness.MIN_BYTES_PER_SECOND:,} bytes a second" in TEXT
        and f"({60 * liveness.MIN_BYTES_PER_SECOND:,} bytes in 60 s)" in TEXT
    )
    assert liveness.CHECKS_PER_TIMEOUT % 6 == 0, "a sixth of silence is a number of looks"
    assert settings["compression"] is None and settings["max_size"] == (
        MAX_HANDSHAKE_MESSAGE_BYTES,
        MAX_HANDSHAKE_MESSAGE_BYTES,
    )
    assert MAX_REASON_BYTES == 123
    codes = {int(row["code"]) for row in table(section("Close codes"), "code")}
    assert codes >= {code for code in CloseCode if code is not CloseCode.INVALID_DATA}
    assert [int(code) for code in mqtt_channel._CLOSE_CODES] == [4000, 4002, 4001], "and section 11 says so"
    assert "1 for the code 4002 of section 1, 2 for 4001, else 0" in TEXT
    assert liveness.MAX_UNREAD_BYTES == 4 * 2**20 and "than 4 MiB wait to be read" in TEXT
    max_bytes = f"{admission.WEBSOCKET_ALLOWANCE.max_bytes:,} bytes"
    assert f"at most {max_bytes} and {admission.WEBSOCKET_ALLOWANCE.max_frames} frames" in TEXT


def test_dtypes() -> None:
    rows = table(section("The table of tensors"), "dtype")
    told = {row["dtype"]: int(row["bytes"]) for row in rows}
    newest = {} if hasattr(torch, "float8_e8m0fnu") else {"float8_e8m0fnu": 1}  # which torch has had since 2.7
    assert told == {name: dtype.itemsize for name, dtype in DTYPES.items()} | newest


@pytest.mark.parametrize(("title", "model"), [("The header", Header), ("The table of tensors", TensorRow)])
def test_header_keys(title: str, model: type[BaseModel]) -> None:
    rows = table(section(title), "key")
    assert [row["key"] for row in rows] == list(model.model_fields)
    assert all(field.is_required() for field in model.model_fields.values())
    assert model.model_config["extra"] == "forbid"


def test_message_types() -> None:
    (row,) = (row for row in table(section("The header"), "key") if row["key"] == "type")
    assert re.findall("`([a-z_]+)`", row["value"]) == list(MESSAGE_TYPES)


# ------------------------------------------------------------------ section 3: the messages


@pytest.mark.parametrize("name", MESSAGE_TYPES)
def test_fields(name: str) -> None:
    kind = MESSAGE_TYPES[name]
    hints = typing.get_type_hints(kind, include_extras=True)
    known = {f.name: f for f in list_header_fields(kind)}
    rows = table(section(f"`{name}`"), "field")
    assert [row["field"] for row in rows] == list(known)
    for row in rows:
        hint = hints[row["field"]]
        choices = [*typing.get_args(hint)] if typing.get_origin(hint) is typing.Literal else []
        if choices:
            assert re.findall("`?([a-z_]+)`?(?:, | or |$)", row["type"]) == [*filter(None, choices)]
            assert ('`""`' in row["type"]) == ("" in choices)
        else:
            assert row["type"] == TYPES[hint]
        field = known[row["field"]]
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        assert row["when absent"] == (NEEDED if default is dataclasses.MISSING else json.dumps(default))
    has_tensors = any(f.name == "tensors" for f in dataclasses.fields(kind))
    assert ("carries tensors" in re.findall(rf"^### `{name}`.*$", TEXT, re.MULTILINE)[0]) == has_tensors


def test_refusals() -> None:
    kinds = {row["refusal's `kind`"] for row in table(section("4. The handshake"), "check")}
    assert kinds == {*typing.get_args(typing.get_type_hints(Refusal)["kind"])}


def test_what_is_said_to_who_joins() -> None:
    text = " ".join(section("A node that dials out").split())
    assert f"`{REPLACED_REASON}`" in text and f"`{duplicate_node_reason('alice')}`" in text
    assert "`no hello in time`" in text and "`hello before join`" in text
    rows = table(section("A node that dials out"), "check of `join`")
    assert {row["refusal's `kind`"] for row in rows} <= {*typing.get_args(typing.get_type_hints(Refusal)["kind"])}
    assert [row["refusal's `kind`"] for row in rows] == ["protocol", "node", "key", "busy"], "see test_join_listener.py"


def test_what_the_busy_say() -> None:
    turns = LeaseManager("alice", Limits(peer_timeout=10))
    turns._newest_claim, turns._active_since = RunClaim("77d1e0aa55c6f3b2"), datetime(2026, 11, 21, 9, 10, 3)
    assert str(turns._build_busy_error()) == example(Refusal).reason
    assert " ".join(section("One run at a time").split()).count(example(Refusal).reason) == 1
    assert section("One run at a time").count(TAKEN_OVER_REASON) == 1


def test_names_and_secrets() -> None:
    """What the introduction of section 3 calls so."""
    for run, nonce, good in (
        ("r" * 64, "0123456789abcdef" * 4, True),
        ("é" * 64, "", True),
        ("r" * 65, "", False),
        ("r", "0123456789ABCDEF" * 4, False),
        ("r", "0" * 63, False),
        ("r", "0" * 64 + "\n", False),
    ):
        fields = {"run": run, "node": "alice", "protocol": 1, "nonce": nonce}
        decoder = Decoder()
        decoder.feed(_raw({**_HELLO, "fields": fields}))
        if good:
            assert decoder.build_message() == Hello(**fields)  # type: ignore[arg-type]
        else:
            with pytest.raises(ProtocolError):
                decoder.build_message()


# ------------------------------------------------------------------ section 4: the proof


def test_the_texts_of_a_proof() -> None:
    """Made here as the page words it; the code agrees, and so do the vector's bytes."""
    hello, challenge = example(Hello), example(Challenge)
    told = {"hello": hello, "challenge": challenge, "proof": example(Proof)}
    for side, wanted in (("node", challenge.proof), ("coordinator", example(Proof).proof)):
        texts = []
        for row in table(section("The proof"), "text"):
            field = re.fullmatch(r"`(\w+)` of `(\w+)`", row["value"])
            given = side if row["value"].startswith("the side") else row["value"]
            texts.append(getattr(told[field[2]], field[1]) if field else given)
        assert len(texts) == 9
        texts = texts if side == "coordinator" else texts[:8]
        data = b"".join(len(text.encode()).to_bytes(4, "little") + text.encode() for text in texts)
        assert hmac.digest(KEY, data, "sha256").hex() == wanted
        assert handshake.compute_proof(KEY, side, hello, challenge.node, challenge.nonce, *texts[8:]) == wanted  # type: ignore[arg-type]
        assert {row["side"]: row["proof"] for row in table(section("The proof"), "side")}[side] == wanted
        if side == "node":
            assert f"over these {len(data)} bytes" in TEXT and f"```hex\n{hexdump(data)}\n```" in section("The proof")


def test_the_example_is_a_handshake() -> None:
    hello, challenge, proof = example(Hello), example(Challenge), example(Proof)
    assert handshake.create_proof(KEY, hello, challenge, bytes(range(0xE0, 0x100)).hex()) == proof
    handshake.verify_proof(KEY, hello, challenge, proof)
    signed = handshake._encode_fields("takeover", hello, challenge.node, challenge.nonce, proof.takeover_key)
    assert f"over {len(signed)} bytes" in section("The proof")
    assert network_key._parse_key(f" {KEY.hex()}\n", "key") == KEY and f"`{KEY.hex()}`" in TEXT


def test_how_many_wait_at_the_door() -> None:
    assert f"At most {admission.MAX_PENDING_CONNECTIONS} connections are in the handshake at once" in TEXT


def test_what_is_kept_between_orders() -> None:
    text = " ".join(section("State between requests").split())
    assert client_state.MAX_STORED_ROUNDS == 3 and "**three rounds**" in text
    with pytest.raises(TaskError) as lost:
        client_state.ClientState().load_state(
            TaskRequest(request_id="4/alice", worker="alice", round=4, task="t", state_round=3)
        )
    assert str(lost.value) in text


# ------------------------------------------------------------------ sections 7 to 9: what tasks do


@pytest.mark.parametrize(("title", "model"), [("Settings of", TrainSettings), ("`evaluate`", EvalSettings)])
def test_settings(title: str, model: type[BaseModel]) -> None:
    rows = table(section(title), "setting")
    assert [row["setting"] for row in rows] == list(model.model_fields)
    base = {name: "x" for name, field in model.model_fields.items() if field.is_required()}
    for row in rows:
        name, field = row["setting"], model.model_fields[row["setting"]]
        assert row["type"] == TYPES[field.annotation]
        text = field.default if isinstance(field.default, str) else json.dumps(field.default, default=repr)
        assert row["when absent"] == (NEEDED if field.is_required() else text)
        good, bad = RANGES[row["range"]]
        for value in good:
            model.model_validate({**base, name: value})
        for value in bad:
            with pytest.raises(ValidationError):
                model.model_validate({**base, name: value})
    with pytest.raises(ValidationError):
        model.model_validate({**base, "other": 1})


@pytest.mark.parametrize(
    ("title", "head", "model", "base"),
    [
        ("`mistnet.extract`", "setting", ExtractSettings, BaseModel),
        ("`mistnet.fine_tune`", "setting more", FineTuneSettings, ExtractSettings),
        ("`mistnet.upload`", "setting", UploadSettings, BaseModel),
    ],
)
def test_settings_of_mistnet(title: str, head: str, model: type[BaseModel], base: type[BaseModel]) -> None:
    rows = {name: row for row in table(section(title), head) for name in re.findall(r"\w+", row[head])}
    fields = {name: field for name, field in model.model_fields.items() if name not in base.model_fields}
    assert list(rows) == list(fields)
    for name, field in fields.items():
        assert rows[name]["when absent"] == (NEEDED if field.is_required() else json.dumps(field.default)), name


def test_metrics() -> None:
    metrics = {row["result"] for row in table(section("`fedavg.fit`"), "result")}
    assert {re.sub("[`]", "", m) for m in metrics} >= {f"metric {name}" for name in fitted().metrics}
    scored = [row["result"].replace("`", "") for row in table(section("`evaluate`"), "result")]
    assert [m.removeprefix("metric ") for m in scored if m.startswith("metric ")] == [
        field.name for field in dataclasses.fields(EvalResult)
    ]


@pytest.mark.parametrize("model", ["linear", "mlp", "mnist_cnn"])
def test_models(model: str) -> None:
    assert shapes(model) == {
        name: list(t.shape) for name, t in registry.build_piece("model", model).state_dict().items()
    }


def test_batch_norm_model() -> None:
    found = shapes("cifar_cnn")
    for name in [name for name in found if name.startswith("features.")]:
        norm = f"features.{int(name.split('.')[1]) + 1}"
        channels = found[name][:1]
        found |= {f"{norm}.{part}": channels for part in ("weight", "bias", "running_mean", "running_var")}
        found[f"{norm}.num_batches_tracked"] = []
    assert found == {name: list(t.shape) for name, t in registry.build_piece("model", "cifar_cnn").state_dict().items()}


def shapes(model: str) -> dict[str, list[int]]:
    """Names and shapes that the document gives a model."""
    (paragraph,) = re.findall(rf"^\*\*`{model}`\*\*.*?\n\n", TEXT, re.MULTILINE | re.DOTALL)
    return {name: json.loads(shape) for name, shape in re.findall(r"`([a-z0-9_.]+)`\s(\[[0-9, ]*\])", paragraph)}


@pytest.mark.parametrize("kind", ["model", "loss", "optimizer"])
def test_pieces_and_their_options(kind: str) -> None:
    text = section("8. Models")
    if kind == "model":
        told = dict(re.findall(r"^\*\*`(\w+)`\*\*(.*?)\.", text, re.MULTILINE | re.DOTALL))
    else:
        told = {row[kind].split(",")[0].strip("`"): row[kind] for row in table(text, kind)}
    others = registered_by_benchmarks()  # by a file of tests that another process runs
    assert sorted(told) == [name for name in registry.list_pieces(kind) if (kind, name) not in others]
    for name, options in told.items():
        parameters = inspect.signature(registry.find_piece(kind, name)).parameters.values()
        assert dict(re.findall(r"`(\w+)` \(([^)]*)\)", options)) == {
            parameter.name: str(parameter.default)
            for parameter in parameters
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY
        }


def test_normalisation_of_digits() -> None:
    from fedws.data.datasets.digits import Digits

    (row,) = (row for row in table(section("8. Models"), "dataset") if row["dataset"] == "digits")
    data = Digits(REPOSITORY, train=False)
    assert isinstance(data, ImageDataset)
    assert [float(row["mean"]), float(row["std"])] == pytest.approx([float(data.mean), float(data.std)])


def test_seed() -> None:
    assert f"the seed\n{seeds.request_seed(1, 'alice', 1)}." in TEXT


# ------------------------------------------------------------------ section 10: the example


class TwoPoints:
    """The example's samples."""

    targets = torch.tensor([0, 1])

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.eye(2)[index], index


def fitted() -> TaskResult:
    """What a worker answers to the example's order."""
    answer = Worker("alice", "two_points", TwoPoints()).execute(example(TaskRequest))
    assert isinstance(answer, TaskResult), answer
    return answer


def test_there_is_an_example_of_every_message() -> None:
    assert [content["type"] for content, _ in examples()] == list(MESSAGE_TYPES)


@pytest.mark.parametrize("name", MESSAGE_TYPES)
def test_example_bytes(name: str) -> None:
    ((content, dump),) = ((c, d) for c, d in examples() if c["type"] == name)
    message = parse_message(content)
    data = b"".join(bytes(piece) for piece in encoder.encode_message(message).fragments())
    assert dump.rstrip("\n") == hexdump(data)
    shown = b"".join(bytes.fromhex(line[6:53]) for line in dump.splitlines())
    assert shown == data
    decoder = Decoder()
    for byte in shown:
        decoder.feed(bytes([byte]))
    assert repr(decoder.build_message()) == repr(message)
    tensors = getattr(decoder.build_message(), "tensors", {})
    assert all(torch.equal(tensors[key], value) for key, value in getattr(message, "tensors", {}).items())


def test_the_example_is_what_a_worker_answers() -> None:
    worker = Worker("alice", "two_points", TwoPoints())
    assert worker.handle_hello(example(MESSAGE_TYPES["hello"])) == example(MESSAGE_TYPES["welcome"])
    answer, told = fitted(), example(TaskResult)
    assert dataclasses.replace(answer, tensors={}, metrics={}) == dataclasses.replace(told, tensors={}, metrics={})
    assert answer.metrics == {**told.metrics, "loss": pytest.approx(told.metrics["loss"])}
    assert answer.tensors.keys() == told.tensors.keys()
    for name, tensor in answer.tensors.items():
        torch.testing.assert_close(tensor, told.tensors[name])


def test_the_example_for_fedsgd() -> None:
    report = send_gradient(example(TaskRequest), TaskContext("alice", "two_points", TwoPoints()))
    assert list(report.tensors) == ["gradient:dense.weight", "gradient:dense.bias"]
    torch.testing.assert_close(report.tensors["gradient:dense.weight"], torch.tensor([[-0.25, 0.25], [0.25, -0.25]]))
    torch.testing.assert_close(report.tensors["gradient:dense.bias"], torch.zeros(2))


def test_an_evaluator_reports_no_tensors() -> None:
    order = dataclasses.replace(
        example(TaskRequest),
        task="evaluate",
        settings={"model": "linear:inputs=2,outputs=2", "loss": "nll", "dataset": "two_points"},
    )
    report = evaluate_request(order, TaskContext("testing", "two_points", TwoPoints()))
    assert not report.tensors and report.metrics["predicted_label_counts"] == [2, 0]


# ------------------------------------------------------------------ what must be refused


def _raw(header: dict[str, Any]) -> bytes:
    packed: bytes = msgpack.packb(header)
    head = encoder.MAGIC + encoder.PROTOCOL_VERSION.to_bytes(4, "little") + len(packed).to_bytes(4, "little") + packed
    return head + bytes(-len(head) % ALIGNMENT_BYTES)


_HELLO: dict[str, Any] = {
    "type": "hello",
    "fields": {"run": "r", "node": "alice", "protocol": 1},
    "tensors": [],
    "transfer": "",
    "digest": None,
    "offset": 0,
}


@pytest.mark.parametrize("change", [{"transfer": "t" * 64}, {"digest": sha256(b"").hexdigest()}])
def test_what_version_1_takes_without_looking(change: Json) -> None:
    decoder = Decoder()
    decoder.feed(_raw({**_HELLO, **change}))
    assert decoder.build_message() == parse_message(_HELLO)


@pytest.mark.parametrize(
    "change",
    [
        {"offset": 64},
        {"transfer": "t" * 65},
        {"digest": "d" * 63},
        {"digest": "D" * 64},
        {"digest": "d" * 64, "offset": 1},
        {"transfer": "store"},
        {"transfer": "store", "digest": "d" * 64, "offset": 1},
        {"other": 1},
        {"type": "other"},
        {"fields": {**_HELLO["fields"], "other": 1}},
        {"fields": {**_HELLO["fields"], "run": b"r"}},
        {"fields": {**_HELLO["fields"], "protocol": 1.0}},
    ],
)
def test_what_version_1_refuses(change: Json) -> None:
    decoder = Decoder()
    with pytest.raises(ProtocolError):
        decoder.feed(_raw({**_HELLO, **change}))
        decoder.build_message()
