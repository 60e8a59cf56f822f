"""Every flag of the two scripts does what it says, by its former name, with '-' and '_'; on scikit-learn's digits."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch

from fedws.recording import metrics_reader
from tests.helpers.processes import Command, Processes, dialling, serving

PLUGIN = """
import torch
import fedws

@fedws.register("loss", "told")
def told():
    def loss(outputs, targets):
        print("batch", len(targets), outputs.device.type, flush=True)
        return torch.nn.functional.nll_loss(outputs, targets)
    return loss

@fedws.register("optimizer", "told")
def told_optimizer(parameters, lr):
    print(f"lr {lr:.6g}", flush=True)
    return torch.optim.SGD(parameters, lr)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where it all runs."""
    return tmp_path_factory.mktemp("flags")


@pytest.fixture(scope="module")
def processes(folder: Path) -> Iterator[Processes]:
    """For all tests here."""
    (folder / "told.py").write_text(PLUGIN)
    started = Processes(folder, {})
    yield started
    started.close()


@pytest.fixture(scope="module")
def nodes(processes: Processes) -> dict[str, Command]:
    """One worker by its digits, two by shares, an evaluator; every flag of a node is there once."""
    common = ["--dataset", "digits", "--plugin", "told.py", "--port", "0", "--host", "127.0.0.1", "--notebook", "mnist"]
    common += ["--max_message", "4000000", "--silence", "30"]
    own = {
        "dora": ["--digits", "0,7-8"],
        "emil": ["--partition", "dirichlet:0.5", "--share", "0/2", "--seed", "3", "--nice", "0"],
        "fritz": ["--partition", "dirichlet:0.5", "--share", "1/2", "--seed", "3", "--threads", "1", "--verbose"],
        "testing": ["--testing", "--threads", "1", "--data_dir", "none"],
    }
    script = "run_websocket_server.py"
    return {node: processes.fork_script(script, "--id", node, *flags, *common) for node, flags in own.items()}


def held(command: Command) -> list[int]:
    """How many samples of each digit a node says it holds."""
    counts = [re.fullmatch(r"      (\d): (\d+)", line) for line in command.lines]
    return [int(found[2]) for found in counts if found]


def test_nodes_hold_what_they_are_told_to(nodes: dict[str, Command]) -> None:
    urls = serving(nodes)
    assert all(url.startswith("ws://127.0.0.1:") for url in urls.values())
    assert [digit for digit, count in enumerate(held(nodes["dora"])) if count] == [0, 7, 8]
    shares = [sum(held(nodes[node])) for node in ("emil", "fritz")]
    assert sum(shares) + sum(held(nodes["testing"])) == 1797
    for command in nodes.values():
        assert [line for line in command.lines if "--notebook" in line] == [
            "--notebook has no effect: fedws holds the same data for every notebook"
        ]


def test_flags_of_a_run(processes: Processes, nodes: dict[str, Command]) -> None:
    seen = {node: len(command.lines) for node, command in nodes.items()}
    flags = ["--dataset=digits", "--plugin", "told.py", "--loss", "told", "--optimizer", "told", "--model", "linear"]
    flags += ["--batch_size", "7", "--test_batch_size", "100", "--federate_after_n_batches", "3", "--lr", "0.5"]
    flags += ["--training_rounds=3", "--evaluate_every", "5", "--score_workers", "1", "--seed", "9", "--cuda", "-v"]
    flags += ["--run_dir", "run", "--save_model", "--threads", "2", "--max_message=5000000", "--silence", "30"]
    flags += ["--strategy", "fedavg:epochs=1", "--aggregator", "mean", "--weighted"]
    run = processes.fork_script("run_websocket_client.py", *dialling(serving(nodes)), *flags)
    assert run.end() == 0, run.everything
    said = {}
    for node, first in seen.items():
        nodes[node].line(r"\| \w+: run \w+ (ended|over)", first)
        said[node] = [line for line in nodes[node].lines[first:] if line.startswith(("batch ", "lr "))]
    place = "cuda" if torch.cuda.is_available() else "cpu"
    for worker in ("dora", "emil", "fritz"):
        batches = [f"batch 7 {place}"] * 3
        assert said[worker] == ["lr 0.5", *batches, "lr 0.49", *batches, "lr 0.4802", *batches]
    samples = sum(held(nodes["testing"]))
    tests = [*(["batch 100 " + place] * (samples // 100)), f"batch {samples % 100} {place}"]
    assert said["testing"] == 2 * 2 * tests, "rounds 1 and 3; dora's model and the federated one"
    plan = tomllib.loads((processes.folder / "run" / "plan.toml").read_text())
    wanted: dict[str, object] = {
        "batch_size": 7,
        "test_batch_size": 100,
        "max_local_batches": 3,
        "lr": 0.5,
        "rounds": 3,
    }
    wanted |= {
        "evaluate_every": 5,
        "evaluate_worker_models": 1,
        "seed": 9,
        "threads": 2,
        "max_message_bytes": 5_000_000,
    }
    wanted |= {
        "peer_timeout": 30.0,
        "weight_by_samples": True,
        "cuda": True,
        "model": "linear",
        "loss": "told",
        "dataset": "digits",
    }
    assert {key: plan[key] for key in wanted} == wanted
    scores = [
        record for record in metrics_reader.read_records(processes.folder / "run") if record["kind"] == "evaluation"
    ]
    assert [(score["round"], score["model"]) for score in scores] == [
        (round_number, model) for round_number in (1, 3) for model in ("dora", "federated")
    ]
    saved = torch.load(processes.folder / "linear.pt", weights_only=True)
    trained = safetensors.torch.load_file(processes.folder / "run" / "model.safetensors")
    assert all(torch.equal(saved[name], trained[name]) for name in trained)


@pytest.mark.parametrize("strategy", ["fedavg", "fedsgd"])
def test_strategies_run_without_an_evaluator(processes: Processes, nodes: dict[str, Command], strategy: str) -> None:
    urls = {node: url for node, url in serving(nodes).items() if node != "testing"}
    flags = ["--dataset", "digits", "--rounds", "1", "--algorithm", strategy]
    run = processes.fork("run", *dialling(urls), *flags)
    assert run.end() == 0, run.everything
    directory = re.fullmatch(r"model (runs/\d{8}-\d{6}-(\w+))/model\.safetensors", run.lines[-1])
    assert directory is not None
    assert directory[2] == strategy
    assert (processes.folder / directory[1] / "curves.png").exists()


def test_nodes_said_nothing_on_standard_error(nodes: dict[str, Command]) -> None:
    assert {node: command.errors for node, command in nodes.items()} == {node: [] for node in nodes}
