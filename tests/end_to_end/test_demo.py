"""``fedws demo`` and ``fedws demo-nodes``: a whole run, the nodes that they start, and how these end."""

import re
import signal
from pathlib import Path

import psutil
import pytest
import safetensors.torch

from tests.helpers.processes import NO_NETWORK, NODES, SECONDS, Command, Processes


def children(command: Command) -> list[psutil.Process]:
    """The nodes that a command has started."""
    found = psutil.Process(command.pid).children(recursive=True)
    return [process for process in found if "worker" in process.cmdline()]


def assert_gone(nodes: list[psutil.Process]) -> None:
    """All of them end by themselves."""
    _, alive = psutil.wait_procs(nodes, timeout=SECONDS)
    for process in alive:
        process.kill()
    assert alive == []


@pytest.mark.long
def test_demo_with_mnist(processes: Processes, mnist_root: Path) -> None:
    processes.environment["FEDWS_DATA"] = str(mnist_root)
    demo = processes.start("-m", "fedws", "demo", "--rounds", "1", "--run-dir", "run")
    demo.line("Training round 1/1$")
    nodes = children(demo)
    assert len(nodes) == 4
    assert demo.end() == 0, demo.everything
    assert demo.errors == []
    assert_gone(nodes)
    assert demo.lines[-1] == "alice, bob, charlie and testing ended"
    assert any(re.fullmatch(r"Federated accuracy after round 1: \d+\.\d\d%", line) for line in demo.lines)
    counts = {"alice": 24754, "bob": 17181, "charlie": 18065, "testing": 10000}
    for node, count in counts.items():
        key = "mnist_testing" if node == "testing" else "mnist"
        assert f"{node}: len(datasets[{key}]): {count}" in demo.lines
    assert len(safetensors.torch.load_file(processes.folder / "run" / "model.safetensors")) == 8
    picture = processes.folder / "run" / "curves.png"
    before = picture.read_bytes()
    picture.unlink()
    plot = processes.fork("plot", "run")
    assert (plot.end(), plot.lines, plot.errors) == (0, ["run/curves.png"], [])
    assert picture.read_bytes()[:8] == before[:8] == b"\x89PNG\r\n\x1a\n"
    plot = processes.fork("plot", "run", "--output", "other.png")
    assert (plot.end(), plot.lines) == (0, ["other.png"])
    assert (processes.folder / "other.png").read_bytes() == picture.read_bytes()


@pytest.mark.long
def test_demo_without_data_and_network(processes: Processes) -> None:
    """It takes the digits that come with scikit-learn, says so in one line, and is killed in another test."""
    home = processes.folder / "home"
    home.mkdir()
    for name in ("FEDWS_DATA", "XDG_CACHE_HOME"):
        processes.environment.pop(name, None)
    processes.environment.update({**NO_NETWORK, "HOME": str(home)})
    demo = processes.start("-m", "fedws", "demo", "--rounds", "2", "--run-dir", "run")
    assert demo.end() == 0, demo.everything
    told = [line for line in demo.lines if "scikit-learn" in line]
    assert len(told) == 1
    assert re.fullmatch(
        r"MNIST not found in \S+, and the download failed \(.*\): using the 1,797 real digits of scikit-learn instead",
        told[0],
    )
    assert [line for line in demo.errors if not line.startswith("downloading MNIST to ")] == []
    assert "Traceback" not in demo.everything
    assert (processes.folder / "run" / "model.safetensors").exists()
    assert demo.lines[-1] == "alice, bob, charlie and testing ended"


def test_nodes_have_their_owners_policy(processes: Processes) -> None:
    """The three with data; what cannot be allowed is said by the first of them that ends."""
    (processes.folder / "policy.toml").write_text("max_epsilon = 'much'\n")
    command = processes.fork("demo-nodes", *processes.tiny(), "--first-port", "0", "--policy", "policy.toml")
    assert command.end(SECONDS) == 1, command.everything
    assert any("--policy policy.toml: max_epsilon: " in line for line in command.errors), command.everything
    assert not any(line.startswith("testing ") and "--policy" in line for line in command.lines)


@pytest.mark.parametrize(
    "how", ["Ctrl+C", *(pytest.param(how, marks=pytest.mark.long) for how in ("kill -9", "a node ends"))]
)
def test_nodes_end_together(processes: Processes, how: str) -> None:
    """All four, however their parent ends; Ctrl+C of a terminal goes to the children too."""
    command = processes.fork("demo-nodes", *processes.tiny(), "--first-port", "0")
    command.line("^all four nodes are serving; Ctrl\\+C ends them$")
    nodes = children(command)
    assert len(nodes) == 4
    for node in NODES:
        assert any(re.fullmatch(rf"{node:8}{node} is serving at ws://localhost:\d+", line) for line in command.lines)
    sizes = [line.split()[-1] for line in command.lines if "len(datasets[tiny])" in line]
    assert sorted(sizes) == ["13", "13", "14"], "thirds of a data set of the user's own"
    if how == "kill -9":
        command.send(signal.SIGKILL)
        command.end(SECONDS)
    elif how == "a node ends":
        nodes[1].terminate()
        assert command.end(SECONDS) == 1
        assert re.fullmatch(r"(alice|bob|charlie|testing) ended; ending the other nodes", command.lines[-1])
    else:
        for process in (*nodes, psutil.Process(command.pid)):
            process.send_signal(signal.SIGINT)
        assert command.end(SECONDS) in (130, 1)
        assert [line for line in command.errors if line != "fedws demo-nodes: stopped"] == []
    assert "Traceback" not in command.everything
    assert_gone(nodes)


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGKILL, marks=pytest.mark.long)])
def test_demo_stopped_while_it_runs(processes: Processes, number: signal.Signals) -> None:
    demo = processes.fork("demo", *processes.tiny(), "--rounds", "100000", "--run-dir", "run")
    demo.line("Training round 3/100000$")
    nodes = children(demo)
    assert len(nodes) == 4
    demo.send(number)
    status = demo.end(SECONDS)
    assert_gone(nodes)
    assert "Traceback" not in demo.everything
    if number == signal.SIGTERM:
        assert (status, demo.errors) == (130, ["fedws demo: stopped"])
        assert (processes.folder / "run" / "model.safetensors").exists()
