"""Ctrl+C, SIGTERM, kill -9: commands end within seconds, say so in a line, and keep what was finished."""

import contextlib
import signal
import socket
import time

import psutil
import pytest
import safetensors.torch
from filelock import FileLock

from fedws.recording import metrics_reader
from tests.helpers.processes import PATIENCE, SECONDS, Command, Processes, dialling

SIGNALS = (signal.SIGINT, signal.SIGTERM)
PLUGIN = """
import time
import fedws
from torch.nn.functional import nll_loss

@fedws.register("loss", "slow")
def slow():
    def loss(outputs, targets):
        print("training", flush=True)
        time.sleep(0.3)
        return nll_loss(outputs, targets)
    return loss
"""
"""A loss that is slow, so that a run is still going on when it is stopped."""


GO_ON = "continue with: fedws run --resume "


def assert_stopped(command: Command, prog: str) -> None:
    """It ends soon, in one line and without a traceback."""
    assert command.end(SECONDS) == 130, command.everything
    assert command.errors == [f"{prog}: stopped"], command.everything
    assert "Traceback" not in command.everything


def assert_ended(command: Command) -> None:
    """A node that was told to end, ends well and says nothing."""
    assert (command.end(SECONDS), command.errors) == (0, []), command.everything


def slow_nodes(processes: Processes, *nodes: str) -> dict[str, Command]:
    """Nodes that train for seconds a round."""
    (processes.folder / "slow.py").write_text(PLUGIN)
    flags = ["--dataset", "digits", "--plugin", "slow.py", "--port", "0"]
    found = {}
    for node in nodes:
        found[node] = processes.fork("worker", "--id", node, *flags, *(["--evaluator"] if node == "testing" else []))
    return found


def urls_of(commands: dict[str, Command]) -> dict[str, str]:
    """Where they serve."""
    return {node: command.line(r"is serving at (\S+)")[1] for node, command in commands.items()}


@pytest.mark.parametrize("number", SIGNALS)
def test_a_run_stopped_while_it_trains_keeps_finished_rounds(processes: Processes, number: signal.Signals) -> None:
    nodes = slow_nodes(processes, "alice", "bob")
    flags = [*dialling(urls_of(nodes)), "--dataset", "digits", "--plugin", "slow.py", "--run-dir", "run"]
    run = processes.fork("run", *flags, "--loss", "slow", "--max-local-batches", "2", "--rounds", "99")
    run.line(r"Training round 3/99$")
    run.send(number)
    assert_stopped(run, "fedws run")
    assert run.lines[-1] == f"{GO_ON}run"
    directory = processes.folder / "run"
    rounds = [record["round"] for record in metrics_reader.read_records(directory) if record["kind"] == "round"]
    assert len(rounds) >= 2
    assert rounds == list(range(1, len(rounds) + 1))
    assert safetensors.torch.load_file(directory / "model.safetensors")
    assert (directory / "curves.png").exists()
    again = processes.fork("run", *flags[:-1], "again", "--rounds", "1")
    assert again.end() == 0, "the workers are free again\n" + again.everything
    for node in nodes.values():
        node.send(number)
        assert_ended(node)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_worker_stopped_while_it_trains_is_awaited_by_name(processes: Processes, number: signal.Signals) -> None:
    nodes = slow_nodes(processes, "alice", "bob")
    urls = urls_of(nodes)
    flags = [*dialling(urls), "--dataset", "digits", "--plugin", "slow.py", "--run-dir", "run"]
    run = processes.fork("run", *flags, "--loss", "slow", "--peer-timeout", "1")
    nodes["bob"].line("^training$")
    nodes["bob"].send(number)
    assert_ended(nodes["bob"])
    assert run.end(SECONDS) == 1
    assert run.errors == [f"fedws run: not connected within 1 s: bob at {urls['bob']} (connection refused)"]
    run.line(r"\| bob has left: link lost: the node ends$")
    assert run.lines[-1] == f"{GO_ON}run"


def test_a_worker_that_is_killed_is_awaited_by_name_and_a_killed_run_frees_the_worker(processes: Processes) -> None:
    nodes = slow_nodes(processes, "alice", "bob")
    urls = urls_of(nodes)
    flags = ["--dataset", "digits", "--plugin", "slow.py", "--loss", "slow"]
    run = processes.fork("run", *dialling(urls), *flags, "--run-dir", "one", "--peer-timeout", "1")
    nodes["bob"].line("^training$")
    nodes["bob"].send(signal.SIGKILL)
    assert run.end(SECONDS) == 1
    assert run.errors == [f"fedws run: not connected within 1 s: bob at {urls['bob']} (connection refused)"]
    alone = dialling({"alice": urls["alice"]})
    run = processes.fork("run", *alone, *flags, "--run-dir", "two")
    run.line("Training round 1/40$")
    run.send(signal.SIGKILL)
    run.end()
    run = processes.fork("run", *alone, "--dataset", "digits", "--rounds", "1", "--run-dir", "three")
    assert run.end() == 0, run.everything


