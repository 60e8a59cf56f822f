"""A plugin for the cost of checkpoints: a coordinator that stores none.

--plugin benchmarks/harness/without_checkpoints.py
"""

from typing import Any
from unittest.mock import patch

from fedws.protocol.messages import Json
from fedws.recording.checkpoint import Checkpoints


def save(self: Checkpoints, number: int, state: Any, extra: Json) -> None:
    """Store nothing."""


patch.object(Checkpoints, "save", save).start()  # for as long as the process lives; fails where there is no such method
