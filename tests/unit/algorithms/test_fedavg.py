"""One whole federated training against the paper's pseudocode, written out with torch alone."""

from typing import Any

import pytest
import torch
from torch.nn import functional

from fedws.algorithms.fedavg import FedAvg, fit
from fedws.core import registry
from fedws.core.errors import TaskError, UsageError
from fedws.core.plan import build_plan
from fedws.core.seeds import request_seed
from fedws.core.tensors import Tensors
from fedws.protocol.messages import TaskRequest, TaskResult
from fedws.scheduling.samplers.all import AllSampler
from fedws.scheduling.schedule_config import ScheduleConfig
from fedws.scheduling.synchronous import SynchronousScheduler
from fedws.updates.aggregators.mean import MeanAggregator
from tests.helpers.tiny_training import (
    SIZES,
    Points,
    first_request,
    initial_model,
    run_rounds,
    task_context,
    tiny_model,
    train_settings,
)

pytestmark = pytest.mark.usefixtures("tiny_model_registered")


def client_update(model: Tensors, worker: str, round_number: int, lr: float, epochs: int) -> dict[str, torch.Tensor]:
    """The paper's ClientUpdate(k, w), at most 3 batches of 8."""
    module, data = tiny_model().train(), Points(SIZES[worker])
    module.load_state_dict(dict(model))
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    shuffle, left = torch.Generator().manual_seed(request_seed(7, worker, round_number)), 3
    for _ in range(epochs):
        for chosen in torch.randperm(len(data), generator=shuffle).split(8)[:left]:
            left -= 1
            loss = functional.nll_loss(module(data.inputs[chosen]), data.targets[chosen])
            for parameter, slope in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                parameter.data.sub_(slope, alpha=lr)
    return {key: value.detach() for key, value in module.state_dict().items()}


def federated(rounds: int, weighted: bool, epochs: int) -> Tensors:
    """The paper's server: the mean of the workers' models, n_k / n where weighted; counters take the maximum."""
    model: Tensors = initial_model()
    for round_number in range(1, rounds + 1):
        lr = 0.5 * 0.98 ** (round_number - 1)
        models = {worker: client_update(model, worker, round_number, lr, epochs) for worker in SIZES}
        total = sum(SIZES.values()) if weighted else len(SIZES)
        model = {
            key: sum(
                (SIZES[worker] if weighted else 1) * models[worker][key].double() for worker in SIZES
            ).div(total).float()  # type: ignore[union-attr]
            if value.is_floating_point()
            else torch.stack([models[worker][key] for worker in SIZES]).amax(0)
            for key, value in model.items()
        }  # fmt: skip
    return model


@pytest.mark.parametrize(("weighted", "epochs"), [(False, 1), (True, 1), (False, 2)])
def test_a_training_is_the_papers(weighted: bool, epochs: int) -> None:
    algorithm = FedAvg(train_settings(), epochs=epochs)
    terms = ScheduleConfig(tuple(SIZES), rounds=3, seed=7, min_results=len(SIZES))
    scheduler = SynchronousScheduler(algorithm, MeanAggregator(weight_by_samples=weighted), AllSampler(), terms)
    found = run_rounds(scheduler, fit, initial_model())
    wanted = federated(3, weighted, epochs)
    assert list(found) == list(wanted)
    for key, value in wanted.items():
        torch.testing.assert_close(found[key], value, rtol=1e-5, atol=1e-6)
    assert int(found["1.num_batches_tracked"]) == 9 and not torch.equal(found["0.weight"], initial_model()["0.weight"])


def test_the_order_carries_model_and_settings_of_its_round() -> None:
    model = initial_model()
    ask = FedAvg(train_settings(lr=0.1), epochs=4).configure(model, "alice", 3)
    assert ask.task == "fedavg.fit" and ask.tensors is model
    assert ask.settings == {**train_settings(lr=0.1).model_dump(), "epochs": 4, "lr": 0.98 * (0.98 * 0.1)}


