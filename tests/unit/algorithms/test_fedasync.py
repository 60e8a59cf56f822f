"""FedAsync against the paper's pseudocode: the mixing in plain Python, a whole training in torch alone."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from fedws.algorithms.fedasync import FedAsync, fit
from fedws.core import registry
from fedws.core.errors import TaskError, UsageError
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
ORDER = TaskRequest(request_id="1/alice", worker="alice", round=1, task="fedasync.fit")

# --------------------------------------------------------------------------- s(staleness), section 5.2


@pytest.mark.parametrize("staleness", range(20))
def test_a_constant_weighs_all_alike(staleness: int) -> None:
    assert FedAsync(train_settings(), staleness_function="constant").staleness_weight(staleness) == 1


@pytest.mark.parametrize("staleness", range(20))
@pytest.mark.parametrize("exponent", [0.0, 0.5, 2.0])
def test_a_polynomial_falls_as_it_says(staleness: int, exponent: float) -> None:
    found = FedAsync(train_settings(), exponent=exponent).staleness_weight(staleness)
    assert found == pytest.approx(np.float64(staleness + 1) ** -exponent)


@pytest.mark.parametrize(
    ("staleness", "wanted"), [(0, 1), (3, 1), (4, 1), (5, 1 / 11), (6, 1 / 21), (14, 1 / 101)]
)  # fmt: skip
def test_a_hinge_is_one_up_to_its_bound(staleness: int, wanted: float) -> None:
    assert FedAsync(train_settings(), staleness_function="hinge").staleness_weight(staleness) == pytest.approx(wanted)


def test_a_hinge_has_a_slope_and_a_bound() -> None:
    hinge = FedAsync(train_settings(), staleness_function="hinge", slope=2, bound=1.5)
    assert [hinge.staleness_weight(staleness) for staleness in (0, 1, 2, 3)] == [1, 1, 1 / 2, 1 / 4]


def test_the_papers_settings_are_the_defaults() -> None:
    found = registry.build_piece("algorithm", "fedasync", train_settings())
    assert found == FedAsync(
        train_settings(), alpha=0.6, staleness_function="polynomial", exponent=0.5, slope=10, bound=4, mu=0.005
    )
    assert found.buffer_size == 1


@pytest.mark.parametrize(
    "options",
    [
        "0",
        "1.1",
        "nan",
        "staleness_function=linear",
        "exponent=-1",
        "exponent=inf",
        "slope=0",
        "bound=-1",
        "mu=-1",
        "buffer_size=2",
        "mu=",
    ],
)
def test_options_that_cannot_be_are_refused(options: str) -> None:
    with pytest.raises(UsageError):
        registry.build_piece("algorithm", f"fedasync:{options}", train_settings())
    found = registry.build_piece("algorithm", "fedasync:0.9,staleness_function=hinge,bound=2", train_settings())
    assert (found.alpha, found.staleness_function, found.bound) == (0.9, "hinge", 2)


# --------------------------------------------------------------------------- the mixture


@pytest.mark.parametrize("kind", ["constant", "polynomial", "hinge"])
@pytest.mark.parametrize("staleness", [0, 1, 4, 5, 9])
def test_a_report_is_mixed_into_the_model(kind: Any, staleness: int) -> None:
    algorithm = FedAsync(train_settings(), alpha=0.7, staleness_function=kind)
    old, new = np.array([[1.0, -2.0, 0.5], [3.0, 5.0, -0.25]], dtype=np.float32)
    s = {"constant": 1, "polynomial": (staleness + 1) ** -0.5, "hinge": 1 / (10 * max(0, staleness - 4) + 1)}[kind]
    model = {"w": torch.from_numpy(old)}
    tensors = {"w": torch.from_numpy(new)}
    found = algorithm.server_update(
        model, algorithm.accumulate(model, algorithm.init(), task_result(ORDER, tensors), staleness)
    )
    np.testing.assert_allclose(found["w"].numpy(), (1 - 0.7 * s) * old + 0.7 * s * new, rtol=1e-6, atol=1e-6)
    assert torch.equal(model["w"], torch.tensor([1.0, -2.0, 0.5])), "the model is not mixed in place"


def test_with_a_of_one_a_fresh_report_is_the_model() -> None:
    algorithm, model, tensors = FedAsync(train_settings(), alpha=1), {"w": torch.rand(50)}, {"w": torch.rand(50)}
    assert torch.equal(algorithm.accumulate(model, {}, task_result(ORDER, tensors), 0)["w"], tensors["w"])


def test_the_weight_is_always_that_of_the_report_alone() -> None:
    """Elsewhere ``a *= s(staleness)`` with every report; after twenty stale ones nothing is mixed in any more."""
    strategy, model = asynchronous_scheduler(FedAsync(train_settings()), 100), {"w": torch.zeros(1)}
    state, orders = strategy.start(model, list(SIZES))
    open_orders = {order.worker: order for order in orders}
    x = 0.0
    for turn in range(40):
        worker = "bob" if turn % 10 == 9 else "alice"
        stale = {"bob": 9, "alice": 1 if turn % 10 == 0 and turn else 0}[worker]
        value = float(turn + 1)
        state, more = strategy.react(state, task_result(open_orders[worker], {"w": torch.full((1,), value)}))
        open_orders |= {order.worker: order for order in more}
        assert strategy.record(state)["updates"] == [{"worker": worker, "staleness": stale}]
        weight = 0.6 / np.sqrt(stale + 1)
        x = (1 - weight) * x + weight * value
        assert float(strategy.model(state)["w"]) == pytest.approx(x, rel=1e-5)
    assert x > 30 and model["w"] == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_dtype_stays_what_it_is(dtype: torch.dtype) -> None:
    model = {"w": torch.zeros(3, dtype=dtype)}
    found = FedAsync(train_settings(), alpha=0.5).accumulate(
        model, {}, task_result(ORDER, {"w": torch.ones(3, dtype=dtype)}), 0
    )
    assert found["w"].dtype == dtype and found["w"].tolist() == [0.5] * 3


def test_integers_and_booleans_take_the_maximum() -> None:
    model = {"n": torch.tensor([5, 1]), "b": torch.tensor([True, False])}
    tensors = {"n": torch.tensor([3, 4]), "b": torch.tensor([False, False])}
    found = FedAsync(train_settings()).accumulate(model, {}, task_result(ORDER, tensors), 3)
    assert found["n"].tolist() == [5, 4] and found["b"].tolist() == [True, False]


# --------------------------------------------------------------------------- a whole training


def client_update(model: Tensors, worker: str, number: int, lr: float, mu: float) -> dict[str, torch.Tensor]:
    """The paper's worker: at most 3 batches of 8 on the loss with its proximal term, by plain gradient descent."""
    module, data = tiny_model().train(), Points(SIZES[worker])
    module.load_state_dict(dict(model))
    anchor = copy.deepcopy(module)
    shuffle = torch.Generator().manual_seed(request_seed(7, worker, number))
    for chosen in torch.randperm(len(data), generator=shuffle).split(8)[:3]:
        loss = functional.nll_loss(module(data.inputs[chosen]), data.targets[chosen])
        pairs = [(w, v.detach()) for w, v in zip(module.parameters(), anchor.parameters(), strict=True)]
        trained = [pair for pair in pairs if pair[0].requires_grad]
        slopes = torch.autograd.grad(loss, [w for w, _ in trained])
        for (w, v), slope in zip(trained, slopes, strict=True):
            w.data.sub_(slope + mu * (w.data - v), alpha=lr)
    return {key: value.detach() for key, value in module.state_dict().items()}


