"""A plugin for the cost of checkpoints: it makes a coordinator store none.

Flag: --plugin benchmarks/harness/without_checkpoints.py
"""

from typing import Any
from unittest.mock import patch

from fedws.protocol.messages import Json
from fedws.recording.checkpoint import Checkpoints


def save(self: Checkpoints, number: int, state: Any, extra: Json) -> None:
    """Store nothing."""


patch.object(Checkpoints, "save", save).start()  # until the process ends; it fails if the method does not exist
