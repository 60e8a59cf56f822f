"""Every dtype that travels, against what its bits mean: float8, large unsigned integers, complex numbers."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedws.algorithms import fedasync, fedavg, fedbuff, fedsgd
from fedws.core import registry
from fedws.core.task_settings import TrainSettings
from fedws.core.tensors import (
    DTYPES,
    FLOAT8_DTYPES,
    Tensors,
    as_real,
    copy_to_cpu,
    find_mismatch,
    find_nonfinite,
    hash_tensors,
    maximum,
    view_bytes,
)
from fedws.protocol.decoder import Decoder
from fedws.protocol.encoder import encode_message
from fedws.protocol.messages import TaskRequest, TaskResult
from fedws.scheduling.result_checks import find_result_problem
from fedws.simulation.tensor_cache import TensorCache
from fedws.training.task_context import TaskContext
from fedws.updates.aggregators.mean import MeanAggregator

CALM = settings(deadline=None, max_examples=60)
FORMATS = {  # bits of the mantissa, bias of the exponent; see arXiv 2209.05433, arXiv 2206.02915 and OCP's MX 1.0
    "float8_e4m3fn": (3, 7),
    "float8_e5m2": (2, 15),
    "float8_e4m3fnuz": (3, 8),
    "float8_e5m2fnuz": (2, 16),
    "float8_e8m0fnu": (0, 127),
}


def value(name: str, byte: int) -> float:
    """Return what a byte means as a float8."""
    mantissa, bias = FORMATS[name]
    if name == "float8_e8m0fnu":
        return math.nan if byte == 255 else 2.0 ** (byte - bias)
    if name.endswith("fnuz") and byte == 0x80:
        return math.nan
    sign, exponent, rest = byte >> 7, (byte & 0x7F) >> mantissa, byte & (1 << mantissa) - 1
    if name == "float8_e4m3fn" and byte & 0x7F == 0x7F:
        return math.nan
    if name == "float8_e5m2" and exponent == 31:
        return math.nan if rest else math.copysign(math.inf, 0.5 - sign)
    size = (rest / 2**mantissa + (exponent > 0)) * 2.0 ** (max(exponent, 1) - bias)
    return math.copysign(size, 0.5 - sign)


FLOAT8S = [name for name in FORMATS if name in DTYPES]


def float8(name: str, values: bytes) -> torch.Tensor:
    return torch.tensor(list(values), dtype=torch.uint8).view(DTYPES[name])


def report(**tensors: torch.Tensor) -> TaskResult:
    return TaskResult(request_id="1/alice", worker="alice", round=1, num_examples=1, tensors=tensors)


def mean(*several: torch.Tensor) -> torch.Tensor:
    aggregator = MeanAggregator()
    state = aggregator.init()
    for one in several:
        state = aggregator.accumulate(state, report(w=one))
    found = aggregator.finalize(state)["w"]
    assert found.dtype == several[0].dtype and found.shape == several[0].shape
    return found


def test_these_are_all_floats_of_one_byte() -> None:
    assert {DTYPES[name] for name in FLOAT8S} == FLOAT8_DTYPES


@pytest.mark.parametrize("name", FLOAT8S)
def test_every_byte_of_a_float8_is_finite_or_not_as_its_format_says(name: str) -> None:
    for byte in range(256):
        number = value(name, byte)
        wanted = "w contains NaN" if math.isnan(number) else "w contains Inf" if math.isinf(number) else ""
        assert find_nonfinite({"w": float8(name, bytes([byte]))}) == wanted, byte


def test_what_is_not_finite_is_found_behind_a_whole_step() -> None:
    values = torch.zeros(2**16 * 2 + 3, dtype=torch.uint8).view(torch.float8_e5m2)
    values.view(torch.uint8)[1], values.view(torch.uint8)[-1] = 0x7C, 0x7F
    assert find_nonfinite({"w": values[:-1]}) == "w contains Inf" and find_nonfinite({"w": values}) == "w contains NaN"


@pytest.mark.parametrize("name", FLOAT8S)
@CALM
@given(data=st.data())
def test_the_mean_of_float8_is_the_nearest_to_the_true_one(name: str, data: st.DataObject) -> None:
    finite = [byte for byte in range(256) if math.isfinite(value(name, byte))]
    several = data.draw(st.lists(st.sampled_from(finite), min_size=1, max_size=5))
    true = math.fsum(value(name, byte) for byte in several) / len(several)
    (found,) = mean(*[float8(name, bytes([byte])) for byte in several]).view(torch.uint8).tolist()
    nearest = min(abs(value(name, byte) - true) for byte in finite)
    assert abs(value(name, found) - true) == nearest


def test_a_mean_is_rounded_once() -> None:
    """The true mean is just below 704, the middle of 640 and 768; as float32 it is 704."""
    several = bytes([95, 110, 129, 228, 232])
    assert float(mean(*[float8("float8_e5m2", bytes([byte])) for byte in several])) == 640.0


@pytest.mark.parametrize("name", ["uint16", "uint32", "uint64"])
@CALM
@given(data=st.data())
def test_unsigned_integers_take_the_maximum_above_the_signed_ones_too(name: str, data: st.DataObject) -> None:
    numbers = st.integers(0, 2 ** (8 * DTYPES[name].itemsize) - 1)
    rows = data.draw(st.lists(st.tuples(numbers, numbers, numbers), min_size=1, max_size=4))
    tensors = [torch.tensor(row, dtype=DTYPES[name]) for row in rows]
    assert mean(*tensors).tolist() == [max(column) for column in zip(*rows, strict=True)]
    whole = torch.tensor(rows, dtype=DTYPES[name])
    assert maximum(whole[:, 0], whole[:, 2]).tolist() == [max(row[0], row[2]) for row in rows]


@pytest.mark.parametrize("name", ["complex64", "complex128"])
@pytest.mark.parametrize("length", [1, 2**16, 2**16 + 1])  # a chunk of the aggregator holds 2**16 complex numbers
def test_the_mean_of_complex_numbers_is_that_of_their_parts(name: str, length: int) -> None:
    random = np.random.default_rng(length)
    real = {"complex64": np.float32, "complex128": np.float64}[name]
    parts = random.integers(-(2**20), 2**20, size=(3, length, 2)).astype(real) * real(2.0**-9)
    wanted = (parts.astype(np.float64).sum(0) / 3).astype(real)
    found = mean(*[torch.view_as_complex(torch.from_numpy(one)) for one in parts])
    assert np.array_equal(torch.view_as_real(found).numpy(), wanted)


def test_the_mean_of_complex32_is_rounded_once() -> None:
    parts = torch.tensor([[[1.0, -3.0]], [[2.0, 0.5]], [[2.0, 0.0]]]).half()
    found = mean(*[torch.view_as_complex(one) for one in parts])
    assert torch.equal(torch.view_as_real(found), (parts.double().sum(0) / 3).half())


@pytest.mark.parametrize("name", ["complex32", "complex64", "complex128"])
@pytest.mark.parametrize("part", [0, 1])
@pytest.mark.parametrize(("odd", "text"), [(math.nan, "w contains NaN"), (-math.inf, "w contains Inf"), (-0.0, "")])
def test_a_complex_number_is_finite_if_both_parts_are(name: str, part: int, odd: float, text: str) -> None:
    values = torch.ones(5, 3).to(DTYPES[name])
    as_real(values)[4, 2, part] = odd
    assert find_nonfinite({"w": values.t()}) == text == find_nonfinite({"w": values.conj()})
    assert find_nonfinite({"w": values[:4]}) == ""


@pytest.mark.parametrize("transposed", [False, True])
def test_a_conjugate_that_is_not_computed_yet_is_its_values_everywhere(transposed: bool) -> None:
    plain = torch.tensor([[1 + 2j, 6 + 1j], [3 - 4j, 2 + 5j]])
    lazy = (plain.t().contiguous().t() if transposed else plain).conj()
    wanted = torch.tensor([[1 - 2j, 6 - 1j], [3 + 4j, 2 - 5j]])
    assert lazy.is_conj()
    assert bytes(view_bytes(lazy)) == bytes(view_bytes(wanted)) and hash_tensors({"w": lazy}) == hash_tensors(
        {"w": wanted}
    )
    assert torch.equal(copy_to_cpu({"w": lazy})["w"], wanted) and not copy_to_cpu({"w": lazy})["w"].is_conj()
    assert torch.equal(sent({"w": lazy})["w"], wanted)
    assert torch.equal(mean(lazy, lazy), wanted)
    shared = TensorCache()
    assert shared.deduplicate({"w": wanted})["w"] is shared.deduplicate({"w": lazy})["w"] is wanted


def sent(tensors: Tensors) -> Tensors:
    decoder = Decoder()
    for piece in encode_message(
        TaskRequest(request_id="1", worker="a", round=1, task="t", tensors=tensors)
    ).fragments():
        decoder.feed(piece)
    message = decoder.build_message()
    assert isinstance(message, TaskRequest)
    return message.tensors


@pytest.mark.parametrize("name", DTYPES)
@CALM
@given(data=st.binary(min_size=1, max_size=6))
def test_any_bits_travel_and_are_digested_as_they_are(name: str, data: bytes) -> None:
    whole = (data * 16)[: len(data) * DTYPES[name].itemsize]
    bits = torch.tensor(list(whole), dtype=torch.uint8)
    tensor = (bits & 1 if name == "bool" else bits).view(DTYPES[name])
    found = sent({"w": tensor})
    assert found["w"].dtype == DTYPES[name] and bytes(view_bytes(found["w"])) == bytes(view_bytes(tensor)), (
        "no bit is lost"
    )
    assert hash_tensors(found) == hash_tensors({"w": tensor}) != hash_tensors({"w": torch.cat([tensor, tensor])})
    assert find_mismatch(found, {"w": tensor}) == ""


# --------------------------------------------------------------------------- algorithms


class Points:
    def __init__(self) -> None:
        self.inputs = torch.randn(24, 3, generator=torch.Generator().manual_seed(3))
        self.targets = (self.inputs.sum(1) > 0).long()

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return self.inputs[index], self.targets[index]


START = torch.tensor([[[0.5, 1.0], [-1.0, 0.25], [0.75, -0.5]], [[1.5, 0.0], [0.0, -1.0], [0.5, 0.5]]])


class Complex(nn.Module):
    """A net with a complex weight, and with a frozen tensor of every dtype."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.view_as_complex(START.clone()))
        for name, dtype in DTYPES.items():
            self.register_buffer(f"buffer_{name}", torch.tensor([1, 2]).to(dtype))
            self.register_parameter(f"frozen_{name}", nn.Parameter(torch.tensor(1).to(dtype), requires_grad=False))
        self.unused = nn.Parameter(torch.ones(2).to(torch.float8_e4m3fn))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.log_softmax((x.to(torch.complex64) @ self.w.t()).abs(), 1)


