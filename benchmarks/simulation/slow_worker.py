"""A worker whose training takes a given time.

``python -m benchmarks.simulation.slow_worker ID SHARE SECONDS DATA_DIR`` starts it.

It holds share SHARE (such as 0/6) of an even split of MNIST. It trains as any worker does, then sleeps until the
request has taken SECONDS. Its speed therefore does not depend on the load by the other processes. It trains one batch
before it serves, since torch imports many modules on the first batch.
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
    """Return a task that does the same as ``task``, but takes at least ``seconds`` unless it is stopped."""

    def carry_out(request: TaskRequest, context: TaskContext) -> TaskResult:
        until = time.monotonic() + seconds
        result = task(request, context)
        context.stop.wait(max(0.0, until - time.monotonic()))
        return result

    return carry_out


async def serve_slowly(node: str, share: str, seconds: float, data_dir: Path) -> None:
    """Serve on a free port of the loopback interface until the process is ended."""
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
