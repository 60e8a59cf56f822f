"""Checkpoints of tests: a directory with two of them, and a state that is saved and loaded."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings

from fedws.recording.checkpoint import Checkpoints
from tests.helpers.frozen_classes import Pair

CALM = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


def there_and_back(directory: Path, state: Any, extra: Any = None) -> Any:
    checkpoints = Checkpoints(directory)
    checkpoints.save(1, state, extra or {})
    found, remark = Checkpoints(directory).load()
    assert found.version == 1 and remark == ""
    return found.state


def path_of(directory: Path, number: int) -> Path:
    return directory / f"checkpoint-{number:06}.safetensors"


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


STATE = Pair({"w": torch.tensor([1.5, -2.5]), "n": torch.tensor(3)}, "before")


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """Return a directory with the checkpoints 11 and 12."""
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoints")
    checkpoints.save(11, STATE, {"round": 11})
    checkpoints.save(12, Pair(STATE.left, "after"), {"round": 12})
    return checkpoints.directory
