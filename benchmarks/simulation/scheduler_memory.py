"""Memory of a scheduler without a coordinator, which receives results that are made one at a time.

``python -m benchmarks.simulation.scheduler_memory WORKERS ROUNDS`` runs it.

It uses no links, no event loop and no files. Memory that grows with the number of workers is therefore the scheduler's
own. Two lines ``bytes N`` contain the peak memory of the process (VmHWM), before the first round and at the end.
"""

import re
import sys
from pathlib import Path

import torch

from benchmarks.harness.noop_algorithm import Noop
from fedws.core.task_settings import TrainSettings
from fedws.core.tensors import copy_to_cpu
from fedws.protocol.messages import TaskResult
from fedws.scheduling.events import ResponseTimed
from fedws.scheduling.samplers.all import AllSampler
from fedws.scheduling.schedule_config import ScheduleConfig
from fedws.scheduling.synchronous import SynchronousScheduler
from fedws.training.model_building import build_model
from fedws.updates.aggregators.mean import MeanAggregator

MODEL = "mnist_cnn"


def peak() -> int:
    """Return the peak memory of this process so far in bytes (VmHWM, Linux only)."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None, "VmHWM not found in /proc/self/status; run this benchmark on Linux"
    return int(found[1]) * 1024


def feed(count: int, rounds: int) -> None:
    """Run ``rounds`` rounds with ``count`` workers, and print the peak memory before and after them.

    Each result is made when its worker answers, and dropped when the scheduler has processed it.
    """
    names = tuple(f"w{number:04}" for number in range(1, count + 1))
    scheduler = SynchronousScheduler(
        Noop(TrainSettings(model=MODEL)), MeanAggregator(), AllSampler(), ScheduleConfig(names, rounds, 1, count)
    )
    model = copy_to_cpu(build_model(MODEL, 1).state_dict())
    print("bytes", peak(), flush=True)
    state, requests = scheduler.start(model, names)
    while requests:
        pending, requests = requests, ()
        for request in pending:
            state, _ = scheduler.react(state, ResponseTimed(worker=request.worker, seconds=0.1))
            tensors = {name: tensor + 0.001 for name, tensor in request.tensors.items()}
            result = TaskResult(
                request_id=request.request_id,
                worker=request.worker,
                round=request.round,
                num_examples=600,
                tensors=tensors,
            )
            state, requests = scheduler.react(state, result)
    assert scheduler.version(state) == rounds, "the scheduler has not completed all rounds"
    print("bytes", peak(), flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    feed(*map(int, sys.argv[1:]))
