"""Nodes that dial out, as commands: those of the guides, runs over them, and one clear line for each mistake."""

import hashlib
import re

import pytest

import fedws.cli.run
import fedws.cli.worker
from tests.helpers.credential_flags import made, shown
from tests.helpers.dial_out_nodes import free_port
from tests.helpers.page_commands import list_lines
from tests.helpers.processes import Command, Processes, assert_one_line, dialling, ended_well
from tests.helpers.support import REPOSITORY

LISTENS = r"Listening at (wss?://\S+) for "


def joins(processes: Processes, url: str, *names: str, flags: tuple[str, ...] = ()) -> dict[str, Command]:
    """Nodes that join there, each with the flags."""
    commands = {}
    for name in names:
        testing = ["--evaluator"] if name == "testing" else []
        commands[name] = processes.fork("worker", "--id", name, "--join", url, *testing, *flags)
    return commands


def digest(processes: Processes, run: str) -> str:
    return hashlib.sha256((processes.folder / run / "model.safetensors").read_bytes()).hexdigest()


def list_guide_commands(page: str, *titles: str) -> list[list[str]]:
    """Return the words of each command in these sections of a how-to guide."""
    text = (REPOSITORY / "docs" / "howto" / page).read_text(encoding="utf-8")
    sections = [text.partition(f"\n## {title}\n")[2].partition("\n## ")[0] for title in titles]
    assert all(sections), titles
    return [words for section in sections for words in list_lines(section)]


def test_the_commands_of_the_guide(given: Processes) -> None:
    """As they stand there, but for the address, which is of this machine, and for the data."""
    port, data = free_port(), given.tiny()
    commands = []
    listed = list_guide_commands("behind-nat.md", "Start the run", "Start the nodes")
    for words in listed:
        assert words[0] == "fedws" and words[1] in ("worker", "evaluator", "run"), words
        here = [re.sub(r"[\w.]+:9000$", f"127.0.0.1:{port}", word) for word in words[1:]]
        assert sum(f"127.0.0.1:{port}" in word for word in here) == 1, words
        more = [*data, *(["--rounds", "2", "--run-dir", "run"] if here[0] == "run" else [])]
        commands.append(given.fork(*here, *more))
    assert [command[1] for command in listed].count("run") == 1 and len(commands) == 5
    (run,) = (command for command, words in zip(commands, listed, strict=True) if words[1] == "run")
    ended_well(run)
    assert any(line.startswith("Federated accuracy after round 2: ") for line in run.lines)
    log = (given.folder / "run" / "run.log").read_text()
    assert "alice" in log and "left" not in log


def test_the_commands_of_the_guide_to_brokers_are_commands() -> None:
    """That such a run goes well, and that a broker's rights are those of its users, is seen in test_mqtt_example.py."""
    run, worker = list_guide_commands("broker.md", "Start the run and the nodes")
    assert run[:2] == ["fedws", "run"] and worker[:2] == ["fedws", "worker"]
    given = fedws.cli.run.build_parser("fedws run").parse_args(run[2:])
    assert (given.expect_workers, given.evaluator, given.encrypt_payloads) == (
        ["alice", "bob", "charlie"],
        "testing",
        True,
    )
    joins = fedws.cli.worker.build_parser("fedws worker").parse_args(worker[2:])
    assert joins.join == given.listen.replace("coordinator@", f"{joins.id}@") and joins.encrypt_payloads


def test_nodes_that_join_make_the_same_model_as_dialled_ones_one_run_after_the_other(processes: Processes) -> None:
    """One of them by the script of the reference; first the nodes are there, then the run, then the other way round."""
    data = processes.tiny()
    url = f"ws://127.0.0.1:{free_port()}"
    short = ("--rounds", "2", *data)
    nodes = joins(processes, url, "alice", "testing", flags=data)
    nodes["bob"] = processes.start("run_websocket_server.py", "--id", "bob", "--join", url, *data)
    for name, node in nodes.items():
        node.line(f"^{name} joins at {url}$")
    runs = []
    for number in (1, 2):
        flags = ("--listen", url.removeprefix("ws://"), "--expect-workers", "alice", "bob", "--evaluator", "testing")
        runs.append(ended_well(processes.fork("run", *flags, "--run-dir", str(number), *short)))
        assert any(line.startswith("Federated accuracy after round 2: ") for line in runs[-1].lines)
    urls = processes.nodes(*data, nodes=("alice", "bob", "testing"))
    ended_well(processes.fork("run", *dialling(urls), "--run-dir", "dialled", *short))
    mixed = {"alice": urls["alice"], "testing": urls["testing"]}
    ended_well(
        processes.fork(
            "run", *dialling(mixed), "--listen", url, "--expect-workers", "bob", "--run-dir", "mixed", *short
        )
    )
    assert len({digest(processes, run) for run in ("1", "2", "dialled", "mixed")}) == 1
    for node in nodes.values():
        assert "Traceback" not in node.everything


