"""The README's own model: its file and the flags of its commands, and the accuracy that it promises."""

import re
import shlex

from tests.helpers.processes import Processes, dialling, ended_well, identity, serving
from tests.helpers.support import REPOSITORY

PAGES = ("README.md", "docs/tutorial.md")


def read_section(page: str) -> tuple[str, list[str], list[str]]:
    """Return the Python file of a page's own model, and the words of its commands for the nodes and the run."""
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    section = text.partition("own model\n")[2]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    commands = re.search(r"```\n(fedws demo-nodes .*?)```", section, re.DOTALL)
    assert code is not None and commands is not None
    nodes, run = commands[1].splitlines()
    return code[1], shlex.split(nodes)[2:], shlex.split(run)[2:]


def test_the_pages_agree() -> None:
    (code, *commands), (other_code, *other_commands) = map(read_section, PAGES)
    assert commands == other_commands
    assert code.replace("  # any map-style torch data set of (input, target)", "") == other_code


def test_the_own_model_trains_as_the_readme_promises(processes: Processes) -> None:
    """The commands at free ports, since ``demo-nodes`` uses the default ones; each worker holds a third."""
    code, nodes, run = read_section("README.md")
    (processes.folder / "pieces.py").write_text(code, encoding="utf-8")
    share = {
        name: ("--partition", "iid", "--share", f"{index}/3") for index, name in enumerate(("alice", "bob", "charlie"))
    }
    started = {
        name: processes.fork("worker", *identity(name), *nodes, *share.get(name, ())) for name in (*share, "testing")
    }
    done = ended_well(processes.fork("run", *dialling(serving(started)), *run, "--run-dir", "run"))
    accuracy = float(done.line(r"^Federated accuracy after round 20: (\d+\.\d+)%$")[1])
    assert 96 < accuracy < 98
