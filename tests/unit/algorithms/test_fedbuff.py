"""FedBuff against the paper's pseudocode: the buffer in plain numpy, a whole training in torch alone."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from fedws.algorithms.fedbuff import FedBuff, fit
from fedws.core import registry
from fedws.core.errors import RejectedUpdate, TaskError, UsageError
from fedws.core.seeds import request_seed
from fedws.core.tensors import Tensors
from fedws.protocol.messages import TaskRequest, TaskResult
from tests.helpers.tiny_training import (
    SIZES,
    Points,
    asynchronous_scheduler,
    first_request,
    initial_model,
    task_context,
    task_result,
    tiny_model,
    train_settings,
)

pytestmark = pytest.mark.usefixtures("tiny_model_registered")
ORDER = TaskRequest(request_id="1/alice", worker="alice", round=1, task="fedbuff.fit")


def stepped(algorithm: FedBuff, model: Tensors, *differences: tuple[Tensors, int]) -> Tensors:
    """The next version, of differences with their staleness."""
    buffer = algorithm.init()
    for tensors, staleness in differences:
        buffer = algorithm.accumulate(model, buffer, task_result(ORDER, tensors), staleness)
    return algorithm.server_update(model, buffer)


# --------------------------------------------------------------------------- the buffer


def test_the_papers_settings_are_the_defaults() -> None:
    assert registry.build_piece("algorithm", "fedbuff", train_settings()) == FedBuff(
        train_settings(), buffer_size=10, server_lr=1.0
    )
    assert registry.build_piece("algorithm", "fedbuff:3,server_lr=0.5", train_settings()) == FedBuff(
        train_settings(), buffer_size=3, server_lr=0.5
    )


@pytest.mark.parametrize("options", ["0", "1.5", "many", "server_lr=0", "server_lr=inf", "server_lr=-1", "s=1"])
def test_options_that_cannot_be_are_refused(options: str) -> None:
    with pytest.raises(UsageError):
        registry.build_piece("algorithm", f"fedbuff:{options}", train_settings())


@pytest.mark.parametrize("staleness", range(15))
def test_one_difference_weighs_by_its_staleness(staleness: int) -> None:
    found = stepped(
        FedBuff(train_settings(), buffer_size=1), {"w": torch.ones(2)}, ({"w": torch.tensor([2.0, -4.0])}, staleness)
    )
    np.testing.assert_allclose(found["w"].numpy(), 1 + np.array([2, -4]) / np.sqrt(1 + staleness), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("lr", [0.1, 1.0, 2.5])
@pytest.mark.parametrize("k", [1, 2, 7, 10])
def test_a_version_adds_the_mean_of_k_weighted_differences(k: int, lr: float) -> None:
    random = np.random.default_rng(k)
    x = random.normal(size=(3, 4)).astype(np.float32)
    d = random.normal(size=(k, 3, 4)).astype(np.float32)
    tau = random.integers(0, 9, size=k)
    pairs = [({"w": torch.from_numpy(d[i])}, int(tau[i])) for i in range(k)]
    before = d.copy()
    found = stepped(FedBuff(train_settings(), buffer_size=k, server_lr=lr), {"w": torch.from_numpy(x)}, *pairs)
    wanted = x + lr * np.mean([d[i].astype(np.float64) / np.sqrt(1 + tau[i]) for i in range(k)], axis=0)
    np.testing.assert_allclose(found["w"].numpy(), wanted, rtol=1e-6, atol=1e-6)
    assert found["w"].dtype == torch.float32 and (d == before).all(), "reports are not added up in place"
    assert torch.equal(
        found["w"],
        stepped(FedBuff(train_settings(), buffer_size=k, server_lr=lr), {"w": torch.from_numpy(x)}, *pairs[::-1])["w"],
    )


def test_a_buffer_is_empty_after_its_version() -> None:
    algorithm, model = FedBuff(train_settings(), buffer_size=2), {"w": torch.zeros(1)}
    strategy = asynchronous_scheduler(algorithm, 3)
    state, orders = strategy.start(model, list(SIZES))
    open_orders = {order.worker: order for order in orders}
    found = []
    for worker, value in [("alice", 1), ("alice", 3), ("bob", 4), ("alice", 6), ("bob", 8), ("bob", 0)]:
        state, more = strategy.react(state, task_result(open_orders[worker], {"w": torch.full((1,), float(value))}))
        open_orders |= {order.worker: order for order in more}
        found.append(float(strategy.model(state)["w"]))
    second = 2 + (4 / 2**0.5 + 6) / 2
    assert found == pytest.approx([0, 2, 2, second, second, second + (8 / 2**0.5 + 0) / 2])
    assert strategy.record(state)["updates"] == [
        {"worker": "bob", "staleness": 1},
        {"worker": "bob", "staleness": 0},
    ]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_dtype_stays_what_it_is(dtype: torch.dtype) -> None:
    half = {"w": torch.full((3,), 0.5, dtype=dtype)}
    found = stepped(FedBuff(train_settings(), buffer_size=2), {"w": torch.ones(3, dtype=dtype)}, (half, 0), (half, 0))
    assert found["w"].dtype == dtype and found["w"].tolist() == [1.5] * 3


def test_ten_thousand_small_differences_are_not_lost_in_float32() -> None:
    algorithm, model = FedBuff(train_settings(), buffer_size=10_000), {"w": torch.tensor([4096.0])}
    buffer = algorithm.init()
    for _ in range(10_000):
        buffer = algorithm.accumulate(model, buffer, task_result(ORDER, {"w": torch.tensor([4096.1])}), 0)
    assert float(algorithm.server_update(model, buffer)["w"]) == pytest.approx(8192.1, abs=1e-3)


def test_integers_and_booleans_take_the_maximum_of_model_and_reports() -> None:
    model = {"n": torch.tensor([5, 1, 1]), "b": torch.tensor([True, False])}
    one = {"n": torch.tensor([3, 4, 0]), "b": torch.tensor([False, False])}
    other = {"n": torch.tensor([3, 2, 7]), "b": torch.tensor([False, True])}
    found = stepped(FedBuff(train_settings(), buffer_size=2), model, (one, 0), (other, 3))
    assert found["n"].tolist() == [5, 4, 7] and found["b"].tolist() == [True, True]


# --------------------------------------------------------------------------- a whole training


def client_update(model: Tensors, worker: str, number: int, lr: float) -> dict[str, torch.Tensor]:
    """The paper's client: at most 3 batches of 8, and what they added to the model."""
    module, data = tiny_model().train(), Points(SIZES[worker])
    module.load_state_dict(dict(model))
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    shuffle = torch.Generator().manual_seed(request_seed(7, worker, number))
    for chosen in torch.randperm(len(data), generator=shuffle).split(8)[:3]:
        loss = functional.nll_loss(module(data.inputs[chosen]), data.targets[chosen])
        for parameter, slope in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.data.sub_(slope, alpha=lr)
    new = {key: value.detach() for key, value in module.state_dict().items()}
    return {key: new[key] - value if value.is_floating_point() else new[key] for key, value in model.items()}