TURNS = ["alice", "alice", "bob", "alice", "bob", "bob", "alice", "alice", "bob"]


@pytest.mark.parametrize("mu", [0.0, 0.005, 3.0])
def test_a_training_is_the_papers(mu: float) -> None:
    strategy = asynchronous_scheduler(FedAsync(train_settings(), mu=mu), len(TURNS))
    state, orders = strategy.start(initial_model(), list(SIZES))
    open_orders = {order.worker: order for order in orders}

    model: dict[str, torch.Tensor] = initial_model()
    sent = dict.fromkeys(SIZES, (model, 0, 1, 0.5))  # model, its version, the order's number and learning rate
    for version, worker in enumerate(TURNS):
        state, more = strategy.react(state, fit(open_orders[worker], task_context(worker)))
        open_orders |= {order.worker: order for order in more}

        old, tau, number, lr = sent[worker]
        new = client_update(old, worker, number, lr, mu)
        weight = 0.6 * (version - tau + 1) ** -0.5
        model = {
            key: (1 - weight) * value + weight * new[key]
            if value.is_floating_point()
            else torch.maximum(value, new[key])
            for key, value in model.items()
        }
        sent[worker] = model, version + 1, number + 1, 0.5 * 0.98 ** ((version + 1) // 2)

    found = strategy.model(state)
    assert list(found) == list(model) and strategy.version(state) == len(TURNS)
    for key, value in model.items():
        torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-5)
    assert not torch.equal(found["0.weight"], initial_model()["0.weight"])