class Twin(nn.Module):
    """The same net, its weight being real and imaginary parts."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(START.clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        outputs = x.to(torch.complex64) @ torch.view_as_complex(self.w).t()
        return torch.log_softmax(outputs.abs(), 1)


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(registry._pieces, ("model", "complex"), Complex)
    monkeypatch.setitem(registry._pieces, ("model", "twin"), Twin)
    yield
    fedsgd._expected_tensor_names.cache_clear()


def training(model: str) -> TrainSettings:
    return TrainSettings(model=model, dataset="points", lr=0.5, batch_size=8, max_local_batches=3)


TASKS: list[tuple[Any, Any]] = [
    (fedavg.fit, lambda plan: fedavg.FedAvg(plan)),
    (fedasync.fit, lambda plan: fedasync.FedAsync(plan, mu=3.0)),
    (fedbuff.fit, lambda plan: fedbuff.FedBuff(plan, buffer_size=1)),
    (fedsgd.send_gradient, lambda plan: fedsgd.FedSGD(plan)),
]


def version(task: Any, strategy: Any, model: str) -> tuple[TaskResult, Tensors, Tensors]:
    """Return a worker's report on the initial model, the worker's own model, and the next model."""
    algorithm = strategy(training(model))
    start = copy_to_cpu(registry.build_piece("model", model).state_dict())
    ask = algorithm.configure(start, "alice", 1)
    order = TaskRequest(
        request_id="1/alice", worker="alice", round=1, task=ask.task, seed=7, settings=ask.settings, tensors=start
    )
    answer: TaskResult = task(order, TaskContext("alice", "points", Points()))
    answer = TaskResult(**{**vars(answer), "tensors": sent(answer.tensors)})
    assert find_result_problem(algorithm, start, answer) == ""
    if hasattr(algorithm, "accumulate"):
        new = algorithm.server_update(start, algorithm.accumulate(start, algorithm.init(), answer, 0))
    else:
        aggregator = MeanAggregator()
        new = algorithm.server_update(start, aggregator.finalize(aggregator.accumulate(aggregator.init(), answer)), 1)
    assert find_mismatch(new, start) == ""
    return answer, algorithm.worker_model(start, answer), new


@pytest.mark.parametrize(("task", "strategy"), TASKS)
def test_complex_weights_are_trained_as_their_parts_and_the_rest_stays(task: Any, strategy: Any) -> None:
    answer, own, new = version(task, strategy, "complex")
    twin_answer, twin_own, twin_new = version(task, strategy, "twin")
    assert answer.metrics["loss"] == pytest.approx(twin_answer.metrics["loss"])
    assert not torch.allclose(as_real(new["w"]), START)
    torch.testing.assert_close(as_real(new["w"]), twin_new["w"])
    torch.testing.assert_close(as_real(own["w"]), twin_own["w"])
    start = registry.build_piece("model", "complex").state_dict()
    for name in start.keys() - {"w"}:
        assert bytes(view_bytes(new[name])) == bytes(view_bytes(start[name])) == bytes(view_bytes(own[name])), name


def test_a_difference_of_float8_that_float8_lacks_arrives() -> None:
    """From -448 to 448 is more than the dtype can hold; the model is there after one step."""
    algorithm = fedbuff.FedBuff(training("complex"), buffer_size=1)
    start = {"w": torch.tensor([-448.0, 0.5]).to(torch.float8_e4m3fn)}
    change = report(w=torch.tensor([896.0, 2.0**-9]))
    assert algorithm.worker_model(start, change)["w"].float().tolist() == [448.0, 0.5], "0.5 + 2**-9 is rounded"
    buffer = algorithm.accumulate(start, algorithm.init(), change, 0)
    assert algorithm.server_update(start, buffer)["w"].float().tolist() == [448.0, 0.5]


class Embedding(nn.Module):
    def __init__(self, *, sparse: bool) -> None:
        super().__init__()
        self.table = nn.Embedding(4, 2, sparse=sparse, _weight=torch.arange(8.0).reshape(4, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.log_softmax(self.table((x > 0).long()).mean(1), 1)


def test_sparse_gradients_are_reported_as_dense_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry._pieces, ("model", "embedding"), Embedding)
    (sparse, _, new), (dense, _, wanted) = (
        version(fedsgd.send_gradient, fedsgd.FedSGD, f"embedding:{flag}") for flag in ("true", "false")
    )
    torch.testing.assert_close(sparse.tensors, dense.tensors)
    torch.testing.assert_close(new, wanted)
    assert not torch.equal(new["table.weight"], torch.arange(8.0).reshape(4, 2))
