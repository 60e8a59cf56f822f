"""Seeds of requests, and temporary seeding of all random number generators of the process."""

import contextlib
import hashlib
import random
import threading
from collections.abc import Iterator

import numpy as np
import torch

_generator_lock = threading.RLock()  # all threads share the default generators


def request_seed(run_seed: int, worker: str, round_number: int) -> int:
    """Return the seed of a request: the first 8 bytes, big-endian, of the SHA-256 of ``"run seed/worker/round"``.

    >>> request_seed(1, "alice", 1) == request_seed(1, "alice", 2)
    False
    """
    digest = hashlib.sha256(f"{run_seed}/{worker}/{round_number}".encode()).digest()
    return int.from_bytes(digest[:8], "big")


@contextlib.contextmanager
def seed_generators(seed: int) -> Iterator[torch.Generator]:
    """Seed the default generators of torch, numpy and Python for a block, and provide a generator for shuffling.

    All three are restored after the block, also after an exception. Layers such as dropout, and the data sets of users,
    draw from the default generators. Therefore only one thread of the process can be in such a block.
    """
    with _generator_lock, torch.random.fork_rng(devices=range(torch.cuda.device_count())), _restore_generators():
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed([seed % 2**32, seed // 2**32 % 2**32])  # numpy requires words of 32 bits
        yield torch.Generator().manual_seed(seed)


@contextlib.contextmanager
def _restore_generators() -> Iterator[None]:
    """Restore the state of Python's and numpy's default generators after a block."""
    states = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
