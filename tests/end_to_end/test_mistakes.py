"""A mistake in a user's own file, and a plugin of several files, as the user's commands meet them."""

import json
import os
import subprocess
import sys

import pytest

from tests.helpers.processes import TINY, Processes, assert_one_line
from tests.helpers.support import REPOSITORY

WRONG = "import fedws\nfrom beside import parse\n\n@fedws.register('dataset', 'wrong')\ndef make(root, train):\n"
WORKER = ("worker", "--id", "alice", "--port", "0", "--insecure", "--labels", "0-3")


@pytest.fixture
def files(processes: Processes) -> Processes:
    """A folder of plugins beside the working directory, with a module that they share."""
    folder = processes.folder / "pieces"
    folder.mkdir()
    (folder / "beside.py").write_text("def parse(row):\n    return row['label']\n", encoding="utf-8")
    (folder / "wrong.py").write_text(f"{WRONG}    return [parse({{}})]\n", encoding="utf-8")
    (folder / "tiny.py").write_text(f"import beside\n{TINY}", encoding="utf-8")
    return processes


def test_a_node_takes_a_plugin_with_a_module_beside_it(files: Processes) -> None:
    node = files.fork(*WORKER, "--plugin", "pieces/tiny.py", "--dataset", "tiny")
    node.line("alice is serving at")


def test_the_command_names_the_line(files: Processes) -> None:
    command = files.fork(*WORKER, "--plugin", "pieces/wrong.py", "--dataset", "wrong")
    place = files.folder.resolve() / "pieces" / "beside.py"
    assert_one_line(command, rf"dataset wrong: KeyError: 'label' \({place}, line 2\)$", 2)


def test_and_with_v_the_traceback_above_it(files: Processes) -> None:
    command = files.fork(*WORKER, "-v", "--plugin", "pieces/wrong.py", "--dataset", "wrong")
    assert command.end() == 2
    assert command.errors[0] == "Traceback (most recent call last):"
    assert command.errors[-1].startswith("fedws worker: dataset wrong: KeyError: 'label' (")


def test_the_process_that_trains_for_a_coordinator_does_so_too(files: Processes) -> None:
    (files.folder / "pieces" / "late.py").write_text("import beside\n\nbeside.parse({})\n", encoding="utf-8")
    given = json.dumps({"algorithm": "mistnet", "plugins": ["pieces/late.py"], "threads": 1, "feature_dir": "store"})
    command = [sys.executable, "-m", "fedws.coordinator.server_trainer_main", given]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, cwd=files.folder, env=environment)
    place = files.folder.resolve() / "pieces" / "beside.py"
    line = f"--plugin pieces/late.py: KeyError: 'label' ({place}, line 2)"
    assert (ended.returncode, ended.stderr.decode()) == (1, f"server trainer: {line}\n")


@pytest.mark.parametrize("command", ["communication-cost", "demo-nodes", "key", "plot"])
def test_every_command_has_v(command: str, processes: Processes) -> None:
    helped = processes.fork(command, "--help")
    assert helped.end() == 0
    assert any("-v, --verbose" in line for line in helped.lines)
