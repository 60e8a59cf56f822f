"""One figure of the MistNet benchmark, in a process of its own: ``python -m benchmarks.mistnet.training_case CASE``.

Training is the product's: its strategies, tasks and stores, without links between them. Every case begins with the
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
"""Two of eight shards, sorted by label, for each worker: three or four of ten labels."""
_ALL = Policy(encodings=("*",), labels="clear")


@dataclass(frozen=True)
class TrainingCase:
    """A model, its data and the way of training it; an instance is one row of the table."""

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
        """MistNet with the settings of this case."""
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
    """On the test set, from 0 to 1; MistNet's features pass through the encoding without noise."""
    settings = EvalSettings(model=case.model, loss=case.training.loss, dataset=case.dataset, cuda=case.cuda)
    if case.way == "mistnet":
        settings = case.algorithm.configure_evaluation(settings)
    work = TaskContext("testing", case.dataset, test)
    found = evaluation.evaluate(work.build_eval_model(settings, model), work, settings).accuracy
    assert found is not None
    return found


def main(case: TrainingCase) -> None:
    """Load, train, score."""
    data, test = (loading.load_dataset(case.dataset, case.data_dir, train) for train in (True, False))
    model = pretrained_file.load_pretrained(Path(case.pretrained)).model
    begun = time.monotonic()
    found = accuracy(case, test, trained(case, data, model))
    print(f"accuracy {found:.4f} seconds {time.monotonic() - begun:.1f}")


if __name__ == "__main__":
    assert plugin.PRIVATE  # imported for what it registers
    torch.set_num_threads(1)
    main(TrainingCase(**json.loads(sys.argv[1])))
