"""A reader of TensorBoard's event files that does not need TensorBoard."""

import struct
from pathlib import Path
from typing import Any

from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import masked_crc32c


def frames(path: Path) -> list[Any]:
    """Yield the events of a file after a check of both checksums of each frame."""
    data, found = path.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        body = data[12 : 12 + length]
        assert struct.unpack("<I", data[8:12]) == (masked_crc32c(data[:8]),)
        assert struct.unpack("<I", data[12 + length : 16 + length]) == (masked_crc32c(body),)
        found.append(Event.FromString(body))
        data = data[16 + length :]
    return found


def written(directory: Path) -> list[tuple[int, str, float]]:
    """Return every scalar in a directory as (step, tag, value)."""
    events = [event for path in sorted(directory.glob("*tfevents*")) for event in frames(path)]
    return [(event.step, value.tag, value.simple_value) for event in events for value in event.summary.value]
