"""The worker in JavaScript learns as fedws does, alone and in a run, and refuses what it does not support."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import nll_loss

from fedws.algorithms.fedavg import fit
from fedws.data.datasets.digits import Digits
from fedws.data.samples import select_samples
from fedws.protocol.messages import TaskFailure, TaskResult
from fedws.training.task_context import TaskContext
from tests.helpers.javascript_worker import HELD, alice, asked, dialled, order
from tests.helpers.processes import Processes, dialling, identity, serving
from tests.helpers.support import REPOSITORY, recorded


def held() -> TaskContext:
    """The same samples, in Python."""
    digits = Digits(REPOSITORY, train=True)
    return TaskContext(
        "alice", "digits", select_samples(digits, torch.isin(digits.targets, torch.tensor(HELD)).nonzero().flatten())
    )


async def test_its_update_is_that_of_fedws(url: str) -> None:
    """Of batches that hold all samples, so that their order does not matter."""
    answer, wanted = await asked(url, order()), fit(order(), held())
    assert isinstance(answer, TaskResult), answer
    assert (answer.request_id, answer.worker, answer.round, answer.num_examples) == (
        "1/alice",
        "alice",
        1,
        len(held().data),
    )
    assert answer.metrics == {**wanted.metrics, "loss": pytest.approx(wanted.metrics["loss"], rel=1e-4)}
    assert answer.tensors.keys() == wanted.tensors.keys()
    for name, tensor in wanted.tensors.items():
        torch.testing.assert_close(answer.tensors[name], tensor, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(tensor, order().tensors[name], atol=1e-3), "something was learned"


@pytest.mark.parametrize("loss", ["nll", "cross_entropy"])
async def test_its_update_is_plain_sgd_over_its_own_order_of_samples(url: str, loss: str) -> None:
    """Its shuffle is written down in linear.mjs; the same seed gives the same update, another one another."""
    changed = {"batch_size": 50, "max_local_batches": 20, "epochs": 2, "loss": loss}
    answer = await asked(url, order(**changed))
    assert isinstance(answer, TaskResult), answer
    work, tensors, total, left = held(), {**order().tensors}, 0.0, 20
    for epoch in range(2):
        hashes = [
            hashlib.sha256(f"{2**64 - 7}/{epoch}/{sample}".encode()).hexdigest() for sample in range(len(work.data))
        ]
        shuffled = sorted(range(len(hashes)), key=hashes.__getitem__)
        for start in range(0, len(shuffled), 50):
            if not left:
                break
            left -= 1
            inputs, targets = work.data.batch(torch.tensor(shuffled[start : start + 50]))  # type: ignore[attr-defined]
            weight, bias = (tensor.clone().requires_grad_() for tensor in tensors.values())
            batch = nll_loss(torch.log_softmax(inputs.flatten(1) @ weight.T + bias, 1), targets)
            batch.backward()
            total += float(batch.detach()) * len(targets)
            for name, tensor in zip(tensors, (weight, bias), strict=True):
                assert tensor.grad is not None
                tensors[name] = (tensor - 0.05 * tensor.grad).detach()
    used = len(work.data) + 5 * 50  # fifteen batches, the last one short, and five
    assert left == 0 and len(work.data) // 50 == 14
    assert answer.metrics == {"loss": pytest.approx(total / used, rel=1e-4), "num_examples": used, "device": "cpu"}
    for name, tensor in tensors.items():
        torch.testing.assert_close(answer.tensors[name], tensor, rtol=1e-3, atol=1e-5)
    again, other = await asked(url, order(**changed)), await asked(url, order(**changed, seed=1))
    assert isinstance(again, TaskResult) and isinstance(other, TaskResult)
    assert torch.equal(again.tensors["dense.weight"], answer.tensors["dense.weight"])
    assert not torch.equal(other.tensors["dense.weight"], answer.tensors["dense.weight"])


async def test_a_short_last_batch_can_be_left_out(url: str) -> None:
    used = []
    for drop_last in (False, True):
        answer = await asked(url, order(batch_size=50, max_local_batches=100, epochs=1, drop_last=drop_last))
        assert isinstance(answer, TaskResult)
        used.append(answer.metrics["num_examples"])
    assert used[1] == used[0] - used[0] % 50 < used[0]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"task": "evaluate"}, "unknown task 'evaluate'"),
        ({"model": "mlp"}, "unknown model 'mlp'"),
        ({"model": "linear:inputs=4,outputs=10"}, "the samples have 784 inputs"),
        ({"dataset": "mnist"}, "this node holds digits, not mnist"),
        ({"loss": "mse"}, "unknown loss 'mse'"),
        ({"optimizer": "adam"}, "unknown optimizer 'adam'"),
        ({"lr": 0.0}, "settings: lr is not valid"),
        ({"lr": "1"}, "settings: lr is not valid"),
        ({"max_local_batches": 0}, "settings: max_local_batches is not valid"),
        ({"drop_last": 1}, "settings: drop_last is not valid"),
        ({"drop_last": True, "batch_size": 5000}, "the node has "),
        ({"other": 1}, "settings: unknown key 'other'"),
        ({"settings": {"dataset": "digits"}}, "settings: model is missing"),
        ({"tensors": {}}, "the tensors are not those of linear"),
        (
            {"tensors": {"dense.weight": torch.zeros(10, 784), "dense.bias": torch.zeros(10).half()}},
            "the tensors are not",
        ),
        (
            {"tensors": {"dense.weight": torch.zeros(10, 784, dtype=torch.complex64), "dense.bias": torch.zeros(10)}},
            "the tensors are not",
        ),
        ({"tensors": {**order().tensors, "more": torch.zeros(1)}}, "the tensors are not those of linear"),
    ],
)
async def test_what_it_does_not_support_is_refused(url: str, changed: dict[str, Any], reason: str) -> None:
    async with dialled(url) as channel:
        await channel.send(order(**changed))
        answer = await channel.receive()
        assert isinstance(answer, TaskFailure), answer
        assert (answer.request_id, answer.kind) == ("1/alice", "refused") and answer.reason.startswith(reason), answer
        await channel.send(order(request_id="2", epochs=1))  # the link goes on
        assert isinstance(await channel.receive(), TaskResult)


def test_it_learns_in_a_run_with_a_worker_in_python(processes: Processes, node: str, data: Path) -> None:
    """Half of the digits are here and half are there, so that neither could get beyond 52 % alone."""
    commands = {
        "alice": alice(processes, node, data),
        "bob": processes.fork("worker", *identity("bob"), "--dataset", "digits", "--labels", "5-9"),
        "testing": processes.fork("worker", *identity("testing"), "--dataset", "digits"),
    }
    flags = [*dialling(serving(commands)), "--dataset", "digits", "--model", "linear", "--rounds", "8"]
    flags += ["--max-local-batches", "20", "--evaluate-every", "1", "--run-dir", "run"]
    run = processes.fork("run", *flags)
    assert run.end() == 0, run.everything
    folder = processes.folder / "run"
    scores = [float(str(r["accuracy"])) for r in recorded(folder, "evaluation") if r["model"] == "federated"]
    assert len(scores) == 8
    assert scores[-1] > 0.75 and scores[-1] > scores[0] + 0.1, scores
    for record in recorded(folder, "round"):
        assert (record["num_results"], record["num_failures"], record["cohort"]) == (2, 0, ["alice", "bob"])
    log = (folder / "run.log").read_text()
    assert all(f"Model update {worker}: Average loss" in log for worker in ("alice", "bob"))
    assert commands["alice"].errors == []
