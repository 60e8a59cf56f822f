"""A run that starts from the weights in a file: those that its workers get first, and that it needs only once."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import fedws
from fedws.algorithms.fedavg import fit
from fedws.coordinator.setup import prepare_run
from fedws.core.plan import build_plan
from fedws.protocol.messages import TaskRequest, TaskResult
from fedws.split_learning import pretrained_file
from fedws.training import model_building
from tests.helpers.federation import WORKERS, settings, worker
from tests.helpers.resumed_runs import plan, stopped
from tests.helpers.virtual_runs import ALL, assert_same, there
from tests.helpers.virtual_time import virtual

pytestmark = pytest.mark.usefixtures("every_line")


def model_file(path: Path, seed: int = 7, name: str = "points_linear") -> Path:
    safetensors.torch.save_file(model_building.build_model(name, seed).state_dict(), path)
    return path


def same(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@virtual
async def test_the_first_order_carries_the_weights_of_the_file(tmp_path: Path) -> None:
    asked: list[TaskRequest] = []

    def watched(order: TaskRequest, workspace: fedws.TaskContext) -> TaskResult:
        asked.append(order)
        return fit(order, workspace)

    path = model_file(tmp_path / "m.safetensors")
    flags = settings({"alice": "memory://alice"}, run_dir=tmp_path / "run")
    async with fedws.serve(worker("alice", watched), "memory://alice"):
        first = await fedws.run(**flags, initial_model=path)
        again = tmp_path / "run" / "model.safetensors"
        await fedws.run(**flags | {"run_dir": tmp_path / "again"}, initial_model=str(again))
    assert same(asked[0].tensors, safetensors.torch.load_file(path))
    assert same(asked[2].tensors, first.model), "the result of one run can be the beginning of another"
    assert f'initial_model = "{path}"' in (tmp_path / "run" / "plan.toml").read_text()


@virtual
async def test_a_run_that_continues_needs_the_file_no_more(tmp_path: Path) -> None:
    path = model_file(tmp_path / "m.safetensors")
    async with there(*ALL):
        wanted = await fedws.run(run_dir=tmp_path / "whole", **plan(initial_model=path, rounds=6))
        await stopped(tmp_path / "run", lambda record: record["round"] == 2, initial_model=path)
        path.unlink()
        await fedws.run(resume=tmp_path / "run")
        assert_same(await fedws.run(resume=tmp_path / "run", rounds=6), wanted)
        with pytest.raises(fedws.UsageError, match=r"cannot change initial_model from '.*' to ''$"):
            await fedws.run(resume=tmp_path / "run", rounds=7, initial_model="")


async def test_a_file_that_does_not_fit_is_said_before_a_node_is_dialled(tmp_path: Path) -> None:
    path = model_file(tmp_path / "m.safetensors", name="points_net")
    with pytest.raises(fedws.UsageError) as caught:
        await fedws.run(run_dir=tmp_path / "run", **plan(initial_model=path))
    problem = "does not fit the model points_linear: calls is missing"
    assert str(caught.value) == f"--initial-model {path} {problem}; set --model to the model of this file"
    assert not (tmp_path / "run").exists()


def gathering(**more: Any) -> fedws.Plan:
    workers = {node: f"memory://{node}" for node in WORKERS}
    basis = {"dataset": "points", "model": "points_net", "algorithm": "mistnet:split_at=relu,public_dataset=points"}
    return build_plan({"workers": workers, "evaluator": {}, **basis, **more})


def test_a_strategy_that_pretrains_starts_from_it_and_one_with_a_model_of_its_own_cannot(tmp_path: Path) -> None:
    path = model_file(tmp_path / "m.safetensors", name="points_net")
    public = tmp_path / "public.safetensors"
    _, strategy, initial = prepare_run(gathering(initial_model=path))
    state, _ = strategy.start(initial, WORKERS)
    assert same(strategy.model(state), safetensors.torch.load_file(path))
    weights = {
        name: tensor.clone() for name, tensor in model_building.build_model("points_net", 3).state_dict().items()
    }
    origin = pretrained_file.PretrainedInfo("points_net", "points", 10, [4], 1)
    pretrained_file.save_pretrained(public, pretrained_file.PretrainedModel(weights, origin, {}))
    own = f"mistnet:split_at=relu,public_dataset=points,pretrained_path={public}"
    with pytest.raises(fedws.UsageError) as caught:
        prepare_run(gathering(initial_model=path, algorithm=own))
    why = f"--initial-model {path}: {own} starts from its own model; remove one of them"
    assert str(caught.value) == why
    assert same(prepare_run(gathering(algorithm=own))[2], model_building.build_model("points_net", 1).state_dict())
