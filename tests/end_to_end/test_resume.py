"""The coordinator as a process that is killed or stopped, and goes on: nothing of it shows in what the run leaves."""

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch

from tests.helpers.processes import Command, Processes, dialling
from tests.helpers.support import recorded

PLUGIN = """
import time
from dataclasses import replace
from pathlib import Path

import fedws
from fedws.algorithms.fedavg import FedAvg, fit

@fedws.register("algorithm", "held")
class Held(FedAvg):
    def configure(self, model, worker, round):
        return replace(super().configure(model, worker, round), task="held.fit")

@fedws.register("task", "held.fit", releases="update")
def held(order, workspace):
    hold = Path(f"hold-{order.worker}-{order.round}")
    if hold.exists():
        print("held", flush=True)
    while hold.exists() and not workspace.stop.is_set():
        time.sleep(0.01)
    return fit(order, workspace)
"""
"""FedAvg whose workers wait in a round as long as there is a file that says so."""
FLAGS = ("--dataset", "digits", "--plugin", "held.py")
ROUNDS = 5
MODEL = "model.safetensors"


class Federation:
    """Nodes that live on, and what an undisturbed run over them leaves."""

    def __init__(self, processes: Processes) -> None:
        (processes.folder / "held.py").write_text(PLUGIN)
        self.processes = processes
        self.folder = processes.folder
        self.nodes = {
            node: processes.fork("worker", "--id", node, "--port", "0", *FLAGS, *flags)
            for node, flags in (("alice", ()), ("bob", ()), ("testing", ("--evaluator",)))
        }
        urls = {node: command.line(r"is serving at (\S+)")[1] for node, command in self.nodes.items()}
        self.flags = [*dialling(urls), *FLAGS, "--algorithm", "held", "--evaluate-every", "2"]
        self.flags += ["--evaluate-worker-models", "1", "--rounds", str(ROUNDS)]  # six models: none is given up
        assert self.start("whole").end() == 0

    def start(self, directory: str) -> Command:
        return self.processes.fork("run", *self.flags, "--run-dir", directory)

    def resume(self, directory: str, *flags: str) -> Command:
        return self.processes.fork("run", "--resume", directory, *flags)

    def hold(self, node: str, round_number: int) -> Path:
        """From now on that worker waits in that round, as long as the file is there."""
        path = self.folder / f"hold-{node}-{round_number}"
        path.touch()
        return path

    def log(self, directory: str) -> list[str]:
        """The lines of a run's log, without times, and without what depends on when it was stopped."""
        lines = [line.partition(" | ")[2] for line in (self.folder / directory / "run.log").read_text().splitlines()]
        return [line for line in lines if not line.startswith(("Resumed after round ", "Waiting for "))]

    def records(self, directory: str) -> tuple[list[int], list[dict[str, object]]]:
        """The numbers of the rounds in their order, and the scores by round and model."""
        scores = recorded(self.folder / directory, "evaluation")
        rounds = [record["round"] for record in recorded(self.folder / directory, "round")]
        return rounds, sorted(scores, key=lambda record: (record["round"], record["model"]))

    def assert_as_if_nothing_had_been(self, command: Command, directory: str) -> None:
        assert command.end() == 0, command.everything
        assert command.errors == []
        model, whole = (safetensors.torch.load_file(self.folder / name / MODEL) for name in (directory, "whole"))
        assert model.keys() == whole.keys()
        assert all(torch.equal(model[name], value) for name, value in whole.items())
        assert self.log(directory) == self.log("whole")
        assert self.records(directory) == self.records("whole")
        assert self.records(directory)[0] == list(range(1, ROUNDS + 1))
        left = {path.name for path in (self.folder / directory).iterdir()}
        assert not left & {"pending_evaluations", ".lock"}
        assert [path.name for path in (self.folder / directory / "checkpoints").iterdir()] == [
            f"checkpoint-{ROUNDS:06}.safetensors"
        ]
        assert json.loads((self.folder / directory / "run.json").read_text())["finished"] is True


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    processes = Processes(tmp_path_factory.mktemp("resume"), {})
    yield Federation(processes)
    processes.close()


