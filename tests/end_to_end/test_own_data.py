"""Data sets of a user's own, without labels to split by, from the commands to the trained model."""

import pytest

from tests.helpers.processes import Processes, assert_one_line, dialling, ended_well

PLUGIN = """
import torch
import fedws
from torch.utils.data import ConcatDataset, DataLoader, Subset, TensorDataset

x = torch.randn(60, 4, generator=torch.Generator().manual_seed(1))

class Booleans(torch.utils.data.Dataset):
    targets = [value > 0 for value in x[:, 0].tolist()]

    def __len__(self):
        return 60

    def __getitem__(self, index):
        return x[index], int(self.targets[index])

fedws.register("dataset", "regression")(lambda root, train: TensorDataset(x, x.sum(1, keepdim=True)))
fedws.register("dataset", "booleans")(lambda root, train: ConcatDataset([Subset(Booleans(), range(20)), Booleans()]))
fedws.register("dataset", "loader")(lambda root, train: DataLoader(Booleans()))
fedws.register("model", "dense")(lambda *, outputs: torch.nn.Linear(4, int(outputs)))
"""


@pytest.fixture
def plugin(processes: Processes) -> tuple[str, str]:
    (processes.folder / "own.py").write_text(PLUGIN, encoding="utf-8")
    return "--plugin", "own.py"


@pytest.mark.parametrize(
    ("dataset", "model", "loss", "held", "scored"),
    [
        ("regression", "dense:outputs=1", "mse", 60, r"Federated loss after round 2: \d+\.\d+$"),
        ("booleans", "dense:outputs=2", "cross_entropy", 80, r"Federated accuracy after round 2: \d+\.\d+%$"),
    ],
)
def test_a_whole_run(
    dataset: str, model: str, loss: str, held: int, scored: str, processes: Processes, plugin: tuple[str, str]
) -> None:
    data = ("--dataset", dataset, *plugin)
    commands = {
        name: processes.fork("worker", "--id", name, "--port", "0", *more, *data)
        for name, more in (
            ("dora", ()),
            ("erik", ("--partition", "iid", "--share", "0/2")),
            ("testing", ("--evaluator",)),
        )
    }
    urls = {name: command.line(rf"^{name} is serving at (\S+)$")[1] for name, command in commands.items()}
    assert f"dora holds all {held} samples; use --labels or --partition to select a part" in commands["dora"].lines
    assert f"len(datasets[{dataset}]): {held // 2}" in commands["erik"].lines
    flags = ("--model", model, "--loss", loss, "--rounds", "2", "--run-dir", "run")
    run = ended_well(processes.fork("run", *dialling(urls), *data, *flags))
    run.line(scored)


def test_a_simulation(processes: Processes, plugin: tuple[str, str]) -> None:
    flags = ("--num-workers", "3", "--model", "dense:outputs=1", "--loss", "mse", "--rounds", "1")
    command = processes.fork("simulate", "--dataset", "regression", *plugin, *flags, "--run-dir", "sim")
    ended_well(command)
    strategy, _, accuracy, versions, *_ = command.lines[-2].split()
    assert (strategy, accuracy, versions) == ("fedavg", "-", "1")


@pytest.mark.parametrize(
    "command",
    [
        "worker --id dora --port 0",
        "evaluator --id testing --port 0",
        "simulate --model dense:outputs=2",
        "pretrain --model dense:outputs=2",
        "demo",
    ],
)
def test_what_no_node_can_hold_is_one_line(command: str, processes: Processes, plugin: tuple[str, str]) -> None:
    found = processes.fork(*command.split(), "--dataset", "loader", *plugin)
    assert_one_line(found, "dataset loader: the factory returned a DataLoader; return the data set itself$", 2)