def test_a_coordinator_that_is_killed_goes_on_at_another_address(processes: Processes) -> None:
    data = processes.tiny()
    flags = ("--expect-workers", "alice", "--evaluator", "none", "--rounds", "3000", "--run-dir", "run", *data)
    run = processes.fork("run", "--listen", "127.0.0.1:0", *flags)
    url = run.line(LISTENS)[1]
    joins(processes, url, "alice", flags=data)
    run.line(r"Training round 3/")
    run.kill()
    again = processes.fork("run", "--resume", "run", "--listen", url.replace("127.0.0.1", "localhost"))
    again.line(r"Resumed after round \d+ of 3000")
    again.line(r"Training round \d+/3000", after=len(again.lines))
    again.kill()
    assert f'listen = "{url.replace("127.0.0.1", "localhost")}"' in (processes.folder / "run" / "plan.toml").read_text()


def test_under_mutual_tls(given: Processes) -> None:
    made(given, "alice", "testing", "lab")
    data = given.tiny()
    flags = ("--expect-workers", "alice", "--evaluator", "testing", "--rounds", "1", "--run-dir", "run", *data)
    run = given.fork("run", "--listen", "localhost:0", *flags, "--id", "lab", *shown("lab"))
    url = run.line(LISTENS)[1]
    assert url.startswith("wss://")
    for name in ("alice", "testing"):
        more = ("--coordinator", "lab", *shown(name), *data)
        joins(given, url.removeprefix("wss://"), name, flags=more)
    ended_well(run)


def test_a_second_node_of_a_name_is_told_and_waits(processes: Processes) -> None:
    data = processes.tiny()
    run = processes.fork("run", "--listen", "127.0.0.1:0", "--expect-workers", "alice", "--evaluator", "none",
                         "--rounds", "100000", "--run-dir", "run", *data)  # fmt: skip
    url = run.line(LISTENS)[1]
    joins(processes, url, "alice", flags=data)
    run.line(r"Training round 1/")
    second = joins(processes, url, "alice", flags=data)["alice"]
    second.line(r"alice: waiting to join at .* \(alice seems to be connected already; node ids must differ\)$")
    stranger = joins(processes, url, "dora", flags=("--labels", "1", *data))["dora"]
    stranger.line(
        r"dora: waiting to join at .* \(this run does not expect dora; check --id here and --expect-workers there\)$"
    )
    for command in (run, second, stranger):
        command.kill()


