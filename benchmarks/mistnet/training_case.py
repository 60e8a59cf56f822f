"""One figure of the MistNet benchmark, in its own process: ``python -m benchmarks.mistnet.training_case CASE``.

Training uses the schedulers, tasks and stores of fedws, without links between them. Every case starts from the same
weights, pretrained on the public part. The program prints ``accuracy`` on the test set (0 to 1), and ``seconds``
without the start of the process.
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
from benchmarks.mistnet import plugin as plugin
from fedws.algorithms.fedavg import FedAvg
from fedws.algorithms.mistnet import MistNet
from fedws.core import seeds
from fedws.core.registry import build_piece
from fedws.core.task_settings import EvalSettings, TrainSettings
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
from fedws.training import evaluation, local_training, model_building
from fedws.training.task_context import TaskContext
from fedws.updates.aggregators.mean import MeanAggregator

WORKERS = ("w1", "w2", "w3", "w4")
SKEWED = "shards:2"
"""Partition that gives each worker two of eight shards sorted by label, so three or four of ten labels."""
_ALL = Policy(encodings=("*",), labels="clear")


@dataclass(frozen=True)
class TrainingCase:
    """A model, its data and the way to train it, which is one row of the table."""

    way: Literal["centralised", "fedavg", "mistnet"]
    model: str
    dataset: str
    """Name of the data set with the private samples."""
    data_dir: str
    pretrained: str
    epochs: int
    """Number of epochs over all private samples.

    MistNet trains the head, and the other ways train the whole model. For FedAvg, it is the number of rounds.
    """
    cut: str = ""
    encoding: str = ""
    """Encoding with its epsilon."""
    label_epsilon: float | None = None
    """Epsilon of the labels; None for clear labels."""
    partition: str = "iid"
    cuda: bool = False

    @property
    def training(self) -> TrainSettings:
        """Return the settings of training, which are the same for every way."""
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
        """Return MistNet with the settings of this case."""
        return MistNet(
            self.training,
            split_at=self.cut,
            encoding=self.encoding,
            label_epsilon=self.label_epsilon or 1.0,
            labels="clear" if self.label_epsilon is None else "randomised",
            pretrained_path=self.pretrained,
        )

    def text(self) -> str:
        """Return the case as JSON, for a command line."""
        return json.dumps(asdict(self))


def parts(data: Dataset, partition: str) -> list[Dataset]:
    """Split ``data`` among the workers, and return their shares."""
    targets = find_labels(data)
    assert targets is not None
    dealt = build_piece("partition", partition, targets.numpy(), len(WORKERS))
    return [select_samples(data, torch.from_numpy(part)) for part in dealt]


def trained(case: TrainingCase, data: Dataset, model: Tensors) -> Tensors:
    """Train ``model`` in the way of the case, and return the trained model."""
    if case.way == "centralised":
        work, module = TaskContext("one", case.dataset, data), model_building.build_model(case.model, 1)
        module.load_state_dict(dict(model))
        for epoch in range(1, case.epochs + 1):
            local_training.train(module, work, case.training.for_round(epoch), seeds.request_seed(1, work.node, epoch))
        return copy_to_cpu(module.state_dict())
    shares = zip(WORKERS, parts(data, case.partition), strict=True)
    workers = {name: Worker(name, case.dataset, part, policy=_ALL) for name, part in shares}
    terms = ScheduleConfig(WORKERS, case.epochs, 1, len(WORKERS))
    with tempfile.TemporaryDirectory(prefix="fedws-bench-") as folder:
        if case.way == "fedavg":
            return in_process_run.run(
                SynchronousScheduler(FedAvg(case.training), MeanAggregator(), AllSampler(), terms),
                workers,
                model,
                {},
                Path(folder),
            )
        return in_process_run.run(
            CollectThenTrainScheduler(case.algorithm, terms), workers, model, MistNet.server_tasks, Path(folder)
        )


def accuracy(case: TrainingCase, test: Dataset, model: Tensors) -> float:
    """Return the accuracy of ``model`` on the test set, from 0 to 1.

    MistNet's features pass through the encoding without noise.
    """
    settings = EvalSettings(model=case.model, loss=case.training.loss, dataset=case.dataset, cuda=case.cuda)
    if case.way == "mistnet":
        settings = case.algorithm.configure_evaluation(settings)
    work = TaskContext("testing", case.dataset, test)
    found = evaluation.evaluate(work.build_eval_model(settings, model), work, settings).accuracy
    assert found is not None
    return found


def main(case: TrainingCase) -> None:
    """Load the data and the model, train, and print the accuracy and the time."""
    data, test = (loading.load_dataset(case.dataset, case.data_dir, train) for train in (True, False))
    model = pretrained_file.load_pretrained(Path(case.pretrained)).model
    begun = time.monotonic()
    found = accuracy(case, test, trained(case, data, model))
    print(f"accuracy {found:.4f} seconds {time.monotonic() - begun:.1f}")


if __name__ == "__main__":
    assert plugin.PRIVATE  # imported because it registers the data sets and models
    torch.set_num_threads(1)
    main(TrainingCase(**json.loads(sys.argv[1])))
