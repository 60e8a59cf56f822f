"""The examples in docs/topics/protocol.md agree with the code in every byte."""

import dataclasses

import pytest
import torch

from fedws.algorithms.fedsgd import send_gradient
from fedws.node.evaluator import evaluate_request
from fedws.node.worker import Worker
from fedws.protocol import encoder
from fedws.protocol.decoder import Decoder
from fedws.protocol.messages import MESSAGE_TYPES, TaskRequest, TaskResult
from fedws.training.task_context import TaskContext
from tests.helpers.protocol_example import TwoPoints, fitted, hexdump
from tests.helpers.protocol_page import example, examples, parse_message


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
    answer, documented = fitted(), example(TaskResult)
    assert dataclasses.replace(answer, tensors={}, metrics={}) == dataclasses.replace(
        documented, tensors={}, metrics={}
    )
    assert answer.metrics == {**documented.metrics, "loss": pytest.approx(documented.metrics["loss"])}
    assert answer.tensors.keys() == documented.tensors.keys()
    for name, tensor in answer.tensors.items():
        torch.testing.assert_close(tensor, documented.tensors[name])


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
