"""The run that a federation must equal to the last bit, as a plain PyTorch loop: no network, no nodes, no fedws.

Only the model's class is fedws's. What is computed is written down in the documents of the demo: three workers hold
alice's, bob's and charlie's digits; each round each of them trains at most ten batches of 32 from the same model.
"""

import hashlib
import random
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import nll_loss

from fedws.models.mnist_cnn import MnistCnn

HELD = {"alice": (0, 1, 2, 3), "bob": (4, 5, 6), "charlie": (7, 8, 9)}


def train(
    root: Path, rounds: int, *, seed: int = 1, lr: float = 0.1, weighted: bool = False
) -> dict[str, torch.Tensor]:
    """The federated model after so many rounds on the MNIST in ``root``."""
    raw = root / "MNIST" / "raw"
    pixels = np.fromfile(raw / "train-images-idx3-ubyte", np.uint8, offset=16).reshape(-1, 1, 28, 28)
    labels = np.fromfile(raw / "train-labels-idx1-ubyte", np.uint8, offset=8).astype(np.int64)
    torch.manual_seed(seed)
    model = {name: value.clone() for name, value in MnistCnn().state_dict().items()}
    rate = lr
    for round_number in range(1, rounds + 1):
        sums = {name: torch.zeros(value.shape, dtype=torch.float64) for name, value in model.items()}
        weights = 0
        for worker in random.sample(list(HELD), k=len(HELD)):  # the order of arrival must not show
            own = np.flatnonzero(np.isin(labels, HELD[worker]))
            weight = len(own) if weighted else 1
            trained = train_once(model, pixels[own], labels[own], order_seed(seed, worker, round_number), rate)
            for name, value in trained.items():
                sums[name] += weight * value.double()
            weights += weight
        model = {name: (total / weights).float() for name, total in sums.items()}
        rate = max(0.98 * rate, 0.01 * lr)
    return model


def train_once(
    model: dict[str, torch.Tensor], pixels: np.ndarray, labels: np.ndarray, seed: int, lr: float
) -> dict[str, torch.Tensor]:
    """One worker's model after its ten batches."""
    module = MnistCnn()
    module.load_state_dict(model)
    optimizer = torch.optim.SGD(module.parameters(), lr=lr)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    for batch in order.split(32)[:10]:
        chosen = batch.numpy()
        inputs = (pixels[chosen].astype(np.float32) / np.float32(255) - np.float32(0.1307)) / np.float32(0.3081)
        optimizer.zero_grad()
        nll_loss(module(torch.from_numpy(inputs)), torch.from_numpy(labels[chosen])).backward()
        optimizer.step()
    return module.state_dict()


def order_seed(seed: int, worker: str, round_number: int) -> int:
    """The first 8 bytes, big-endian, of the sha256 of ``seed/worker/round``."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{worker}/{round_number}".encode()).digest()[:8], "big")
