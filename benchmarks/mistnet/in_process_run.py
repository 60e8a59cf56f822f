"""A run in this process: any scheduler with its workers, one request at a time, without links and without a log."""

from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedws.core.tensors import Tensors
from fedws.node.worker import Worker
from fedws.privacy.policy import Policy
from fedws.protocol.encoder import PROTOCOL_VERSION
from fedws.protocol.messages import DEFAULT_COORDINATOR_ID, Hello, TaskFailure, Welcome
from fedws.protocol.run_claim import RunClaim
from fedws.scheduling.base import Scheduler
from fedws.split_learning.feature_store import FeatureStore
from fedws.split_learning.scheduler import CollectThenTrainScheduler
from fedws.training.base import Task


def run(
    scheduler: Scheduler[Any], workers: Mapping[str, Worker], initial: Tensors, own: Mapping[str, Task], folder: Path
) -> Tensors:
    """Run ``scheduler`` to its end, and return the resulting model.

    ``own`` has the tasks of the coordinator's own node. Features are stored in ``folder``. Raise RuntimeError if a
    request or the run fails.
    """
    for worker in workers.values():
        worker.start_run(RunClaim("benchmark"))
    store = FeatureStore(folder)
    state, requests = scheduler.start(initial, {name: _declared(worker) for name, worker in workers.items()})
    waiting = deque(requests)
    while waiting:
        request = waiting.popleft()
        if request.worker == DEFAULT_COORDINATOR_ID:
            node = Worker(
                DEFAULT_COORDINATOR_ID,
                "features",
                store.load_features(),
                labels=[],
                tasks=own,
                policy=Policy(min_samples=0),
            )
        else:
            node = workers[request.worker]
        answer = node.execute(request)
        if isinstance(answer, TaskFailure):
            raise RuntimeError(f"{request.task} failed on {request.worker}: {answer.reason}")
        if isinstance(scheduler, CollectThenTrainScheduler) and (place := scheduler.spool(state, answer)) is not None:
            store.save_chunk(*place, answer.tensors)
        state, requests = scheduler.react(state, answer)
        waiting.extend(requests)
    if scheduler.failure(state):
        raise RuntimeError(scheduler.failure(state))
    return scheduler.model(state)


def _declared(worker: Worker) -> int:
    """Return the number of samples that a worker declares."""
    welcome = worker.handle_hello(Hello(run="benchmark", node=worker.node, protocol=PROTOCOL_VERSION))
    assert isinstance(welcome, Welcome)
    return welcome.num_examples