RUN = "run --dataset digits --run-dir never"
WORKER = "worker --id alice --dataset digits"
NEVER = "ws://127.0.0.1:1"
MISTAKES = [
    (f"{RUN} --expect-workers alice", "no address for 'alice'; give one, or let it connect to --listen ADDRESS$"),
    (f"{RUN} --evaluator testing", "no address for 'testing'; give one, or let it connect to --listen ADDRESS$"),
    (
        f"{RUN} --listen localhost:9000",
        "--listen: no node is expected to connect; name the nodes with --expect-workers alice bob",
    ),
    (
        f"{RUN} --listen localhost --expect-workers alice",
        "'localhost' is not a valid address; use the form HOST:PORT, such as localhost:9000$",
    ),
    (
        f"{RUN} --listen ws://[::1 --expect-workers alice",
        r"'ws://\[::1' is not a valid address; use the form ws://host:8777$",
    ),
    (
        f"{RUN} --listen localhost:0 --expect-workers alice alice",
        "duplicate node 'alice' in --expect-workers; give every node its own id$",
    ),
    (
        f"{RUN} --listen localhost:0 --expect-workers alice,bob,alice",
        "duplicate node 'alice' in --expect-workers; give every node its",
    ),
    (f"{RUN} --listen localhost:0 --expect-workers a/b", "'a/b' is not a valid node id"),
    (
        f"{RUN} --listen localhost:0 --expect-workers alice --workers alice=ws://h:1",
        "'alice' is in --expect-workers and also has the address ws://h:1; remove one of them$",
    ),
    (
        f"{RUN} --listen localhost:0 --expect-workers alice --evaluator alice",
        "'alice' is both a worker and the evaluator; use different ids$",
    ),
    (f"{RUN} --listen x://h:1 --expect-workers alice", "x://h:1: unknown scheme 'x'; choose from memory, .*ws, wss"),
    (
        f"{RUN} --listen localhost:0 --expect-workers alice --encrypt-payloads",
        "--encrypt-payloads requires links over a broker or TLS, but .* has neither",
    ),
    (
        f"{RUN} --listen ws://localhost:0 --expect-workers alice {{tls}}",
        "is not encrypted, but certificates are given; ",
    ),
    (
        f"{RUN} --listen wss://localhost:0 --expect-workers alice --evaluator none",
        "wss:// requires a certificate; set --tls-cert",
    ),
    (f"{WORKER} --join {NEVER} --port 0", "--join cannot be combined with --port; remove one of them$"),
    (f"{WORKER} --join {NEVER} --host 0.0.0.0", "--join cannot be combined with --host; remove one of them$"),
    (f"{WORKER} --coordinator lab --port 0", "--coordinator requires --join$"),
    (f"{WORKER} --join {NEVER} --coordinator lab", "--coordinator requires --tls-ca, which verifies the cert"),
    (
        f"{WORKER} --join {NEVER} --encrypt-payloads",
        "--encrypt-payloads requires links over a broker or TLS, but .* has neither; use wss:// with --tls-cert",
    ),
    (
        f"{WORKER} --join {NEVER} --encrypt-payloads --insecure",
        "--encrypt-payloads requires a network key and cannot be combined with --insecure; remove one of them$",
    ),
    (f"{WORKER} --join {NEVER} {{tls}}", "ws://127.0.0.1:1 is not encrypted, but certificates are given; use wss"),
    (f"{WORKER} --join x://h:1", "x://h:1: unknown scheme 'x'; choose from memory, .*ws, wss"),
    (f"{WORKER} --join localhost", "'localhost' is not a valid address; use the form HOST:PORT, such as "),
    (f"{WORKER} --join ws://[::1", r"'ws://\[::1' is not a valid address; use the form ws://host:8777$"),
    ("worker --id a/b --dataset digits --join localhost:1", "'a/b' is not a valid node id"),
]


@pytest.mark.parametrize(("argv", "pattern"), MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing(given: Processes, argv: str, pattern: str) -> None:
    if "{tls}" in argv:
        made(given, "alice", "coordinator")
    name = "coordinator" if argv.startswith("run") else "alice"
    tls = " ".join(shown(name))
    assert_one_line(given.fork(*argv.format(tls=tls).split()), pattern, 2)
    assert not (given.folder / "never").exists()


def test_a_port_that_is_in_use_is_one_line(processes: Processes) -> None:
    data = processes.tiny()
    taken = processes.nodes(*data, nodes=("alice",))["alice"].rpartition(":")[2]
    flags = ("--expect-workers", "bob", "--evaluator", "none", "--run-dir", "never", *data)
    run = processes.fork("run", "--listen", f"localhost:{taken}", *flags)
    assert_one_line(run, f"port {taken} on localhost is already in use; choose another with --listen$", 2)
    assert not (processes.folder / "never").exists()


@pytest.mark.parametrize("command", ["run", "worker", "evaluator"])
def test_the_helps_fit_a_terminal(processes: Processes, command: str) -> None:
    processes.environment["COLUMNS"] = "80"
    told = ended_well(processes.fork(command, "--help")).lines
    assert max(map(len, told)) <= 80
    text = " ".join(" ".join(told).split())
    flags = ("--listen", "--expect-workers") if command == "run" else ("--join", "--coordinator")
    assert all(flag in text for flag in flags)