TURNS = ["alice", "alice", "bob", "alice", "bob", "bob", "alice", "alice", "bob", "alice", "alice", "bob"]


@pytest.mark.parametrize(("k", "lr"), [(1, 1.0), (2, 0.7), (3, 1.0)])
def test_a_training_is_the_papers(k: int, lr: float) -> None:
    strategy = asynchronous_scheduler(FedBuff(train_settings(), buffer_size=k, server_lr=lr), len(TURNS) // k)
    state, orders = strategy.start(initial_model(), list(SIZES))
    open_orders = {order.worker: order for order in orders}

    model: dict[str, torch.Tensor] = initial_model()
    version = 0
    sent = dict.fromkeys(SIZES, (model, 0, 1, 0.5))  # model, its version, the order's number and learning rate
    buffer: list[tuple[dict[str, torch.Tensor], int]] = []
    for reports, worker in enumerate(TURNS, 1):
        state, more = strategy.react(state, fit(open_orders[worker], task_context(worker)))
        open_orders |= {order.worker: order for order in more}

        old, tau, number, rate = sent[worker]
        buffer.append((client_update(old, worker, number, rate), version - tau))
        if len(buffer) == k:
            model = {
                key: value + lr / k * sum(d[key] / (1 + s) ** 0.5 for d, s in buffer)
                if value.is_floating_point()
                else torch.stack([value, *(d[key] for d, _ in buffer)]).amax(0)
                for key, value in model.items()
            }
            version, buffer = version + 1, []
        sent[worker] = model, version, number + 1, 0.5 * 0.98 ** (reports // 2)

    found = strategy.model(state)
    assert list(found) == list(model) and strategy.version(state) == version == len(TURNS) // k
    for key, value in model.items():
        torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-5)
    assert not torch.equal(found["0.weight"], initial_model()["0.weight"])


# --------------------------------------------------------------------------- the task


def fitted(**settings: Any) -> TaskResult:
    return fit(first_request(FedBuff(train_settings()), **settings), task_context())


def test_the_order_carries_model_and_settings_of_its_round() -> None:
    model = initial_model()
    ask = FedBuff(train_settings(lr=0.1), server_lr=3).configure(model, "alice", 3)
    assert ask.task == "fedbuff.fit" and ask.tensors is model
    assert ask.settings == {**train_settings(lr=0.1).model_dump(), "lr": 0.98 * (0.98 * 0.1)}


def test_the_report_holds_what_was_added() -> None:
    found = fitted()
    assert (found.request_id, found.worker, found.round, found.num_examples) == ("1/alice", "alice", 1, 40)
    assert found.metrics["num_examples"] == 24 and 0 < found.metrics["loss"] < 5
    settings = train_settings().model_dump()
    order = TaskRequest(
        request_id="1/alice", worker="alice", round=1, task="fedavg.fit", seed=5, settings=settings,
        tensors=initial_model(),
    )  # fmt: skip
    trained = registry.find_piece("task", "fedavg.fit")(order, task_context()).tensors
    assert list(found.tensors) == list(trained)
    for key, value in initial_model().items():
        wanted = trained[key] - value if value.is_floating_point() else trained[key]
        assert torch.equal(found.tensors[key], wanted)
    assert int(found.tensors["1.num_batches_tracked"]) == 3 and not found.tensors["3.bias"].any()


@pytest.mark.parametrize("settings", [{"dataset": "mnist"}, {"model": "mlp"}, {"loss": "nil"}, {"epochs": 0}, {"x": 1}])
def test_what_cannot_be_done_is_a_task_error(settings: dict[str, Any]) -> None:
    with pytest.raises(TaskError):
        fitted(**settings)


def test_a_workers_own_model_is_the_newest_with_its_difference_alone() -> None:
    model = {"w": torch.tensor([1.0, 2.0]), "n": torch.tensor(4)}
    found = FedBuff(train_settings()).worker_model(
        model, task_result(ORDER, {"w": torch.tensor([0.5, -1.0]), "n": torch.tensor(3)})
    )
    assert found["w"].tolist() == [1.5, 1.0] and int(found["n"]) == 3
    assert model["w"].tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    "tensors",
    [
        {},
        {"w": torch.ones(1), "n": torch.tensor(1)},
        {"w": torch.ones(2, 2), "n": torch.tensor(1)},
        {"w": torch.ones(2).double(), "n": torch.tensor(1)},
        {"w": torch.ones(2), "n": torch.tensor(1.0)},
        {"w": torch.ones(2), "n": torch.tensor(1), "x": torch.ones(1)},
    ],
)
def test_a_difference_of_another_model_is_rejected_and_not_broadcast(tensors: Tensors) -> None:
    with pytest.raises(RejectedUpdate):
        FedBuff(train_settings()).worker_model({"w": torch.zeros(2), "n": torch.tensor(4)}, task_result(ORDER, tensors))
