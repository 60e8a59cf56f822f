"""The worker in JavaScript reads, writes and proves the same bytes as fedws."""

import dataclasses
import json
import subprocess

import pytest
import torch

from fedws.core.errors import ProtocolError
from fedws.core.tensors import DTYPE_NAMES, DTYPES, view_bytes
from fedws.protocol import encoder, handshake
from fedws.protocol.decoder import Decoder
from fedws.protocol.messages import Challenge, Hello, Proof, TaskRequest, TaskResult
from tests.helpers.javascript_worker import FOLDER
from tests.helpers.processes import PATIENCE
from tests.helpers.protocol_page import KEY, example
from tests.helpers.support import TAKEOVER


def script(node: str, code: str, *arguments: str) -> str:
    """What a piece of JavaScript prints, with what the worker knows of bytes imported."""
    module = (FOLDER / "protocol.mjs").as_uri()
    source = f"import {{ proof, read, write }} from {json.dumps(module)};\n{code}"
    command = [node, "--input-type=module", "--eval", source, "--", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_proof_is_the_same(node: str) -> None:
    """Of the page's test vector, and of texts that are not ASCII."""
    code = """const [key, hello, challenge] = process.argv.slice(1).map((text) => JSON.parse(text));
    const made = (side, takeover) => console.log(proof(Buffer.from(key, "hex"), side, hello, challenge, takeover));
    made("node"), made("coordinator", "TAKEOVER");""".replace("TAKEOVER", TAKEOVER)
    other = Hello(run="Zürich ⁂ 𝄞", node="b", protocol=1, coordinator="", nonce="0f" * 32)
    for hello, challenge in (
        (example(Hello), example(Challenge)),
        (other, Challenge(node="é", nonce="1e" * 32, proof="")),
    ):
        told = [json.dumps(KEY.hex()), json.dumps(vars(hello)), json.dumps(vars(challenge))]
        given = hello, challenge.node, challenge.nonce
        sides = [
            handshake.compute_proof(KEY, "node", *given),
            handshake.compute_proof(KEY, "coordinator", *given, TAKEOVER),
        ]
        assert script(node, code, *told).split() == sides
    assert (
        handshake.compute_proof(KEY, "node", example(Hello), "alice", example(Challenge).nonce)
        == example(Challenge).proof
    )


def test_it_reads_what_fedws_writes_and_the_other_way_round(node: str) -> None:
    """The page's examples: those that a worker gets, and a result."""
    code = """const shown = (key, value) => (typeof value === "bigint" ? String(value) : value);
    for (const [at, hex] of process.argv.slice(1).entries()) {
      const { tensors, ...fields } = read(Buffer.from(hex, "hex"), ["hello", "proof", "task_request"][at]);
      const values = [...tensors].map(([name, { shape, bytes }]) => [name, shape, bytes.toString("hex")]);
      console.log(JSON.stringify({ fields, values }, shown));
    }
    const tensors = [
      { name: "w", shape: [2, 1], values: Float32Array.of(1.5, -2) },
      { name: "e", shape: [0], values: new Float32Array() },
      { name: "b", shape: [1], values: Float32Array.of(0.25) },
    ];
    const head = { request_id: "1", worker: "alice", round: 2n ** 40n };
    const fields = { ...head, num_examples: 3, metrics: { loss: 0.5, num_examples: 3, device: "cpu" } };
    console.log(write("task_result", fields, tensors).toString("hex"));"""
    messages = [example(Hello), example(Proof), example(TaskRequest)]
    encoded = [
        b"".join(bytes(piece) for piece in encoder.encode_message(message).fragments()).hex() for message in messages
    ]
    *lines, report = script(node, code, *encoded).splitlines()
    for message, text in zip(messages, lines, strict=True):
        fields = {each.name: vars(message)[each.name] for each in dataclasses.fields(message) if not each.metadata}
        tensors = fields.pop("tensors", {})
        told = json.loads(text)
        assert told["fields"] == {key: str(value) if key == "seed" else value for key, value in fields.items()}
        assert told["values"] == [[key, [*t.shape], t.numpy().tobytes().hex()] for key, t in tensors.items()]
    decoder = Decoder()
    decoder.feed(bytes.fromhex(report))
    found = decoder.build_message()
    assert isinstance(found, TaskResult) and (found.round, found.metrics["loss"]) == (2**40, 0.5)
    assert {name: tensor.tolist() for name, tensor in found.tensors.items()} == {
        "w": [[1.5], [-2.0]],
        "e": [],
        "b": [0.25],
    }


def test_it_reads_every_dtype_and_names_with_slashes(node: str) -> None:
    """It has few of them in use, but a model that it does not know is refused, and the link stays."""
    tensors = {f"towers.sensor/1.{name}": torch.ones(3, 2).to(dtype) for name, dtype in DTYPES.items()}
    order = TaskRequest(request_id="1", worker="alice", round=1, task="t", tensors=tensors)
    data = b"".join(bytes(piece) for piece in encoder.encode_message(order).fragments())
    code = """const { tensors } = read(Buffer.from(process.argv[1], "hex"), "task_request");
    for (const [name, { dtype, shape, bytes }] of tensors) console.log(name, dtype, shape, bytes.toString("hex"));"""
    wanted = [
        [name, DTYPE_NAMES[tensor.dtype], "[", "3,", "2", "]", view_bytes(tensor).hex()]
        for name, tensor in tensors.items()
    ]
    assert [line.split() for line in script(node, code, data.hex()).splitlines()] == wanted


@pytest.mark.parametrize("name", ["/w", "a//b", "a/", "a/../b", "./w", "a/.", "a\\b"])
def test_it_takes_no_name_that_is_a_path(node: str, name: str) -> None:
    order = TaskRequest(request_id="1", worker="alice", round=1, task="t", tensors={"x" * len(name): torch.ones(1)})
    data = b"".join(bytes(piece) for piece in encoder.encode_message(order).fragments())
    data = data.replace(b"x" * len(name), name.encode())
    code = """try { read(Buffer.from(process.argv[1], "hex"), "task_request"); }
    catch (error) { console.log(error.message); }"""
    assert script(node, code, data.hex()) == "tensor: name is not valid\n"
    with pytest.raises(ProtocolError, match="a name must not look like a path"):
        Decoder().feed(data)
