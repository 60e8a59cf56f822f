"""Digests of messages' bodies, each made once however many peers are sent the same tensors."""

import threading
import weakref
from collections import deque
from collections.abc import Iterable, Sequence
from hashlib import sha256

import torch

from fedws.core.tensors import Tensors

_CACHE_SIZE = 4
_CachedDigest = tuple[tuple[tuple[int, int], ...], list[weakref.ref[torch.Tensor]], str]
_lock = threading.Lock()
_cache: deque[_CachedDigest] = deque(maxlen=_CACHE_SIZE)


def hash_body(tensors: Tensors, body: Iterable[memoryview]) -> str:
    """SHA-256 of ``body``, as 64 hexadecimal digits; that is the body of ``tensors``, and may be known of them.

    Blocking, half a millisecond a megabyte; safe to call from any thread, where others wait for the first.
    """
    with _lock:
        state = _tensor_versions(list(tensors.values()))
        for known, tensors_then, found in _cache:
            if known == state and all(tensor() is not None for tensor in tensors_then):
                return found
        made = sha256()
        for piece in body:
            made.update(piece)
        if state:
            _cache.append((state, [weakref.ref(tensor) for tensor in tensors.values()], made.hexdigest()))
        return made.hexdigest()


def _tensor_versions(tensors: Sequence[torch.Tensor]) -> tuple[tuple[int, int], ...]:
    """What tells these tensors from others, and from themselves before they were written to; empty where none can."""
    if any(tensor.is_inference() for tensor in tensors):  # they do not count writes
        return ()
    return tuple((id(tensor), tensor._version) for tensor in tensors)
