"""Models whose tensors are out of the ordinary, as a user types them: one line, or a whole run."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import fedws
from fedws.core import registry, tensor_file
from fedws.core.tensors import DTYPES, FLOAT8_DTYPES, hash_tensors, is_averaged
from tests.helpers.federation import PointsLinear, federation, registered
from tests.helpers.processes import NO_NETWORK, Processes, assert_one_line

PLUGIN = """
import fedws, torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.out = nn.Linear(784, 10)

@fedws.register("model", "extra")
class Extra(Net):
    def get_extra_state(self): return {"version": 2}
    def set_extra_state(self, state): pass

@fedws.register("model", "none")
def none(): pass
"""
EXTRA = "model extra: cannot send '_extra_state': it is a dict, not a tensor, from get_extra_state of Extra; return"
NONE = "model none: its factory returned None; return a torch.nn.Module"


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    started = Processes(tmp_path_factory.mktemp("portable"), NO_NETWORK)
    (started.folder / "models.py").write_text(PLUGIN)
    yield started
    started.close()


@pytest.mark.parametrize(("model", "text"), [("extra", EXTRA), ("none", NONE)])
@pytest.mark.parametrize("command", ["run", "simulate --num-workers 3", "pretrain --epochs 1"])
def test_what_cannot_travel_is_one_line_at_once(processes: Processes, command: str, model: str, text: str) -> None:
    """No worker runs, so that a run that went on would wait for one."""
    started = processes.fork(*command.split(), "--dataset", "digits", "--plugin", "models.py", "--model", model)
    assert_one_line(started, f"fedws {command.split()[0]}: {text}", 2)
    assert [path.name for path in processes.folder.iterdir()] == ["models.py"], "nothing is half-done"


class Everything(PointsLinear):
    """A tensor of every dtype; the floats and complex numbers that torch computes with are trained."""

    def __init__(self) -> None:
        super().__init__()
        self.towers = nn.ModuleDict({"sensor/1": nn.Linear(1, 1)})
        for name, dtype in DTYPES.items():
            value = torch.ones(4).to(dtype)
            self.register_buffer(f"buffer_{name}", value.clone())
            trained = is_averaged(value) and dtype not in (*FLOAT8_DTYPES, torch.complex32)
            self.register_parameter(f"weight_{name}", nn.Parameter(value, requires_grad=trained))

    def forward(self, points: torch.Tensor) -> torch.Tensor:
        factors = [
            weight.abs().float()
            for name, weight in self.named_parameters()
            if "weight_" in name and weight.requires_grad
        ]
        return super().forward(points * torch.stack(factors).mean(0))


async def test_a_model_with_tensors_of_every_dtype_is_trained_scored_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(registry._pieces, ("model", "everything"), Everything)
    with registered():
        async with federation("memory") as settings:
            result = await fedws.run(run_dir=tmp_path / "run", **{**settings, "model": "everything"})
        again = await fedws.run(resume=tmp_path / "run")
    scores = [record["loss"] for record in result.metrics if record["kind"] == "evaluation"]
    assert len(scores) >= 2 and len(set(scores)) > 1
    kept = tensor_file.load_tensors(tmp_path / "run" / "model.safetensors")
    assert hash_tensors(kept) == hash_tensors(result.model) == hash_tensors(again.model)
    for name, dtype in DTYPES.items():
        weight = result.model[f"weight_{name}"]
        assert weight.dtype == dtype == result.model[f"buffer_{name}"].dtype
        moved = is_averaged(weight) and dtype not in (*FLOAT8_DTYPES, torch.complex32)
        assert bool((weight.to(torch.complex128) != 1).any()) == moved, name
