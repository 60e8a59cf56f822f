"""The exact wording of the messages that users of the commands see most: what is printed, log lines and errors."""

import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.helpers.credential_flags import OTHER
from tests.helpers.dial_out_nodes import free_port
from tests.helpers.mosquitto import PASSWORD, mosquitto
from tests.helpers.processes import SECONDS, Command, Processes, assert_one_line, dialling, ended_well, serving
from tests.helpers.support import recorded

STAMP = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} \| "
RESULT = r"Average loss: \d+\.\d{4}, Accuracy: \d+/40 \(\d+\.\d\d%\)"
OWN = "or load your own with --plugin FILE.py"
SHARES = r"Percentage numbers 0-3: \d+%, 4-6: \d+%"
PLUGIN = """
import torch
import fedws

@fedws.register("dataset", "gap")
class Gap(fedws.ImageDataset):
    title, model = "Gap", "linear"

    def __init__(self, root, train):
        super().__init__(torch.zeros(4, 1, 28, 28, dtype=torch.uint8), torch.tensor([0, 0, 9, 9]), (0.5,), (0.5,))

@fedws.register("loss", "own")
def own():
    return torch.nn.functional.nll_loss
"""
"""A data set without labels in the middle, and a loss that only some of the nodes have."""


@dataclass
class Ran:
    """Nodes that go on serving, and what they and the coordinator of three runs have printed."""

    processes: Processes
    urls: dict[str, str]
    data: tuple[str, ...]
    nodes: dict[str, Command]
    runs: dict[str, Command] = field(default_factory=dict)


def lines_of(command: Command) -> list[str]:
    """What it has printed, without the times."""
    return [re.sub(f"^{STAMP}", "", line) for line in command.lines]


def assert_in_order(command: Command, *patterns: str) -> None:
    """That there is a line for each pattern, which is its whole text, in this order."""
    lines = iter(lines_of(command))
    for pattern in patterns:
        assert any(re.fullmatch(pattern, line) for line in lines), f"{pattern}\n{command.everything}"


def stopped_run(ran: Ran) -> Command:
    """A run that waits for bob at its start, loses bob and gets bob back, and is stopped."""
    processes, port = ran.processes, free_port()
    ran.urls["bob"] = f"ws://localhost:{port}"
    flags = ("--rounds", "100000", "--evaluate-every", "100000", "--run-dir", "run")
    run = processes.fork("run", *dialling(ran.urls), *flags, *ran.data)
    run.line(r"Waiting for bob at ")
    as_bob = ("--id", "bob", "--labels", "4-6", "--port", str(port), *ran.data)
    bob = processes.fork("worker", *as_bob)
    run.line("Federated model: Average loss")
    bob.send(signal.SIGTERM)
    run.line("Waiting for bob, at most")
    processes.fork("worker", *as_bob)
    run.line("bob has joined$")
    run.send(signal.SIGINT)
    assert run.end(SECONDS) == 130, run.everything
    return run


def joined_run(ran: Ran) -> Command:
    """A run over a node that dials out before the run listens, with an evaluator that lacks the loss."""
    url = f"ws://127.0.0.1:{free_port()}"
    data = (*ran.data, "--plugin", "plugin.py")
    dora = ran.nodes["dora"] = ran.processes.fork("worker", "--id", "dora", "--labels", "0-9", "--join", url, *data)
    dora.line("waiting to join at")
    flags = ("--expect-workers", "dora", "--evaluator", f"testing={ran.urls['testing']}", "--loss", "own")
    run = ran.processes.fork("run", "--listen", url, *flags, "--rounds", "1", "--run-dir", "joined", *data)
    ended_well(run)
    dora.line("waiting for the next run")
    return run


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    processes = Processes(tmp_path_factory.mktemp("messages"), {})
    try:
        (processes.folder / "plugin.py").write_text(PLUGIN)
        (processes.folder / "other.key").write_text(OTHER)
        (processes.folder / "other.key").chmod(0o600)
        data = processes.tiny()
        nodes = {"alice": processes.fork("worker", "--id", "alice", "--labels", "0-3", "--port", "0", *data)}
        nodes["testing"] = processes.fork("evaluator", "--id", "testing", "--port", "0", *data)
        ran = Ran(processes, serving(nodes), data, nodes)
        ran.runs["stopped"] = stopped_run(ran)
        rounds = recorded(processes.folder / "run", "round")[-1]["round"] + 1
        ran.runs["resumed"] = ended_well(processes.fork("run", "--resume", "run", "--rounds", str(rounds)))
        ran.runs["joined"] = joined_run(ran)
        yield ran
    finally:
        processes.close()


