"""``--help`` of the commands and scripts, ``fedws --version``, and ``fedws`` without a command."""

import re

from tests.helpers.processes import Processes


def test_helps_are_quick_and_complete(processes: Processes) -> None:
    """They come without torch, which alone takes seconds; every flag of the demo is told of."""
    traced = ("-X", "importtime", "-m", "fedws")
    commands = [processes.start(*traced, *argv, "--help") for argv in ((), ("run",), ("worker",))]
    scripts = [processes.start(f"run_websocket_{name}.py", "--help") for name in ("client", "server")]
    for command in commands:
        assert command.end() == 0, command.everything
        imported = {line.rpartition("|")[2].strip() for line in command.errors}
        assert "fedws.cli.main" in imported
        assert not imported & {"torch", "pydantic", "numpy", "websockets", "matplotlib"}
    top, run, worker = commands
    for name in ("worker", "evaluator", "run", "demo-nodes", "demo", "plot"):
        assert any(line.startswith(f"  {name} ") for line in top.lines)
    assert all(command.end() == 0 and not command.errors for command in scripts)
    of_run = ["batch-size", "test-batch-size", "lr", "cuda", "seed", "save-model", "verbose"]
    new = ["rounds", "max-local-batches", "workers", "evaluator", "algorithm", "run-dir", "plan", "peer-timeout"]
    old = ["training-rounds", "federate-after-n-batches", "strategy", "silence"]
    for command, flags in ((run, [*of_run, *new]), (scripts[0], [*of_run, *new, *old])):
        text = "\n".join(command.lines)
        assert [flag for flag in flags if f"--{flag}" not in text] == []
    of_worker = ["id", "port", "host", "verbose", "evaluator", "labels", "partition", "share"]
    for command, flags in ((worker, of_worker), (scripts[1], [*of_worker, "testing", "notebook", "digits"])):
        text = "\n".join(command.lines)
        assert [flag for flag in flags if f"--{flag}" not in text] == []
    text = "\n".join(worker.lines)
    assert "'-' and '_' are the same in every flag." in text


def test_version(processes: Processes) -> None:
    command = processes.fork("--version")
    assert command.end() == 0
    assert re.fullmatch(r"fedws \d+\.\d+\.\d+", command.lines[0])


def test_no_command_is_the_help(processes: Processes) -> None:
    command = processes.fork()
    assert command.end() == 2
    assert any("Ctrl+C ends all" in line for line in command.lines)