def test_a_coordinator_that_is_killed_twice_goes_on(federation: Federation) -> None:
    """With kill -9: while a worker trains in round 3 and, having gone on, in round 5. The worker is not waited for."""
    third, fifth = federation.hold("bob", 3), federation.hold("alice", 5)
    run = federation.start("killed")
    run.line(f"Training round 3/{ROUNDS}$")
    federation.nodes["bob"].line("^held$")
    run.send(signal.SIGKILL)
    assert run.end() == -signal.SIGKILL
    seen = len(federation.nodes["alice"].lines)
    run = federation.resume("killed")
    run.line(rf"\| Resumed after round 2 of {ROUNDS}$")
    third.unlink()
    run.line(f"Training round 5/{ROUNDS}$")
    federation.nodes["alice"].line("^held$", after=seen)
    second = federation.resume("killed")
    assert second.end() == 2
    assert second.errors == ["fedws run: --resume killed is in use by another coordinator"]
    run.send(signal.SIGKILL)
    run.end()
    fifth.unlink()
    federation.assert_as_if_nothing_had_been(federation.resume("killed"), "killed")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_was_stopped_says_how_to_go_on_with_it(federation: Federation, number: signal.Signals) -> None:
    directory = f"stopped {number.name}"
    hold = federation.hold("bob", 2)
    seen = len(federation.nodes["bob"].lines)
    run = federation.start(directory)
    federation.nodes["bob"].line("^held$", after=seen)
    run.send(number)
    assert run.end() == 130
    assert run.errors == ["fedws run: stopped"]
    hold.unlink()
    assert run.lines[-1] == f"continue with: fedws run --resume '{directory}'"
    assert re.search(rf"\| Ended after round 1 of {ROUNDS}: stopped$", run.lines[-2])
    federation.assert_as_if_nothing_had_been(federation.resume(directory), directory)


@pytest.mark.parametrize("line", ["Training round 1/", "Evaluating models$", "Federated model: Average", "round 4/"])
def test_a_coordinator_that_is_killed_at_any_line_goes_on(federation: Federation, line: str) -> None:
    """It may have done more, or all, by the time that the signal is there: what is left at the end is the same."""
    directory = re.sub(r"\W+", "-", f"at {line}")
    run = federation.start(directory)
    run.line(line)
    run.send(signal.SIGKILL)
    run.end()
    federation.assert_as_if_nothing_had_been(federation.resume(directory), directory)


def test_a_run_that_has_finished_is_over_at_once(federation: Federation) -> None:
    before = {path.name: path.read_bytes() for path in (federation.folder / "whole").iterdir() if path.is_file()}
    run = federation.resume("whole", "--workers", "alice=ws://localhost:1", "bob=ws://localhost:2")
    assert run.end() == 0, run.everything
    assert run.lines[0] == "the run is already finished"
    assert re.match(rf"Federated accuracy after round {ROUNDS}: \d+\.\d\d%$", run.lines[1])
    assert [text.split() for text in run.lines[2:]] == [
        ["log", "whole/run.log"],
        ["plot", "whole/curves.png"],
        ["model", "whole/model.safetensors"],
    ]
    after = {path.name: path.read_bytes() for path in (federation.folder / "whole").iterdir() if path.is_file()}
    assert after == before


def test_a_run_of_another_plan_says_what_differs(federation: Federation) -> None:
    hold = federation.hold("bob", 1)
    seen = len(federation.nodes["bob"].lines)
    run = federation.start("other")
    federation.nodes["bob"].line("^held$", after=seen)
    run.send(signal.SIGKILL)
    run.end()
    hold.unlink()
    for flags, text in (
        (["--lr", "0.5"], "cannot change lr from 0.1 to 0.5"),
        (["--evaluator", "none"], "cannot change evaluator from testing to none"),
        (["--no-weight-by-samples", "--algorithm", "fedavg"], "cannot change algorithm from 'held' to 'fedavg'"),
    ):
        other = federation.resume("other", *flags)
        assert other.end() == 2
        assert other.errors == [f"fedws run: --resume other: {text}"]
    newest = federation.folder / "other" / "checkpoints" / "checkpoint-000000.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    damaged = federation.resume("other")
    assert damaged.end() == 1
    assert len(damaged.errors) == 1 and "no intact checkpoint in other/checkpoints" in damaged.errors[0]