def test_a_run_that_is_stopped(ran: Ran) -> None:
    assert_in_order(
        ran.runs["stopped"],
        rf"Waiting for bob at {ran.urls['bob']} \(connection refused\)",
        r"Each worker trains at most 10 batches of 32 \(loss nll, sgd, lr 0\.1, 2 % less each round\)",
        r"Training round 1/100000",
        r"Evaluating models",
        rf"Model update alice: {SHARES}",
        rf"Model update alice: {RESULT}",
        rf"Model update bob: {SHARES}",
        rf"Model update bob: {RESULT}",
        rf"Federated model: {SHARES}",
        rf"Federated model: {RESULT}",
        r"bob has left: link lost: the node ends",
        r"Waiting for bob, at most 60 s; then the run ends",
        r"bob has joined",
        r"Ended after round \d+ of 100000: stopped",
        r"continue with: fedws run --resume run",
    )
    assert ran.runs["stopped"].errors == ["fedws run: stopped"]


def test_a_run_that_is_resumed(ran: Ran) -> None:
    resumed = ran.runs["resumed"]
    last = recorded(ran.processes.folder / "run", "round")[-1]["round"]
    assert_in_order(
        resumed,
        rf"Resumed after round \d+ of {last}",
        rf"Training round {last}/{last}",
        r"Evaluating models",
        rf"Federated model: {RESULT}",
    )
    assert re.fullmatch(rf"Federated accuracy after round {last}: \d+\.\d\d%", resumed.lines[-4])
    assert resumed.lines[-3:] == ["log   run/run.log", "plot  run/curves.png", "model run/model.safetensors"]


def test_a_run_that_is_joined(ran: Ran) -> None:
    why = f"unknown loss 'own'; choose from cross_entropy, mse, nll, {OWN}"
    assert_in_order(
        ran.runs["joined"],
        r"Listening at ws://127\.0\.0\.1:\d+ for dora",
        r"Training round 1/1",
        r"Evaluating models",
        re.escape(f"Scores missing in round 1: dora ({why}); federated (testing: it is excluded: {why})"),
        r"The federated model was not evaluated; the log contains the reason",
    )


def test_a_worker_that_serves(ran: Ran) -> None:
    begun_and_ended = (r"alice: run [0-9a-f]{8} started", r"alice: run [0-9a-f]{8} ended: the coordinator ends")
    assert_in_order(ran.nodes["alice"], rf"alice is serving at {ran.urls['alice']}", *begun_and_ended, *begun_and_ended)


def test_a_worker_that_dials_out(ran: Ran) -> None:
    url = r"ws://127\.0\.0\.1:\d+"
    assert_in_order(
        ran.nodes["dora"],
        rf"dora joins at {url}",
        rf"dora: waiting to join at {url} \(connection refused\)",
        rf"dora: joined the run at {url}",
        r"dora: run [0-9a-f]{8} started",
        r"dora: run [0-9a-f]{8} ended: the coordinator ends",
        rf"dora: waiting for the next run at {url}",
    )


def test_a_worker_at_a_broker(processes: Processes, tmp_path: Path) -> None:
    with mosquitto(tmp_path / "broker") as broker:
        processes.environment["FEDWS_MQTT_PASSWORD"] = PASSWORD
        worker = processes.fork("worker", "--id", "alice", "--join", broker.at("alice"), *processes.tiny())
        worker.line(f"^alice is connected to the broker at {broker.at('alice')}$")
        worker.send(signal.SIGTERM)
        ended_well(worker)


SHORT = "--evaluator none --run-dir never --dataset tiny --plugin tiny.py"
ERRORS = [
    ("run --round 3", "unknown argument '--round'; did you mean '--rounds'? (see fedws run --help)"),
    ("run --model resnet", f"unknown model 'resnet'; choose from cifar_cnn, linear, mlp, mnist_cnn, {OWN}"),
    ("run --plan none.toml", "--plan none.toml: cannot read the file: No such file or directory"),
    ("run --run-dir run", "--run-dir run is not empty; choose a new or an empty directory"),
    (
        f"run --workers carl=ws://localhost:{{free}} --peer-timeout 1 {SHORT}",
        "not connected within 1 s: carl at ws://localhost:{free} (connection refused)",
    ),
    (
        f"run --workers alice={{alice}} --key-file other.key {SHORT}",
        "alice at {alice}: alice has a different network key; "
        "copy the key: run 'fedws key show' there and set --key-file or FEDWS_KEY here",
    ),
    (
        "worker --id carl --port {port} --labels 0 --dataset tiny --plugin tiny.py",
        "port {port} on localhost is already in use; choose another with --port",
    ),
    (
        "worker --id carl --port 0 --labels 5 --dataset gap --plugin plugin.py",
        "dataset gap has no samples with the labels 5; choose other labels",
    ),
]


@pytest.mark.parametrize(("argv", "text"), ERRORS)
def test_an_error(ran: Ran, argv: str, text: str) -> None:
    alice = ran.urls["alice"]
    given = {"alice": alice, "port": alice.rpartition(":")[2], "free": free_port()}
    command = ran.processes.fork(*argv.format(**given).split())
    assert_one_line(command, f"^fedws {argv.split()[0]}: {re.escape(text.format(**given))}$")
