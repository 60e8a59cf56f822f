"""One figure of the MistNet benchmark, in a process of its own: ``python -m benchmarks.mistnet.cell CELL``.

Training is the product's: its strategies, tasks and stores, without links between them. Every cell begins with the
same weights, pretrained on the public part. Prints ``accuracy`` on the test set, and ``seconds`` without the start.
"""

import json
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from benchmarks.mistnet import in_process_run
from benchmarks.mistnet import pieces as pieces
from fedws.algorithms.fedavg import FedAvg
from fedws.algorithms.mistnet import MistNet
from fedws.core import seeds
from fedws.core.plan import EvalSettings, TrainSettings
from fedws.core.registry import build_piece
from fedws.core.tensors import Tensors, copy_to_cpu
from fedws.data import loading
from fedws.data.base import Dataset
from fedws.data.samples import select_samples
from fedws.data.targets import find_labels
from fedws.node.worker import Worker
from fedws.privacy.policy import Policy
from fedws.scheduling.samplers.all import AllSampler
from fedws.scheduling.schedule_config import ScheduleConfig
from fedws.scheduling.synchronous import SynchronousScheduler
from fedws.split_learning import pretrained_file
from fedws.split_learning.scheduler import CollectThenTrainScheduler
from fedws.training import evaluation, local, model_building
from fedws.training.task_context import TaskContext
from fedws.updates.aggregators.mean import MeanAggregator

WORKERS = ("w1", "w2", "w3", "w4")
SKEWED = "shards:2"
"""Two of eight shards, sorted by label, for each worker: three or four of ten labels."""
_ALL = Policy(encodings=("*",), labels="clear")


@dataclass(frozen=True)
class Cell:
    """What is trained, and how."""

    way: Literal["centralised", "fedavg", "mistnet"]
    model: str
    dataset: str
    """The private part."""
    data_dir: str
    pretrained: str
    epochs: int
    """Of MistNet's head, or of the whole model: over all private samples; FedAvg's are rounds."""
    cut: str = ""
    encoding: str = ""
    """With its epsilon."""
    label_epsilon: float | None = None
    """None: labels in clear."""
    partition: str = "iid"
    cuda: bool = False

    @property
    def training(self) -> TrainSettings:
        """The same for every way."""
        return TrainSettings(
            model=self.model,
            optimizer="sgd:momentum=0.9,weight_decay=0.0005",
            dataset=self.dataset,
            lr=0.05,
            lr_decay=0.7,
            batch_size=64,
            max_local_batches=2**31,
            cuda=self.cuda,
        )

    @property
    def algorithm(self) -> Any:
        """MistNet, as this cell wants it."""
        return MistNet(
            self.training,
            split_at=self.cut,
            encoding=self.encoding,
            label_epsilon=self.label_epsilon or 1.0,
            labels="clear" if self.label_epsilon is None else "randomised",
            pretrained_path=self.pretrained,
        )

    def text(self) -> str:
        """For a command line."""
        return json.dumps(asdict(self))


def parts(data: Dataset, partition: str) -> list[Dataset]:
    """The share of each worker."""
    targets = find_labels(data)
    assert targets is not None
    dealt = build_piece("partition", partition, targets.numpy(), len(WORKERS))
    return [select_samples(data, torch.from_numpy(part)) for part in dealt]


def trained(cell: Cell, data: Dataset, model: Tensors) -> Tensors:
    """The model that the cell's way makes of ``model``."""
    if cell.way == "centralised":
        work, module = TaskContext("one", cell.dataset, data), model_building.build_model(cell.model, 1)
        module.load_state_dict(dict(model))
        for epoch in range(1, cell.epochs + 1):
            local.train(module, work, cell.training.for_round(epoch), seeds.request_seed(1, work.node, epoch))
        return copy_to_cpu(module.state_dict())
    shares = zip(WORKERS, parts(data, cell.partition), strict=True)
    workers = {name: Worker(name, cell.dataset, part, policy=_ALL) for name, part in shares}
    terms = ScheduleConfig(WORKERS, cell.epochs, 1, len(WORKERS))
    with tempfile.TemporaryDirectory(prefix="fedws-bench-") as folder:
        if cell.way == "fedavg":
            return in_process_run.run(
                SynchronousScheduler(FedAvg(cell.training), MeanAggregator(), AllSampler(), terms),
                workers,
                model,
                {},
                Path(folder),
            )
        return in_process_run.run(
            CollectThenTrainScheduler(cell.algorithm, terms), workers, model, MistNet.server_tasks, Path(folder)
        )


def accuracy(cell: Cell, test: Dataset, model: Tensors) -> float:
    """On the test set, from 0 to 1; MistNet's features pass through the encoding without noise."""
    settings = EvalSettings(model=cell.model, loss=cell.training.loss, dataset=cell.dataset, cuda=cell.cuda)
    if cell.way == "mistnet":
        settings = cell.algorithm.configure_evaluation(settings)
    work = TaskContext("testing", cell.dataset, test)
    found = evaluation.evaluate(work.build_eval_model(settings, model), work, settings).accuracy
    assert found is not None
    return found


def main(cell: Cell) -> None:
    """Load, train, score."""
    data, test = (loading.load_dataset(cell.dataset, cell.data_dir, train) for train in (True, False))
    model = pretrained_file.load_pretrained(Path(cell.pretrained)).model
    begun = time.monotonic()
    found = accuracy(cell, test, trained(cell, data, model))
    print(f"accuracy {found:.4f} seconds {time.monotonic() - begun:.1f}")


if __name__ == "__main__":
    assert pieces.PRIVATE  # imported for what it registers
    torch.set_num_threads(1)
    main(Cell(**json.loads(sys.argv[1])))
