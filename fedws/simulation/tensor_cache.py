"""A cache of received tensors, which lets many devices share the memory of one model."""

from weakref import WeakValueDictionary

import torch

from fedws.core.tensors import Tensors, hash_tensors


class TensorCache:
    """A table of the tensors in use, by a hash of their content."""

    def __init__(self) -> None:
        self._tensors: WeakValueDictionary[str, torch.Tensor] = WeakValueDictionary()

    def deduplicate(self, tensors: Tensors) -> Tensors:
        """Return equal tensors, which are taken from the cache where possible. They must not be modified."""
        return {name: self._tensors.setdefault(hash_tensors({"": tensor}), tensor) for name, tensor in tensors.items()}
