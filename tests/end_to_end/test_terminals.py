"""Pipes that are closed, encodings without a letter, marks of Windows editors, addresses of IPv6, and quick ends."""

import codecs
import signal
import socket
import sys

import pytest

from tests.helpers.dial_out_nodes import free_port
from tests.helpers.processes import SECONDS, Processes, assert_one_line, dialling, ended_well
from tests.helpers.support import require

AT_EXIT = """
import atexit
import pathlib

pathlib.Path("loaded").touch()
atexit.register(pathlib.Path("torn_down").touch)
"""
"""A plugin that leaves a file when the interpreter is torn down."""


def has_ipv6() -> bool:
    """This machine has the loopback address of IPv6."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def test_a_run_whose_reader_has_gone_ends_well(processes: Processes) -> None:
    """As in ``fedws run | head -1``: its first line comes before its worker, and all others after head has ended."""
    data, port = processes.tiny(), free_port()
    del processes.environment["PYTHONUNBUFFERED"]
    flags = [*dialling({"alice": f"ws://localhost:{port}"}), *data, "--rounds", "2", "--run-dir", "run"]
    script = '{ "$@"; echo "status $?" >&2; } | { head -1; exec <&-; echo gone; }'
    run = processes.execute("sh", "-c", script, "sh", sys.executable, "-m", "fedws", "run", *flags)
    run.line("^gone$")
    processes.fork("worker", "--id", "alice", "--port", str(port), *data)
    assert run.end() == 0
    assert run.errors == ["status 0"]
    assert "Waiting for alice" in run.lines[0] and run.lines[1:] == ["gone"]
    assert "Training round 2/2" in (processes.folder / "run" / "run.log").read_text()


def test_a_character_that_the_terminal_lacks_is_an_escape(processes: Processes) -> None:
    data = processes.tiny()
    urls = processes.nodes(*data, nodes=("alice",))
    processes.environment["PYTHONIOENCODING"] = "ascii"
    flags = ("--rounds", "1", "--run-dir", "Ä", *data)
    run = ended_well(processes.start("-m", "fedws", "run", *dialling(urls), *flags))
    assert run.lines[-1] == r"model \xc4/model.safetensors"
    assert (processes.folder / "Ä" / "model.safetensors").exists()


def test_a_letter_that_no_node_id_has_is_one_line(processes: Processes) -> None:
    rule = "use at most 64 of the letters a-z and A-Z, digits, '.', '_' and '-', and begin with a letter or digit"
    command = processes.fork("worker", "--id", "Älice", "--port", "0", *processes.tiny())
    assert_one_line(command, f"^fedws worker: --id: 'Älice' is not a valid node id; {rule}$", 2)


@pytest.mark.parametrize("host", ["[::1]", "::1"])
def test_an_address_of_ipv6_is_served(processes: Processes, host: str) -> None:
    require(has_ipv6(), "no IPv6 on this machine")
    worker = processes.fork("worker", "--id", "alice", "--host", host, "--port", "0", *processes.tiny())
    url = worker.line(r"^alice is serving at (ws://\[::1\]:\d+)$")[1]
    run = processes.fork("run", *dialling({"alice": url}), "--rounds", "1", "--run-dir", "run", *processes.tiny())
    ended_well(run)


@pytest.mark.parametrize("way", ["serving", "dialling out"])
def test_a_worker_without_a_run_ends_at_once(processes: Processes, way: str) -> None:
    """At SIGTERM: nothing is left to do, and the interpreter is not torn down, which takes torch most of a second."""
    (processes.folder / "at_exit.py").write_text(AT_EXIT)
    flags = ("--port", "0") if way == "serving" else ("--join", f"ws://127.0.0.1:{free_port()}")
    # Not a fork: a process of multiprocessing is never torn down.
    worker = processes.start(
        "-m", "fedws", "worker", "--id", "alice", *flags, *processes.tiny(), "--plugin", "at_exit.py"
    )
    worker.line("^alice is serving at" if way == "serving" else "alice: waiting to join")
    worker.send(signal.SIGTERM)
    assert (worker.end(SECONDS), worker.errors) == (0, []), worker.everything
    left = {name for name in ("loaded", "torn_down") if (processes.folder / name).exists()}
    assert left == {"loaded"}


@pytest.mark.parametrize(
    ("mark", "encoding"),
    [(codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be")],
)
def test_a_plan_with_a_byte_order_mark_is_read(processes: Processes, mark: bytes, encoding: str) -> None:
    """Its last line is wrong, which only who has read it can say."""
    (processes.folder / "plan.toml").write_bytes(mark + "# Ä\r\nrounds = 0\r\n".encode(encoding))
    command = processes.fork("run", "--plan", "plan.toml")
    assert_one_line(command, "^fedws run: rounds: .* greater than or equal to 1, not 0$", 2)
