"""``python -m evaluator``: the dedicated evaluator, from its command to the record of a run."""

import errno
import json
import signal
import socket
import time
from urllib.parse import urlsplit

from tests.helpers.processes import SECONDS, Processes, assert_one_line, dialling, ended_well, serving
from tests.helpers.support import REPOSITORY

STUCK = """
import time

@fedws.register("model", "stuck")
class Stuck(torch.nn.Linear):
    def __init__(self):
        super().__init__(784, 10)

    def forward(self, samples):
        if not self.training:
            print("stuck", flush=True)
            time.sleep(120)
        return super().forward(samples.flatten(1))
"""
"""A model that is trained at once and whose evaluation does not end."""


def test_a_run_records_the_confusion_matrix_of_each_model(processes: Processes) -> None:
    """Of every model that is evaluated; its sum and its diagonal are the numbers that the evaluation has."""
    processes.environment["PYTHONPATH"] = str(REPOSITORY)
    flags = processes.tiny()
    urls = serving(
        {
            "alice": processes.fork("worker", "--id", "alice", "--port", "0", *flags),
            "testing": processes.start("-m", "evaluator", "--port", "0", *flags),
        }
    )
    ended_well(
        processes.fork("run", *dialling(urls), *flags, "--rounds", "1", "--evaluate-every", "1",
                       "--loss", "cross_entropy", "--run-dir", "run")
    )  # fmt: skip
    records = [json.loads(line) for line in (processes.folder / "run" / "metrics.jsonl").read_text().splitlines()]
    scores = [record for record in records if record["kind"] == "evaluation"]
    assert {record["model"] for record in scores} == {"alice", "federated"}
    for record in scores:
        matrix = record["tables"]["confusion"]
        assert [len(row) for row in matrix] == [10] * 10 and [sum(row) for row in matrix] == [4] * 10
        assert sum(matrix[label][label] for label in range(10)) == record["num_correct"]
        assert [sum(column) for column in zip(*matrix, strict=True)] == record["predicted_label_counts"]


def test_a_data_set_that_does_not_exist_is_one_line(processes: Processes) -> None:
    processes.environment["PYTHONPATH"] = str(REPOSITORY)
    assert_one_line(processes.start("-m", "evaluator", "--dataset", "minst"), "unknown dataset 'minst'", status=2)


def test_a_wrong_key_is_reported_before_the_data_set(processes: Processes) -> None:
    processes.environment["PYTHONPATH"] = str(REPOSITORY)
    command = processes.start("-m", "evaluator", "--dataset", "minst", "--key-file", "none")
    assert_one_line(command, "evaluator: cannot read --key-file none: No such file or directory$", status=2)


def test_a_port_in_use_is_one_line(processes: Processes) -> None:
    processes.environment["PYTHONPATH"] = str(REPOSITORY)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        flags = ("--host", "127.0.0.1", "--port", port, *processes.tiny())
        assert_one_line(
            processes.start("-m", "evaluator", *flags), f"port {port} on 127.0.0.1 is already in use", status=2
        )


def test_a_key_that_is_made_is_named_and_ctrl_c_ends_the_node(processes: Processes) -> None:
    processes.environment |= {"PYTHONPATH": str(REPOSITORY), "XDG_CONFIG_HOME": str(processes.folder / "config")}
    del processes.environment["FEDWS_KEY"]
    command = processes.start("-m", "evaluator", "--port", "0", *processes.tiny())
    command.line("^testing is serving at ws://localhost:")
    command.send(signal.SIGINT)
    ended_well(command)
    made, holds, _ = command.lines
    assert made.startswith(f"created a network key in {processes.folder / 'config'}")
    assert holds == "testing holds 40 test samples of tiny"


def test_ctrl_c_while_data_are_loaded_is_one_line(processes: Processes) -> None:
    """And so is one while modules are imported."""
    processes.environment["PYTHONPATH"] = str(REPOSITORY)
    # In short steps: a signal that Python gets just before it starts to sleep does not interrupt that sleep.
    waiting = "for _ in range(1200):\n    time.sleep(0.1)\n"
    (processes.folder / "slow.py").write_text(f"import time\nprint('loading', flush=True)\n{waiting}")
    command = processes.start("-m", "evaluator", "--plugin", "slow.py")
    command.line("^loading$")
    command.send(signal.SIGINT)
    assert_one_line(command, "^python -m evaluator: stopped$", status=130)


def wait_until_closed(url: str) -> None:
    """Return when nothing listens at ``url`` any more."""
    address, until = urlsplit(url), time.monotonic() + SECONDS
    while True:
        with socket.socket() as caller:
            if caller.connect_ex((address.hostname, address.port)) == errno.ECONNREFUSED:
                return
        assert time.monotonic() < until, f"{url} still listens"
        time.sleep(0.02)


def test_a_second_ctrl_c_does_not_wait_for_a_task(processes: Processes) -> None:
    processes.environment["PYTHONPATH"] = str(REPOSITORY)
    flags = processes.tiny()
    with (processes.folder / "tiny.py").open("a") as plugin:
        plugin.write(STUCK)
    node = processes.start("-m", "evaluator", "--port", "0", *flags)
    urls = serving({"alice": processes.fork("worker", "--id", "alice", "--port", "0", *flags), "testing": node})
    processes.fork(
        "run", *dialling(urls), *flags, "--model", "stuck", "--loss", "cross_entropy", "--evaluate-every", "1"
    )
    node.line("^stuck$")
    node.send(signal.SIGINT)
    wait_until_closed(urls["testing"])
    node.send(signal.SIGINT)
    assert node.end(SECONDS) == 130, node.everything
