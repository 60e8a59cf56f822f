"""Messages encoded and decoded, and compared bit by bit."""

from typing import Any

import torch

from fedws.protocol.decoder import Decoder
from fedws.protocol.encoder import encode_message
from fedws.protocol.messages import Message, TaskRequest


def data_of(message: Message) -> bytes:
    return b"".join(encode_message(message).fragments())


def decoded(data: bytes, limit: int = 2**30) -> Message:
    decoder = Decoder(limit)
    decoder.feed(data)
    return decoder.build_message()


def bits_of(tensor: torch.Tensor) -> list[int]:
    return tensor.clone(memory_format=torch.contiguous_format).flatten().view(torch.uint8).tolist()


def plain(message: Message) -> dict[str, Any]:
    """Return a message in a form that can be compared: tensors as dtype, shape and bits, in order."""
    found: dict[str, Any] = {"type": type(message), **vars(message)}
    if "tensors" in found:
        found["tensors"] = [
            (name, tensor.dtype, tensor.shape, bits_of(tensor)) for name, tensor in found["tensors"].items()
        ]
    return found


def order(**tensors: torch.Tensor) -> TaskRequest:
    return TaskRequest(request_id="1/alice", worker="alice", round=1, task="t", tensors=tensors)
