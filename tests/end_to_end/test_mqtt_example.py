"""``examples/mqtt``: the one command, short; its end by Ctrl+C; and what it says without a broker."""

import signal

import psutil
import pytest

from fedws.core.demo_nodes import DEMO_LABELS
from tests.helpers.mosquitto import MISSING, PROGRAM
from tests.helpers.processes import NODES, SECONDS, Processes, assert_one_line
from tests.helpers.support import recorded, require

SCRIPT = "examples/mqtt/run.py"


@pytest.mark.long
def test_a_run_over_a_broker_that_reads_nothing(given: Processes) -> None:
    require(PROGRAM, MISSING)
    run = given.start(SCRIPT, "--dataset", "digits", "--rounds", "2", "--run-dir", "out")
    for node in NODES:
        run.line(f"^{node} is connected to the broker at mqtt://{node}@localhost:[0-9]+$")
    run.line(r"^\$ fedws run --listen mqtt://coordinator@localhost:[0-9]+ .* --encrypt-payloads ")
    assert run.end() == 0 and run.errors == [], run.everything
    assert [record["num_results"] for record in recorded(given.folder / "out", "round")] == [len(DEMO_LABELS)] * 2
    run.line("^Federated accuracy after round 2: ")
    assert (given.folder / "out" / "model.safetensors").is_file()
    plan = (given.folder / "out" / "plan.toml").read_text()
    assert "mqtt://coordinator@localhost:" in plan


@pytest.mark.long
def test_ctrl_c_ends_all_that_it_started(given: Processes) -> None:
    require(PROGRAM, MISSING)
    run = given.start(SCRIPT, "--dataset", "digits", "--rounds", "1000", "--run-dir", "out")
    run.line("Training round 2/")
    started = psutil.Process(run.pid).children()
    assert len(started) == 5, "a broker and four nodes"
    run.send(signal.SIGINT)
    assert run.end(SECONDS) == 130, run.everything
    assert not any(process.is_running() for process in started)


def test_without_a_broker_it_says_how_to_get_one(given: Processes) -> None:
    given.environment["PATH"] = str(given.folder)
    assert_one_line(given.start(SCRIPT, "--dataset", "digits"), f"^run.py: {MISSING}$", 2)
