"""Fixtures of the tests of the worker in JavaScript: its interpreter, its samples, and one that serves for all."""

import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.helpers.javascript_worker import FOLDER, HELD, alice, dialled
from tests.helpers.processes import PATIENCE, Command, Processes, serving
from tests.helpers.support import REPOSITORY, require


@pytest.fixture(scope="package")
def node() -> str:
    """The interpreter; skips when it, or a package that the worker uses, is not here."""
    found = shutil.which("node")
    packages = [FOLDER / "node_modules" / name / "package.json" for name in ("ws", "@msgpack/msgpack")]
    require(
        found and all(map(Path.is_file, packages)), f"node, or its packages (npm ci in {FOLDER.name}), are not here"
    )
    assert found is not None
    return found


@pytest.fixture(scope="package")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its samples, as the README makes them."""
    file = tmp_path_factory.mktemp("samples") / "alice.json"
    command = [sys.executable, str(FOLDER / "export_digits.py"), str(file), "--digits", *map(str, HELD)]
    subprocess.run(command, check=True, timeout=PATIENCE, cwd=REPOSITORY)
    return file


@pytest.fixture(scope="package")
def served(node: str, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Command]]:
    """One worker for the tests that only call it, which must be the same process after each; its URL."""
    processes = Processes(tmp_path_factory.mktemp("alice"), {})
    try:
        command = alice(processes, node, data)
        yield serving({"alice": command})["alice"], command
    finally:
        processes.close()


@pytest.fixture
async def url(served: tuple[str, Command]) -> AsyncIterator[str]:
    """Where it serves; after the test it must go on serving."""
    yield served[0]
    async with dialled(served[0]):
        assert served[1].errors == []