def test_epochs_are_an_option() -> None:
    assert registry.build_piece("algorithm", "fedavg", train_settings()).epochs is None
    assert registry.build_piece("algorithm", "fedavg:3", train_settings()) == FedAvg(train_settings(), epochs=3)
    with pytest.raises(UsageError, match="epochs"):
        registry.build_piece("algorithm", "fedavg:epochs=many", train_settings())
    with pytest.raises(UsageError, match="epochs: Input should be greater than or equal to 1, not '-1'"):
        registry.build_piece("algorithm", "fedavg:epochs=-1", train_settings())


@pytest.mark.parametrize(
    ("option", "settings", "wanted"),
    [
        ("fedavg", {}, (1, 10, 30)),
        ("fedavg:epochs=2", {}, (2, 2**31, 80)),
        ("fedavg:epochs=1", {}, (1, 2**31, 40)),
        ("fedavg", {"epochs": 3}, (3, 2**31, 120)),
        ("fedavg:epochs=2", {"epochs": 3}, (2, 2**31, 80)),
        ("fedavg:epochs=2", {"max_local_batches": 15}, (2, 15, 43)),
        ("fedavg", {"epochs": 2, "max_local_batches": 3}, (2, 3, 9)),
    ],
)
def test_who_asks_for_epochs_gets_whole_ones(option: str, settings: Any, wanted: tuple[int, int, int]) -> None:
    """40 samples in batches of 3 are 14 batches, the last of which has one and is joined to the one before."""
    plan = build_plan({"model": "tiny", "dataset": "points", "batch_size": 3, **settings})
    ask = registry.build_piece("algorithm", option, plan.train_settings()).configure(initial_model(), "alice", 1)
    assert (ask.settings["epochs"], ask.settings["max_local_batches"]) == wanted[:2]
    order = TaskRequest(
        request_id="1/alice", worker="alice", round=1, task=ask.task, settings=ask.settings, tensors=ask.tensors
    )
    assert fit(order, task_context()).metrics["num_examples"] == wanted[2]


def fitted(**settings: Any) -> TaskResult:
    return fit(first_request(FedAvg(train_settings()), **settings), task_context())


def test_the_report_says_what_was_done() -> None:
    report = fitted()
    assert (report.request_id, report.worker, report.round, report.num_examples) == ("1/alice", "alice", 1, 40)
    assert report.metrics == {"loss": report.metrics["loss"], "num_examples": 24, "device": "cpu"}
    assert 0 < report.metrics["loss"] < 5
    assert list(report.tensors) == list(initial_model())
    assert all(not tensor.requires_grad for tensor in report.tensors.values())


def test_what_is_frozen_stays_and_what_counts_counts() -> None:
    tensors = fitted().tensors
    assert torch.equal(tensors["3.bias"], initial_model()["3.bias"]) and int(tensors["1.num_batches_tracked"]) == 3
    assert not torch.equal(tensors["1.running_mean"], initial_model()["1.running_mean"])


def test_the_model_of_the_order_is_not_trained_in_place() -> None:
    before = initial_model()
    fitted()
    assert all(torch.equal(value, before[key]) for key, value in initial_model().items())


@pytest.mark.parametrize("settings", [{"dataset": "mnist"}, {"model": "mlp"}, {"loss": "nil"}, {"epochs": 0}, {"x": 1}])
def test_what_cannot_be_done_is_a_task_error(settings: dict[str, Any]) -> None:
    with pytest.raises(TaskError):
        fitted(**settings)


def test_the_mean_is_the_next_model_and_a_report_the_workers_own() -> None:
    algorithm, report, model = FedAvg(train_settings()), fitted(), initial_model()
    assert algorithm.server_update(model, report.tensors, 1) is report.tensors
    assert algorithm.worker_model(model, report) is report.tensors
