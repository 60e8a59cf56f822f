"""Many workers in one process, which train nothing, as peers of a coordinator.

``python -m benchmarks.network.idle_workers FIRST COUNT SECONDS [URL]`` starts them.

A worker answers a request at a random moment within SECONDS after it arrives, or immediately if SECONDS is 0. With URL,
the workers dial out to that URL; otherwise each serves at a URL of its own. Each worker prints ``worker ID=URL`` when
it is ready.
"""

import asyncio
import contextlib
import random
import sys
import time

import torch
import uvloop

from benchmarks.harness.noop_algorithm import fit
from fedws import ImageDataset, TaskContext, TaskRequest, TaskResult, Worker, join_run, serve


async def crowd(first: int, count: int, seconds: float, url: str = "") -> None:
    """Serve ``count`` workers on free ports of the loopback interface, or dial out to ``url``, until it is ended."""

    def answer(request: TaskRequest, context: TaskContext) -> TaskResult:
        time.sleep(random.uniform(0, seconds))
        return fit(request, context)

    data = ImageDataset(torch.zeros(1, 1, 28, 28, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64), (0.0,), (1.0,))
    async with contextlib.AsyncExitStack() as stack:
        for number in range(first, first + count):
            worker = Worker(f"w{number:04}", "mnist", data, tasks={"noop.fit": answer})
            there = join_run(worker, url) if url else serve(worker, "ws://127.0.0.1:0")
            print("worker", f"{worker.node}={await stack.enter_async_context(there)}")
        print("all workers are serving", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    torch.set_num_threads(1)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(crowd(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), *sys.argv[4:]))
