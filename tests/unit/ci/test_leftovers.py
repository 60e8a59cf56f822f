"""``.ci/leftovers`` finds what a step leaves in the working tree, whether git ignores it or not."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.helpers.support import REPOSITORY, require

IGNORED = (REPOSITORY / ".gitignore").read_text(encoding="utf-8")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A repository with the script, one committed file and an older file of the user's."""
    require(shutil.which("git") is not None and shutil.which("bash") is not None, "git and bash")
    (tmp_path / ".ci").mkdir()
    shutil.copy(REPOSITORY / ".ci" / "leftovers", tmp_path / ".ci")
    (tmp_path / ".gitignore").write_text(IGNORED, encoding="utf-8")
    (tmp_path / "code.py").write_text("x = 1\n", encoding="utf-8")
    user = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    for command in (("init", "-q"), ("add", "."), (*user, "commit", "-q", "-m", "All")):
        subprocess.run(("git", *command), cwd=tmp_path, check=True)
    (tmp_path / "notes.txt").touch()
    return tmp_path


def leftovers(clone: Path, *before: Path) -> tuple[int, str]:
    done = subprocess.run([clone / ".ci" / "leftovers", *before], capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("alice.log", "alice.log"),
        ("runs/1-fedavg/run.log", "runs/1-fedavg/run.log"),
        ("mnist_cnn.pt", "mnist_cnn.pt"),
        ("tests/a b.txt", "tests/a b.txt"),
        ("code.py", "code.py"),
    ],
)
def test_a_new_or_changed_file_is_named(
    file: str, text: str, clone: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    before = tmp_path_factory.mktemp("list") / "before"
    before.write_text(leftovers(clone)[1], encoding="utf-8")
    assert before.read_text(encoding="utf-8") == "notes.txt\n"
    for cache in (".venv/bin", "fedws/__pycache__", ".hypothesis", "fedws.egg-info", "examples/node_modules/x"):
        (clone / cache).mkdir(parents=True)
        (clone / cache / "file").touch()
    assert leftovers(clone, before) == (0, "")
    (clone / file).parent.mkdir(parents=True, exist_ok=True)
    (clone / file).write_text("left\n", encoding="utf-8")
    assert leftovers(clone, before) == (1, f"left in the working tree:\n{text}\n")


@pytest.mark.parametrize("name", ["alice.log", "m.conf", "pids", "ca.pem", "network.key"])
def test_what_nodes_leave_is_ignored_at_the_root(name: str, clone: Path) -> None:
    (clone / "docs").mkdir()
    ignored = ("git", "check-ignore", "-q")
    assert subprocess.run([*ignored, name], cwd=clone).returncode == 0
    assert subprocess.run([*ignored, f"docs/{name}"], cwd=clone).returncode == 1
