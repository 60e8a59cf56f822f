"""Tensors that many devices were sent, kept once: a thousand devices that work on one model need not hold it each."""

import hashlib
from weakref import WeakValueDictionary

import torch

from fedws.core.tensors import Tensors, view_bytes


class TensorCache:
    """Knows the tensors that are in use, by content."""

    def __init__(self) -> None:
        self._tensors: WeakValueDictionary[tuple[object, ...], torch.Tensor] = WeakValueDictionary()

    def deduplicate(self, tensors: Tensors) -> Tensors:
        """The same tensors, those of them that are known already as the known ones. Nobody may write into them."""
        return {name: self._tensors.setdefault(_content_key(tensor), tensor) for name, tensor in tensors.items()}


def _content_key(tensor: torch.Tensor) -> tuple[object, ...]:
    return tensor.dtype, tuple(tensor.shape), hashlib.blake2b(view_bytes(tensor), digest_size=16).digest()
