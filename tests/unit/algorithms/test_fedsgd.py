"""One whole federated training against gradient descent on all the data at once, written out with torch alone."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from fedws.algorithms.fedsgd import FedSGD, send_gradient
from fedws.core import registry
from fedws.core.errors import RejectedUpdate, TaskError
from fedws.core.task_settings import TrainSettings
from fedws.core.tensors import Tensors
from fedws.protocol.messages import TaskRequest, TaskResult
from fedws.scheduling.samplers.all import AllSampler
from fedws.scheduling.schedule_config import ScheduleConfig
from fedws.scheduling.synchronous import SynchronousScheduler
from fedws.updates.aggregators.mean import MeanAggregator
from tests.helpers.support import sent_over
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


def plain() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 2), nn.LogSoftmax(dim=1))


def tied() -> nn.Module:
    """Two layers with the same weights, which a state dict has under two names."""
    module = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2), nn.LogSoftmax(dim=1))
    module[2].weight = module[0].weight
    return module


class Looked(nn.Module):
    """An embedding of the sign, whose gradient may be sparse."""

    def __init__(self, *, sparse: bool) -> None:
        super().__init__()
        self.table = nn.Embedding(3, 2, sparse=sparse)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.table((inputs > 0).long())
        return found.sum(1).log_softmax(1)


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry._pieces, ("model", "plain"), plain)
    monkeypatch.setitem(registry._pieces, ("model", "tied"), tied)
    monkeypatch.setitem(registry._pieces, ("model", "sparse"), lambda: Looked(sparse=True))
    monkeypatch.setitem(registry._pieces, ("model", "dense"), lambda: Looked(sparse=False))


def training(**options: Any) -> TrainSettings:
    return train_settings(**{"max_local_batches": 100, **options})


def run(model: str, rounds: int, weighted: bool = False) -> Tensors:
    terms = ScheduleConfig(tuple(SIZES), rounds, seed=7, min_results=len(SIZES))
    algorithm, aggregator = FedSGD(training(model=model)), MeanAggregator(weight_by_samples=weighted)
    return run_rounds(
        SynchronousScheduler(algorithm, aggregator, AllSampler(), terms), send_gradient, initial_model(model)
    )


def test_weighted_training_is_gradient_descent_on_the_union_of_the_data() -> None:
    """What the paper's equation says, and why it is the baseline."""
    found = run("plain", 4, weighted=True)
    inputs = torch.cat([Points(size).inputs for size in SIZES.values()]).double()
    targets = torch.cat([Points(size).targets for size in SIZES.values()])
    module = plain().double()
    module.load_state_dict(initial_model("plain"))
    for round_number in range(4):
        slopes = torch.autograd.grad(functional.nll_loss(module(inputs), targets), list(module.parameters()))
        for parameter, slope in zip(module.parameters(), slopes, strict=True):
            parameter.data -= 0.5 * 0.98**round_number * slope
    for key, value in module.state_dict().items():
        torch.testing.assert_close(found[key].double(), value, rtol=1e-5, atol=1e-6)
    assert not torch.equal(found["0.weight"], initial_model("plain")["0.weight"])