# --------------------------------------------------------------------------- the task


def fitted(seed: int = 5, mu: float = 0.005, **settings: Any) -> TaskResult:
    return fit(first_request(FedAsync(train_settings(), mu=mu), seed, **settings), task_context())


def test_the_order_carries_model_and_settings_of_its_round() -> None:
    model = initial_model()
    ask = FedAsync(train_settings(lr=0.1), mu=0.2).configure(model, "alice", 3)
    assert ask.task == "fedasync.fit" and ask.tensors is model
    assert ask.settings == {**train_settings(lr=0.1).model_dump(), "lr": 0.98 * (0.98 * 0.1), "mu": 0.2}


def test_the_report_says_what_was_done() -> None:
    found = fitted()
    assert (found.request_id, found.worker, found.round, found.num_examples) == ("1/alice", "alice", 1, 40)
    assert found.metrics["num_examples"] == 24 and 0 < found.metrics["loss"] < 5
    assert list(found.tensors) == list(initial_model()) and int(found.tensors["1.num_batches_tracked"]) == 3
    assert all(not tensor.requires_grad for tensor in found.tensors.values())


def test_the_proximal_term_holds_the_model_near_where_it_began() -> None:
    def moved(mu: float) -> float:
        found = fitted(mu=mu, lr=0.01).tensors
        return sum(
            float((found[name] - initial_model()[name]).square().sum()) for name in ("0.weight", "0.bias", "3.weight")
        )

    assert moved(0) > moved(30) > 0


def test_it_can_be_switched_off() -> None:
    ask = TaskRequest(
        request_id="1/alice",
        worker="alice",
        round=1,
        task="fedavg.fit",
        seed=5,
        settings=train_settings().model_dump(),
        tensors=initial_model(),
    )
    plain = registry.find_piece("task", "fedavg.fit")(ask, task_context())
    assert all(torch.equal(value, plain.tensors[key]) for key, value in fitted(mu=0).tensors.items())


@pytest.mark.parametrize("settings", [{"mu": -1.0}, {"mu": float("nan")}, {"mu": None}, {"dataset": "mnist"}, {"x": 1}])
def test_what_cannot_be_done_is_a_task_error(settings: dict[str, Any]) -> None:
    with pytest.raises(TaskError):
        fitted(**settings)


def test_a_report_is_the_workers_own_model() -> None:
    found = fitted()
    assert FedAsync(train_settings()).worker_model(initial_model(), found) is found.tensors
