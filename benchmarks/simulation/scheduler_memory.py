"""A strategy alone, fed with reports that are made one at a time.

``python -m benchmarks.simulation.scheduler_memory WORKERS ROUNDS`` runs it.

No links, no loop, no disk: what grows here with the number of workers is the strategy's own. Prints ``bytes`` with the
peak of the process's memory (VmHWM) before the first round, and with that in the end.
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
    """Peak memory of this process so far, in bytes."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None, "this is no Linux"
    return int(found[1]) * 1024


def feed(count: int, rounds: int) -> None:
    """Run so many rounds; each report is made as its worker answers, and is gone when the strategy has taken it."""
    names = tuple(f"w{number:04}" for number in range(1, count + 1))
    strategy = SynchronousScheduler(
        Noop(TrainSettings(model=MODEL)), MeanAggregator(), AllSampler(), ScheduleConfig(names, rounds, 1, count)
    )
    model = copy_to_cpu(build_model(MODEL, 1).state_dict())
    print("bytes", peak(), flush=True)
    state, orders = strategy.start(model, names)
    while orders:
        asked, orders = orders, ()
        for order in asked:
            state, _ = strategy.react(state, ResponseTimed(worker=order.worker, seconds=0.1))
            tensors = {name: tensor + 0.001 for name, tensor in order.tensors.items()}
            report = TaskResult(
                request_id=order.request_id, worker=order.worker, round=order.round, num_examples=600, tensors=tensors
            )
            state, orders = strategy.react(state, report)
    assert strategy.version(state) == rounds, "the strategy has not come to its end"
    print("bytes", peak(), flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    feed(*map(int, sys.argv[1:]))
