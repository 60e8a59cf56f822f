"""A worker whose training takes a given time.

``python -m benchmarks.simulation.slow_worker ID SHARE SECONDS DATA_DIR`` starts it.

It holds share SHARE (as 0/6) of an even split of MNIST. It trains as any worker does, then sleeps until the request has
taken so many seconds, so that what makes a worker slow here is not what the other processes do to it. One batch is
trained before it serves, since torch imports much when it first does.
"""

import asyncio
import sys
import time
from pathlib import Path

import torch
import uvloop

from fedws import TaskContext, TaskRequest, TaskResult, TrainSettings, Worker, serve, train
from fedws.core.registry import find_piece
from fedws.data.loading import load_dataset
from fedws.data.partitioning import parse_share
from fedws.data.partitions.iid import iid
from fedws.data.samples import SampleSubset
from fedws.data.targets import find_labels
from fedws.training.base import Task
from fedws.training.model_building import build_model

TASKS = ("fedavg.fit", "fedasync.fit", "fedbuff.fit")


def paced(task: Task, seconds: float) -> Task:
    """The same task, taking at least so many seconds unless it is told to stop."""

    def carry_out(order: TaskRequest, workspace: TaskContext) -> TaskResult:
        until = time.monotonic() + seconds
        report = task(order, workspace)
        workspace.stop.wait(max(0.0, until - time.monotonic()))
        return report

    return carry_out


async def serve_slowly(node: str, share: str, seconds: float, data_dir: Path) -> None:
    """Serve on a free port of the loopback, until ended."""
    data = load_dataset("mnist", str(data_dir), train=True)
    targets = find_labels(data)
    assert targets is not None
    number, count = parse_share(share)
    part = SampleSubset(data, torch.from_numpy(iid(targets.numpy(), count)[number]))
    train(build_model("mlp", 1), TaskContext(node, "mnist", part), TrainSettings(model="mlp", max_local_batches=1), 1)
    tasks = {name: paced(find_piece("task", name), seconds) for name in TASKS}
    async with serve(Worker(node, "mnist", part, tasks=tasks), "ws://127.0.0.1:0") as url:
        print("serving", url, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    torch.set_num_threads(1)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve_slowly(sys.argv[1], sys.argv[2], float(sys.argv[3]), Path(sys.argv[4])))