@pytest.mark.parametrize("number", SIGNALS)
def test_a_run_stopped_while_it_waits_leaves_nothing(processes: Processes, number: signal.Signals) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"ws://localhost:{free.getsockname()[1]}"
    run = processes.fork("run", "--workers", f"alice={url}", "--evaluator", "none")
    run.line("Waiting for alice")
    run.send(number)
    assert_stopped(run, "fedws run")
    assert not [text for text in run.lines if text.startswith(GO_ON)], "there is nothing to go on with"
    assert not list(processes.folder.rglob("*-fedavg"))


@pytest.mark.parametrize("number", SIGNALS)
def test_an_evaluator_stopped_while_it_serves(processes: Processes, number: signal.Signals) -> None:
    (node,) = slow_nodes(processes, "testing").values()
    node.line("is serving at")
    node.send(number)
    assert_ended(node)


def test_commands_stopped_while_they_start(processes: Processes) -> None:
    """At moments of their imports, which take seconds: no traceback, and no run directory."""
    worker = ("worker", "--id", "alice", "--port", "0", "--dataset", "digits")
    run = ("run", "--workers", "alice=ws://localhost:1", "--evaluator", "none")
    for argv in (worker, run):
        begun = [(processes.start("-m", "fedws", *argv), moment) for moment in (0.2, 0.8, 1.6)]
        for (command, moment), number in zip(begun, (*SIGNALS, signal.SIGINT), strict=True):
            let_compute(command, moment)
            command.send(number)
            status = command.end(SECONDS)
            assert "Traceback" not in command.everything, command.everything
            assert len(command.errors) <= 1, command.everything
            # Python itself ends by SIGINT, which shells call 130, when Ctrl+C came while a module ran exec().
            assert status in (130, -signal.SIGINT, -number, 0), command.everything
    assert not list(processes.folder.rglob("*-fedavg"))


def let_compute(command: Command, seconds: float) -> None:
    """Wait until a process has computed for so long, or has something to say, which it has when it is ready."""
    process, until = psutil.Process(command.pid), time.monotonic() + PATIENCE
    while sum(process.cpu_times()[:2]) < seconds and not command.lines and time.monotonic() < until:
        with contextlib.suppress(psutil.TimeoutExpired):
            process.wait(0.01)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_worker_that_waits_for_a_download_can_be_stopped(processes: Processes, number: signal.Signals) -> None:
    root = processes.folder / "data"
    root.mkdir()
    with FileLock(root / ".MNIST.lock"):
        worker = processes.fork("worker", "--id", "alice", "--port", "0", "--data-dir", str(root))
        worker.line("^waiting for another node", error=True)
        worker.send(number)
        assert worker.end(SECONDS) == 130, worker.everything
    assert "Traceback" not in worker.everything


def test_a_second_signal_ends_a_node_whose_task_never_looks_up(processes: Processes) -> None:
    (processes.folder / "stuck.py").write_text(PLUGIN.replace("time.sleep(0.3)", "time.sleep(3600)"))
    flags = ["--dataset", "digits", "--plugin", "stuck.py", "--peer-timeout", "1"]
    worker = processes.fork("worker", "--id", "alice", "--port", "0", *flags)
    url = worker.line(r"is serving at (\S+)")[1]
    run = processes.fork("run", "--workers", f"alice={url}", "--evaluator", "none", "--loss", "slow", *flags)
    worker.line("^training$")
    worker.send(signal.SIGTERM)
    run.line("^.*Ended after round 0")
    worker.send(signal.SIGTERM)
    assert worker.end(SECONDS) == 130, worker.everything
    assert run.end(SECONDS) == 1


def test_a_job_in_the_background_is_ended_like_any_other(processes: Processes) -> None:
    """A shell starts it with SIGINT ignored."""
    ignored = (signal.SIGINT, signal.SIGQUIT)
    nodes = processes.fork("demo-nodes", *processes.tiny(), "--first-port", "0", ignored=ignored)
    nodes.line("all four nodes are serving")
    nodes.send(signal.SIGTERM)
    assert_stopped(nodes, "fedws demo-nodes")


def test_nohup_outlives_its_terminal(processes: Processes) -> None:
    flags = ("--id", "alice", "--dataset", "digits", "--port", "0")
    node = processes.fork("worker", *flags, ignored=[signal.SIGHUP])
    url = node.line(r"is serving at (\S+)")[1]
    node.send(signal.SIGHUP)
    run = processes.fork("run", *dialling({"alice": url}), "--dataset", "digits", "--rounds", "1")
    assert run.end() == 0, run.everything
    node.send(signal.SIGTERM)
    assert_ended(node)
