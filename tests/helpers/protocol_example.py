"""The example of docs/topics/protocol.md: its samples, the worker's answer, and dumps of its bytes."""

import torch

from fedws.node.worker import Worker
from fedws.protocol.messages import TaskRequest, TaskResult
from tests.helpers.protocol_page import example


def hexdump(data: bytes) -> str:
    """Return a dump with sixteen bytes a line: offset, hexadecimal, text."""
    lines = []
    for start in range(0, len(data), 16):
        piece = data[start : start + 16]
        text = "".join(chr(byte) if 32 <= byte < 127 and byte != 96 else "." for byte in piece)
        lines.append(f"{start:04x}  {piece.hex(' '):47}  {text}")
    return "\n".join(lines)


class TwoPoints:
    """A data set with the example's samples."""

    targets = torch.tensor([0, 1])

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.eye(2)[index], index


def fitted() -> TaskResult:
    """Return the worker's answer to the example's request."""
    answer = Worker("alice", "two_points", TwoPoints()).execute(example(TaskRequest))
    assert isinstance(answer, TaskResult), answer
    return answer
