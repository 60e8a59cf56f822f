"""Digests of message bodies, computed once even if the same tensors are sent to many peers."""

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
    """Return the SHA-256 of ``body``, as 64 hexadecimal digits.

    ``body`` is the body of ``tensors``, for which the digest may be cached. The call blocks for half a millisecond per
    megabyte. It is safe to call from any thread; concurrent calls wait for the first.
    """
    with _lock:
        versions = _tensor_versions(list(tensors.values()))
        for cached_versions, cached_tensors, cached_digest in _cache:
            if cached_versions == versions and all(tensor() is not None for tensor in cached_tensors):
                return cached_digest
        digest = sha256()
        for piece in body:
            digest.update(piece)
        if versions:
            _cache.append((versions, [weakref.ref(tensor) for tensor in tensors.values()], digest.hexdigest()))
        return digest.hexdigest()


def _tensor_versions(tensors: Sequence[torch.Tensor]) -> tuple[tuple[int, int], ...]:
    """Return a key that identifies the tensors and changes with every write to them.

    The result is empty if such a key does not exist.
    """
    if any(tensor.is_inference() for tensor in tensors):  # PyTorch does not count writes to inference tensors
        return ()
    return tuple((id(tensor), tensor._version) for tensor in tensors)