def by_hand(
    model: Tensors, data: Points, chosen: torch.Tensor
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Gradient of the mean loss over the chosen samples, eight at a time, and the state afterwards."""
    module = tiny_model().train()
    module.load_state_dict(dict(model))
    for part in chosen.split(8):
        functional.nll_loss(module(data.inputs[part]), data.targets[part], reduction="sum").backward()
    slopes = {key: value.grad / len(chosen) for key, value in module.named_parameters() if value.grad is not None}
    return slopes, {key: value.detach() for key, value in module.state_dict().items()}


def reported(seed: int = 5, **settings: Any) -> TaskResult:
    return send_gradient(first_request(FedSGD(training()), seed, **settings), task_context())


@pytest.mark.parametrize("batches", [2, 5, 100])
def test_a_report_holds_gradients_and_buffers(batches: int) -> None:
    report = reported(max_local_batches=batches)
    chosen = torch.randperm(40, generator=torch.Generator().manual_seed(5))[: 8 * batches]
    slopes, state = by_hand(initial_model(), Points(40), chosen)
    buffers = ["1.running_mean", "1.running_var", "1.num_batches_tracked"]
    assert set(report.tensors) == {*(f"gradient:{key}" for key in slopes), *buffers}
    assert len(slopes) == 5 and "3.bias" not in slopes
    for key, slope in slopes.items():
        torch.testing.assert_close(report.tensors[f"gradient:{key}"], slope, rtol=1e-5, atol=1e-7)
    for key in buffers:
        assert torch.equal(report.tensors[key], state[key])
    assert report.metrics["num_examples"] == len(chosen) and report.num_examples == 40
    assert all(not tensor.requires_grad for tensor in report.tensors.values())


def test_a_step_moves_parameters_takes_buffers_and_leaves_the_frozen() -> None:
    model, report = initial_model(), reported()
    before = {key: value.clone() for key, value in model.items()}
    found = FedSGD(training(lr=0.1)).server_update(model, report.tensors, 2)
    assert list(found) == list(model)
    assert torch.equal(found["0.weight"], model["0.weight"] - 0.1 * 0.98 * report.tensors["gradient:0.weight"])
    assert torch.equal(found["1.running_mean"], report.tensors["1.running_mean"])
    assert int(found["1.num_batches_tracked"]) == 5 and found["1.num_batches_tracked"].dtype == torch.int64
    assert torch.equal(found["3.bias"], model["3.bias"])
    assert all(torch.equal(model[key], before[key]) for key in model)


def test_a_training_with_batch_norm_keeps_dtypes_and_counts() -> None:
    found = run("tiny", 2)
    like = initial_model()
    assert {key: (value.dtype, value.shape) for key, value in found.items()} == {
        key: (value.dtype, value.shape) for key, value in like.items()
    }
    assert int(found["1.num_batches_tracked"]) == 2 * 5  # alice's five batches are more than bob's three
    assert all(torch.isfinite(value).all() for value in found.values())


def test_tied_weights_learn_and_stay_tied() -> None:
    found = run("tied", 2)
    assert torch.equal(found["0.weight"], found["2.weight"])
    assert not torch.equal(found["0.weight"], initial_model("tied")["0.weight"])


def test_a_workers_own_model_is_one_step_from_its_own_gradient() -> None:
    algorithm, report, model = FedSGD(training()), reported(), initial_model()
    found = algorithm.worker_model(model, report)
    assert torch.equal(found["0.weight"], model["0.weight"] - 0.5 * report.tensors["gradient:0.weight"])


@pytest.mark.parametrize("slope", [torch.ones(1), torch.ones(4, 1), torch.ones(3), torch.ones(4, 2).double()])
def test_a_gradient_of_another_shape_is_rejected_and_not_broadcast(slope: torch.Tensor) -> None:
    with pytest.raises(RejectedUpdate, match=r"the gradient of 0\.weight"):
        FedSGD(training()).server_update(initial_model(), {**reported().tensors, "gradient:0.weight": slope}, 1)


@pytest.mark.parametrize("name", ["gradient:9.weight", "9.weight", "0.weight"])
def test_what_is_no_gradient_of_a_parameter_is_rejected(name: str) -> None:
    """Not least a weight itself, which would otherwise be taken as it is."""
    with pytest.raises(RejectedUpdate, match=f"unexpected tensor '{name}'"):
        FedSGD(training()).server_update(initial_model(), {**reported().tensors, name: torch.ones(4, 2)}, 1)


def test_a_report_that_leaves_a_gradient_out_is_rejected_whoever_comes_first() -> None:
    tensors = {name: tensor for name, tensor in reported().tensors.items() if name != "gradient:0.weight"}
    with pytest.raises(RejectedUpdate, match=r"gradient:0\.weight is missing"):
        FedSGD(training()).server_update(initial_model(), tensors, 1)


def test_the_seed_chooses_the_samples() -> None:
    one, same, other = (reported(seed, max_local_batches=1).tensors["gradient:0.weight"] for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)


@pytest.mark.parametrize(
    "settings", [{"dataset": "mnist"}, {"model": "mlp"}, {"loss": "nil"}, {"max_local_batches": 0}, {"x": 1}]
)
def test_what_cannot_be_done_is_a_task_error(settings: dict[str, Any]) -> None:
    with pytest.raises(TaskError):
        reported(**settings)


def test_a_sparse_gradient_trains_as_a_dense_one_and_can_travel() -> None:
    order = TaskRequest(
        request_id="1/alice", worker="alice", round=1, task="fedsgd.gradient", seed=5, tensors=initial_model("sparse"),
        settings=training(model="sparse").model_dump(),
    )  # fmt: skip
    report = sent_over(send_gradient(order, task_context()))
    slope = report.tensors["gradient:table.weight"]
    assert slope.layout is torch.strided and torch.equal(slope[2], torch.zeros(2)), "a row that no sample has"
    sparse, dense = run("sparse", 3), run("dense", 3)
    torch.testing.assert_close(sparse["table.weight"], dense["table.weight"], rtol=1e-5, atol=1e-7)
    assert not torch.equal(sparse["table.weight"][:2], initial_model("sparse")["table.weight"][:2])
