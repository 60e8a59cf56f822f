"""Tensors that many devices were sent, kept once: a thousand devices that work on one model need not hold it each."""

from weakref import WeakValueDictionary

import torch

from fedws.core.tensors import Tensors, hash_tensors


class TensorCache:
    """Knows the tensors that are in use, by content."""

    def __init__(self) -> None:
        self._tensors: WeakValueDictionary[str, torch.Tensor] = WeakValueDictionary()

    def deduplicate(self, tensors: Tensors) -> Tensors:
        """The same tensors, those of them that are known already as the known ones. Nobody may write into them."""
        return {name: self._tensors.setdefault(hash_tensors({"": tensor}), tensor) for name, tensor in tensors.items()}
