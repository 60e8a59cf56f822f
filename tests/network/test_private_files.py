"""What runs leave on the disk: files that only their user can read, at every moment of a run, whatever the umask."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import fedws
from tests.helpers.federation import PATIENCE, federation
from tests.helpers.mistnet_nodes import Node, Thread
from tests.helpers.mistnet_nodes import federation as uploading

pytestmark = pytest.mark.usefixtures("_open_umask")


@pytest.fixture
def _open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.fixture
def _empty_pictures() -> None:
    """Draw the real ones here."""


class Watched:
    """The modes of all that a folder has held, seen at each record of a run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.modes: dict[str, set[str]] = {}

    def look(self, record: Any = None) -> None:
        """Add what is there now."""
        for path in (self.folder, *self.folder.rglob("*")):
            name = path.relative_to(self.folder).as_posix()
            kind = "folder" if path.is_dir() else "file"
            self.modes.setdefault(name, set()).add(f"{kind} {path.stat().st_mode & 0o777:o}")

    def assert_private(self, *wanted: str) -> None:
        """All are private, and these are among them."""
        assert set().union(*self.modes.values()) == {"folder 700", "file 600"}, self.modes
        for name in wanted:
            assert any(path.startswith(name) for path in self.modes), f"{name} is not among {sorted(self.modes)}"


async def test_a_run_s_directory_is_private(tmp_path: Path) -> None:
    watched = Watched(tmp_path / "runs" / "one")
    async with federation("memory") as settings:
        await fedws.run(run_dir=watched.folder, observers=[watched.look], **settings)
    watched.look()
    always = (".lock", "run.json", "plan.toml", "run.log", "metrics.jsonl", "worker_labels.json", "model.safetensors")
    watched.assert_private(
        *always, "curves.png", "checkpoints/checkpoint-", "events.out.tfevents.", "pending_evaluations/"
    )
    assert (tmp_path / "runs").stat().st_mode & 0o777 == 0o777, "what holds runs has the mode of the umask"


async def test_a_directory_without_a_name_is_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    async with federation("memory", nodes=("alice",)) as settings:
        result = await fedws.run(**settings)
    watched = Watched(result.directory)
    watched.look()
    watched.assert_private("run.json")


async def test_features_are_private_on_both_sides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedws.coordinator.run.ServerTrainer", Thread)
    run, node = Watched(tmp_path / "run"), Watched(tmp_path / "alice")

    class Watching(Node):
        @fedws.task_traits("features")
        def upload(self, *given: Any) -> Any:
            node.look()
            return super().upload(*given)

    async with asyncio.timeout(PATIENCE), uploading(tmp_path, {"alice": Watching()}, rounds=1) as settings:
        await fedws.run(run_dir=run.folder, observers=[run.look], **settings)
    node.look()
    run.look()
    run.assert_private("features/0-0.safetensors")
    node.assert_private("uploads/extractor-")
    for name in ("features", "labels", "manifest.json", "sent"):
        assert any(Path(path).name == name for path in node.modes), f"{name} is not among {sorted(node.modes)}"
