"""A run in this process: any strategy with its workers, one order after the other, without links and without a log."""

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
    strategy: Scheduler[Any], workers: Mapping[str, Worker], initial: Tensors, own: Mapping[str, Task], folder: Path
) -> Tensors:
    """The model that comes of it; features are stored in ``folder``. Raises RuntimeError when an order fails.

    ``own`` are the tasks of the coordinator's own node.
    """
    for worker in workers.values():
        worker.start_run(RunClaim("benchmark"))
    store = FeatureStore(folder)
    state, orders = strategy.start(initial, {name: _declared(worker) for name, worker in workers.items()})
    waiting = deque(orders)
    while waiting:
        order = waiting.popleft()
        if order.worker == DEFAULT_COORDINATOR_ID:
            node = Worker(
                DEFAULT_COORDINATOR_ID,
                "features",
                store.load_features(),
                labels=[],
                tasks=own,
                policy=Policy(min_samples=0),
            )
        else:
            node = workers[order.worker]
        answer = node.execute(order)
        if isinstance(answer, TaskFailure):
            raise RuntimeError(f"{order.task} failed on {order.worker}: {answer.reason}")
        if isinstance(strategy, CollectThenTrainScheduler) and (place := strategy.spool(state, answer)) is not None:
            store.save_chunk(*place, answer.tensors)
        state, orders = strategy.react(state, answer)
        waiting.extend(orders)
    if strategy.failure(state):
        raise RuntimeError(strategy.failure(state))
    return strategy.model(state)


def _declared(worker: Worker) -> int:
    """How many samples a worker declares."""
    welcome = worker.handle_hello(Hello(run="benchmark", node=worker.node, protocol=PROTOCOL_VERSION))
    assert isinstance(welcome, Welcome)
    return welcome.num_examples
