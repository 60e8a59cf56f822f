"""Training, gradients and scores where inputs, targets or outputs are not one tensor, against those where they are."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn
from torch.nn import functional

from fedws.core import registry
from fedws.core.errors import PieceFailed, TaskError
from fedws.core.seeds import seed_generators
from fedws.core.task_settings import EvalSettings, TrainSettings
from fedws.training.evaluation import evaluate
from fedws.training.local_training import compute_gradient, train
from fedws.training.task_context import TaskContext

INPUTS = torch.randn(21, 2, 3, generator=torch.Generator().manual_seed(1))
TARGETS = (INPUTS[:, 0].sum(1) > 0).long()


class Data:
    """Samples in the form that ``form`` makes of the two halves of an input."""

    def __init__(self, form: Callable[[Any, Any], Any] = lambda a, b: torch.stack([a, b]), target: Any = int) -> None:
        self.form, self.target = form, target

    def __len__(self) -> int:
        return len(INPUTS)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return self.form(*INPUTS[index]), self.target(TARGETS[index])


def table(a: Any, b: Any) -> Any:
    return {"a": a, "b": b}


def nested(a: Any, b: Any) -> Any:
    return {"towers": (a, {"b": b}), "name": "text"}


class Net(nn.Module):
    """One dense layer over both halves; ``take`` finds them in the inputs, ``give`` makes the outputs."""

    def __init__(self, take: Callable[[Any], Any], give: Callable[[Any], Any] = lambda it: it) -> None:
        super().__init__()
        with seed_generators(2):
            self.dense = nn.Linear(3, 2)
        self.take, self.give = take, give

    def forward(self, inputs: Any) -> Any:
        a, b = self.take(inputs)
        return self.give(self.dense(a * b).log_softmax(1))


def plain(give: Callable[[Any], Any] = lambda it: it) -> Net:
    return Net(lambda inputs: inputs.unbind(1), give)


def work(data: Any = None) -> TaskContext:
    return TaskContext("alice", "halves", data or Data())


def settings(**more: Any) -> TrainSettings:
    return TrainSettings(**{"model": "any", "dataset": "halves", "batch_size": 8, "lr": 0.3, **more})


def scoring(**more: Any) -> EvalSettings:
    return EvalSettings(**{"model": "any", "dataset": "halves", "batch_size": 8, "loss": "nll", **more})


def all_of(module: Net, data: Any = None, **more: Any) -> Any:
    """What a model becomes, its gradient, and its score."""
    slope = compute_gradient(module, work(data), settings(**more), 5)
    grads = [parameter.grad.clone() for parameter in module.parameters() if parameter.grad is not None]
    trained = train(module, work(data), settings(**more), 5)
    scored = evaluate(module, work(data), scoring(**more))
    return slope, trained, scored, grads, [value.clone() for value in module.state_dict().values()]


def assert_same(one: Any, other: Any) -> None:
    assert one[:3] == other[:3]
    assert all(torch.equal(mine, theirs) for k in (3, 4) for mine, theirs in zip(one[k], other[k], strict=True))


@pytest.mark.parametrize(
    ("form", "take"),
    [
        (lambda a, b: (a, b), lambda inputs: inputs),
        (table, lambda inputs: inputs.values()),
        (nested, lambda inputs: (inputs["towers"][0], inputs["towers"][1]["b"])),
    ],
)
def test_inputs_in_any_form_train_and_score_as_one_tensor(form: Any, take: Any) -> None:
    assert_same(all_of(Net(take), Data(form)), all_of(plain()))


class Named(NamedTuple):
    logits: Any
    hidden: int


@dataclass
class Output:
    loss: Any = None
    logits: Any = None


@pytest.mark.parametrize(
    "give",
    [
        lambda it: {"logits": it, "hidden": 1},
        lambda it: OrderedDict(loss=it.sum(), logits=it),
        lambda it: Output(logits=it),
        lambda it: Named(it, 1),
    ],
)
def test_the_loss_is_that_of_the_logits(give: Any) -> None:
    assert_same(all_of(plain(give)), all_of(plain()))


@pytest.mark.parametrize("give", [lambda it: {"loss": it.mean()}, lambda it: Output(loss=it.mean())])
def test_without_logits_the_model_s_own_loss_is_the_loss(give: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry._pieces, ("loss", "mean"), lambda: lambda outputs, targets: outputs.mean())
    mine, wanted = all_of(plain(give)), all_of(plain(), loss="mean")
    assert_same((*mine[:2], None, *mine[3:]), (*wanted[:2], None, *wanted[3:]))
    assert mine[2].loss == wanted[2].loss and mine[2].accuracy is None


def test_targets_in_any_form_go_to_a_loss_that_takes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    own = lambda: lambda outputs, targets: functional.nll_loss(outputs, targets["label"][0])  # noqa: E731
    monkeypatch.setitem(registry._pieces, ("loss", "own"), own)
    mine = all_of(plain(), Data(target=lambda label: {"label": (int(label), "text")}), loss="own")
    wanted = all_of(plain())
    assert_same((*mine[:2], None, *mine[3:]), (*wanted[:2], None, *wanted[3:]))
    assert mine[2].num_examples == 21 and mine[2].loss == wanted[2].loss


ALL: list[Callable[[Net, Any], Any]] = [
    lambda module, data: train(module, work(data), settings(), 1),
    lambda module, data: compute_gradient(module, work(data), settings(), 1),
    lambda module, data: evaluate(module, work(data), scoring()),
]


@pytest.mark.parametrize("learn", ALL)
@pytest.mark.parametrize(
    ("module", "data", "text"),
    [
        (plain(lambda it: {"a": it, "b": it}), Data(), "the model returns a dict of 2; return a tensor, or"),
        (plain(lambda it: (it, it)), Data(), r"loss nll requires a tensor, but the model returns a tuple of 2; return"),
        (plain(lambda it: {"loss": it}), Data(), r"loss is a tensor of shape \[8, 2\]; it must be a scalar"),
        (plain(), Data(target=lambda it: {"label": int(it)}), "a tensor as targets, not a dict of 1"),
    ],
)
def test_what_a_loss_cannot_take_is_a_task_error(learn: Any, module: Net, data: Any, text: str) -> None:
    with pytest.raises(TaskError, match=text):
        learn(module, data)


@pytest.mark.parametrize("learn", ALL)
def test_an_error_of_a_loss_names_the_loss(learn: Any) -> None:
    with pytest.raises(PieceFailed, match=r"^loss nll: RuntimeError: .*multi-target not supported") as caught:
        learn(plain(), Data(target=lambda label: torch.ones(2, dtype=torch.int64)))
    assert isinstance(caught.value.__cause__, RuntimeError)


@pytest.mark.parametrize("kind", [nn.NLLLoss, nn.CrossEntropyLoss])
def test_a_loss_of_torch_that_a_user_registers_is_checked_too(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry._pieces, ("loss", "own"), kind)
    with pytest.raises(TaskError, match="loss own requires a tensor, but the model returns a tuple of 2"):
        train(plain(lambda it: (it, it)), work(), settings(loss="own"), 1)


def test_a_loss_of_a_user_gets_outputs_of_any_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry._pieces, ("loss", "own"), lambda: lambda found, targets: found[0].mean())
    assert train(plain(lambda it: (it, it)), work(), settings(loss="own"), 1).num_examples == 21


# --------------------------------------------------------------------------- log-probabilities


class Scores(Net):
    """Without log_softmax."""

    def forward(self, inputs: Any) -> Any:
        return self.dense(inputs[:, 0])


class Half(Net):
    def forward(self, inputs: Any) -> Any:
        return super().forward(inputs).to(torch.bfloat16)


def warned(learn: Any, module: Net) -> list[str]:
    found = work()
    learn(module, found)
    return found.warnings


@pytest.mark.parametrize(
    ("module", "loss", "wanted"),
    [
        (lambda: Scores(lambda it: it), "nll", ["not_log_probabilities"]),
        (lambda: Scores(lambda it: it), "cross_entropy", []),
        (plain, "nll", []),
        (plain, "cross_entropy", []),
        (lambda: Half(lambda it: it.unbind(1)), "nll", []),
        (lambda: plain(lambda it: {"logits": it + 1}), "nll", ["not_log_probabilities"]),
        (lambda: plain(lambda it: it * float("nan")), "nll", []),
    ],
)
@pytest.mark.parametrize(
    "learn",
    [
        lambda module, it, loss: train(module, it, settings(loss=loss, optimizer="sgd"), 1),
        lambda module, it, loss: compute_gradient(module, it, settings(loss=loss), 1),
        lambda module, it, loss: evaluate(module, it, scoring(loss=loss)),
    ],
)
def test_nll_on_what_is_not_log_probabilities_is_warned_of(learn: Any, module: Any, loss: str, wanted: Any) -> None:
    assert warned(lambda net, it: learn(net, it, loss), module()) == wanted


def test_a_report_takes_the_warnings_with_it() -> None:
    from fedws.protocol.messages import TaskRequest

    found, order = work(), TaskRequest(request_id="1", worker="alice", round=1, task="t")
    found.warn("one")
    found.warn("one")
    assert found.build_result(order, {"loss": 1.0}).metrics == {"loss": 1.0, "warnings": ["one"]}
    assert found.build_result(order, {"loss": 1.0}).metrics == {"loss": 1.0}
