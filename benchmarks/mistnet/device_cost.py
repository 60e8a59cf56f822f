"""What a worker has to bear: ``python -m benchmarks.mistnet.device_cost extract|train CASE SAMPLES``.

A worker with so many samples carries out one order: to extract and encode their features, or to train the whole model
on them for an epoch. The samples are noise: neither time nor memory depends on what they show, and no memory is left
over from reading files. Prints ``seconds`` of that order, and in bytes ``ready``, the memory of the process before it,
and ``peak``, the most during it. Linux only: the kernel is told to forget earlier peaks.
"""

import json
import sys
import time
from pathlib import Path

import psutil
import torch

from benchmarks.mistnet.training_case import WORKERS, TrainingCase
from benchmarks.simulation.scheduler_memory import peak
from fedws.algorithms.fedavg import FedAvg
from fedws.core.tensors import Tensors
from fedws.data.samples import ImageDataset
from fedws.node.worker import Worker
from fedws.protocol.messages import TaskFailure, TaskRequest
from fedws.protocol.run_claim import RunClaim
from fedws.scheduling.base import TaskSpec
from fedws.split_learning import pretrained_file
from fedws.training import model_building


def ask(what: str, case: TrainingCase, model: Tensors, classes: int) -> TaskSpec:
    """What a coordinator would ask."""
    if what == "train":
        return FedAvg(case.training).configure(model, WORKERS[0], 1)
    wanted: TaskSpec = case.algorithm.configure_extraction(model, {}, classes, send=True)
    return wanted


def bear(what: str, case: TrainingCase, samples: int) -> tuple[float, int, int]:
    """Seconds, and bytes before and at the peak. Raises RuntimeError when the order fails."""
    pixels = torch.randint(256, (samples, 3, 32, 32), dtype=torch.uint8)
    data = ImageDataset(pixels, torch.randint(10, (samples,)), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    worker = Worker(WORKERS[0], case.dataset, data)
    worker.start_run(RunClaim("benchmark"))
    found = pretrained_file.load_pretrained(Path(case.pretrained))
    wanted = ask(what, case, found.model, found.info.num_classes)
    model_building.build_model(case.model, 1)  # what it imports is there before it is measured
    order = TaskRequest(
        request_id="1/w1",
        worker=WORKERS[0],
        round=1,
        task=wanted.task,
        settings=wanted.settings,
        tensors=wanted.tensors,
    )
    Path("/proc/self/clear_refs").write_text("5")
    ready, begun = psutil.Process().memory_info().rss, time.monotonic()
    answer = worker.execute(order)
    seconds = time.monotonic() - begun
    if isinstance(answer, TaskFailure):
        raise RuntimeError(answer.reason)
    return seconds, ready, peak()


if __name__ == "__main__":
    torch.set_num_threads(1)
    spent, before, most = bear(sys.argv[1], TrainingCase(**json.loads(sys.argv[2])), int(sys.argv[3]))
    print(f"seconds {spent:.2f} ready {before} peak {most}")
