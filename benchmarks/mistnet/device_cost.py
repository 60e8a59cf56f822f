"""The load of one request on a worker: ``python -m benchmarks.mistnet.device_cost extract|train CASE SAMPLES``.

The worker has SAMPLES samples. It extracts and encodes their features, or trains the whole model on them for an epoch.
The samples are noise, because time and memory do not depend on their content. Reading files would leave memory
allocated.

The program prints ``seconds`` of the request, and two sizes in bytes: ``ready``, the memory of the process before the
request, and ``peak``, its peak memory during the request. It runs on Linux only, because it resets the kernel's record
of the peak.
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


def build_task(what: str, case: TrainingCase, model: Tensors, classes: int) -> TaskSpec:
    """Return the task that a coordinator requests."""
    if what == "train":
        return FedAvg(case.training).configure(model, WORKERS[0], 1)
    task: TaskSpec = case.algorithm.configure_extraction(model, {}, classes, send=True)
    return task


def measure_request(what: str, case: TrainingCase, samples: int) -> tuple[float, int, int]:
    """Carry out the request; return its seconds, and the memory in bytes before it and at its peak.

    Raise RuntimeError if the request fails.
    """
    pixels = torch.randint(256, (samples, 3, 32, 32), dtype=torch.uint8)
    data = ImageDataset(pixels, torch.randint(10, (samples,)), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    worker = Worker(WORKERS[0], case.dataset, data)
    worker.start_run(RunClaim("benchmark"))
    found = pretrained_file.load_pretrained(Path(case.pretrained))
    task = build_task(what, case, found.model, found.info.num_classes)
    model_building.build_model(case.model, 1)  # so that its imports do not count
    request = TaskRequest(
        request_id="1/w1",
        worker=WORKERS[0],
        round=1,
        task=task.task,
        settings=task.settings,
        tensors=task.tensors,
    )
    Path("/proc/self/clear_refs").write_text("5")
    ready, begun = psutil.Process().memory_info().rss, time.monotonic()
    answer = worker.execute(request)
    seconds = time.monotonic() - begun
    if isinstance(answer, TaskFailure):
        raise RuntimeError(answer.reason)
    return seconds, ready, peak()


if __name__ == "__main__":
    torch.set_num_threads(1)
    spent, before, most = measure_request(sys.argv[1], TrainingCase(**json.loads(sys.argv[2])), int(sys.argv[3]))
    print(f"seconds {spent:.2f} ready {before} peak {most}")
