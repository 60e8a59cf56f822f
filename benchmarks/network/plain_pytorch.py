"""The floor of the MNIST job: plain PyTorch in three processes of one thread, without fedws and a network.

Each process holds the digits of one worker, normalised in advance. It trains its rounds in place, in shared memory.
Process 0 computes the mean between two barriers. The 20 evaluations are split into batches of 128, which the processes
take from one counter. There are two schedules:

- ``after``: the processes evaluate right after each round whose models are to be evaluated.
- ``fill``: a process evaluates while it waits for the others to finish a round, and the rest follows at the end.

``python -m benchmarks.network.plain_pytorch DATA`` runs it. It prints "ready" when every process is set up, "score
INDEX CORRECT" for each evaluation, and "done SECONDS" with the time of all rounds and evaluations.
"""

import argparse
import gzip
import time
from multiprocessing.synchronize import Barrier, Lock
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import multiprocessing as mp
from torch.nn import functional

DIGITS = [(0, 1, 2, 3), (4, 5, 6), (7, 8, 9)]
BATCH, BATCHES, SCORE_BATCH, TEST = 32, 10, 128, 10_000
PIECES = -(-TEST // SCORE_BATCH)
PATIENCE = 600.0


class Shared(NamedTuple):
    """The data that the processes share."""

    workers: torch.Tensor  # [3, parameters]: process K trains in row K
    federated: torch.Tensor  # [parameters]
    scored: torch.Tensor  # [evaluations, 4, parameters]: models to evaluate, of three workers and their mean
    correct: torch.Tensor  # [3, evaluations * 4]: correct predictions that each process counts
    finished: torch.Tensor  # [3]: last round that each process has trained
    next: torch.Tensor  # [1]: index of the next batch of the evaluations that no process has taken
    lock: Lock
    barrier: Barrier


class Net(torch.nn.Module):
    """The network of the demo, with all parameters in one flat tensor."""

    def __init__(self, flat: torch.Tensor | None = None) -> None:
        super().__init__()
        self.conv1 = torch.nn.Conv2d(1, 20, 5)
        self.conv2 = torch.nn.Conv2d(20, 50, 5)
        self.fc1 = torch.nn.Linear(800, 500)
        self.fc2 = torch.nn.Linear(500, 10)
        sizes = [parameter.numel() for parameter in self.parameters()]
        self.flat = torch.cat([p.detach().flatten() for p in self.parameters()]) if flat is None else flat
        for parameter, piece in zip(self.parameters(), self.flat.split(sizes), strict=True):
            parameter.data = piece.view_as(parameter)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the log-probabilities of images.

        The memory layout is the one of fedws' model; without it, this took twice the time.
        """
        x = x.to(memory_format=torch.channels_last)
        x = functional.max_pool2d(functional.relu(self.conv1(x)), 2)
        x = functional.max_pool2d(functional.relu(self.conv2(x)), 2)
        return functional.log_softmax(self.fc2(functional.relu(self.fc1(x.flatten(1)))), dim=1)


def read(folder: Path, name: str) -> torch.Tensor:
    """Return the content of an IDX file, plain or compressed with gzip, as a tensor of its shape."""
    path = folder / "MNIST" / "raw" / name
    data = bytearray(path.read_bytes() if path.exists() else gzip.decompress(Path(f"{path}.gz").read_bytes()))
    shape = [int.from_bytes(data[4 * i + 4 : 4 * i + 8]) for i in range(data[3])]
    return torch.frombuffer(data, dtype=torch.uint8, offset=4 + 4 * data[3]).view(shape)


def load(folder: Path, kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the normalised images and the labels of one part of the data set."""
    images = read(folder, f"{kind}-images-idx3-ubyte").unsqueeze(1).float().div_(255).sub_(0.1307).div_(0.3081)
    return images, read(folder, f"{kind}-labels-idx1-ubyte").long()


class Scorer:
    """A part of the evaluations: it takes one batch at a time, and counts correct predictions."""

    def __init__(self, mine: int, shared: Shared, folder: Path) -> None:
        self.mine, self.shared = mine, shared
        self.images, self.labels = load(folder, "t10k")
        self.net, self.model = Net().eval(), -1

    @torch.inference_mode()
    def score(self, due: int) -> bool:
        """Evaluate one batch of the first ``due`` models; return False if all their batches are taken."""
        with self.shared.lock:
            piece = int(self.shared.next)
            if piece >= due * PIECES:
                return False
            self.shared.next.add_(1)
        model, batch = divmod(piece, PIECES)
        if model != self.model:
            self.net.flat.copy_(self.shared.scored.view(-1, len(self.net.flat))[model])
            self.model = model
        cut = slice(batch * SCORE_BATCH, (batch + 1) * SCORE_BATCH)
        outputs = self.net(self.images[cut])
        functional.nll_loss(outputs, self.labels[cut])
        self.shared.correct[self.mine, model] += (outputs.argmax(1) == self.labels[cut]).sum()
        return True


def work(mine: int, folder: Path, rounds: int, fill: bool, shared: Shared) -> None:
    """Run one of the three processes."""
    torch.set_num_threads(1)
    torch.manual_seed(mine)
    images, labels = load(folder, "train")
    held = torch.isin(labels, torch.tensor(DIGITS[mine]))
    images, labels = images[held], labels[held]
    net = Net(shared.workers[mine])
    scorer = Scorer(mine, shared, folder)
    lr, evaluations = 0.1, 0
    for count in (BATCH, SCORE_BATCH):  # the first call with each batch size sets up kernels
        functional.nll_loss(net(images[:count]), labels[:count]).backward()
    shared.barrier.wait(PATIENCE)
    begun = time.monotonic()
    if mine == 0:
        print("ready", flush=True)
    for round_number in range(1, rounds + 1):
        net.flat.copy_(shared.federated)
        optimizer = torch.optim.SGD(net.parameters(), lr)
        for indices in torch.randperm(len(labels))[: BATCH * BATCHES].split(BATCH):
            optimizer.zero_grad()
            functional.nll_loss(net(images[indices]), labels[indices]).backward()
            optimizer.step()
        lr = max(0.98 * lr, 0.001)
        shared.finished[mine] = round_number
        while fill and int(shared.finished.min()) < round_number and scorer.score(evaluations * 4):
            pass
        shared.barrier.wait(PATIENCE)
        due = (round_number - 1) % 10 == 0 or round_number == rounds
        if mine == 0:
            torch.mean(shared.workers, 0, out=shared.federated)
            if due:
                shared.scored[evaluations, :3] = shared.workers
                shared.scored[evaluations, 3] = shared.federated
        shared.barrier.wait(PATIENCE)
        evaluations += due
        while ((due and not fill) or round_number == rounds) and scorer.score(evaluations * 4):
            pass
    shared.barrier.wait(PATIENCE)
    if mine == 0:
        seconds = time.monotonic() - begun
        for number, correct in enumerate(shared.correct.sum(0).tolist()):
            print("score", number, correct)
        print("done", seconds, flush=True)


def main() -> None:
    """Start two further processes, and run the three."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.network.plain_pytorch")
    parser.add_argument("data", type=Path, help="directory of the data sets")
    parser.add_argument("--rounds", type=int, default=40, help="number of rounds (40)")
    parser.add_argument("--schedule", choices=["after", "fill"], default="fill", help="time of the evaluations (fill)")
    given = parser.parse_args()
    torch.manual_seed(1)
    start = Net().flat
    evaluations = len({*range(1, given.rounds + 1, 10), given.rounds})

    def zeros(*shape: int, **how: Any) -> torch.Tensor:
        tensor: torch.Tensor = torch.zeros(*shape, **how).share_memory_()
        return tensor

    context = mp.get_context("spawn")
    shared = Shared(
        zeros(3, len(start)),
        start.clone().share_memory_(),
        zeros(evaluations, 4, len(start)),
        zeros(3, evaluations * 4, dtype=torch.int64),
        zeros(3, dtype=torch.int64),
        zeros(1, dtype=torch.int64),
        context.Lock(),
        context.Barrier(3),
    )
    settings = (given.data, given.rounds, given.schedule == "fill", shared)
    for other in (1, 2):
        context.Process(target=work, args=(other, *settings), daemon=True).start()
    work(0, *settings)


if __name__ == "__main__":
    main()
