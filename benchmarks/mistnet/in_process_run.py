"""A run in this process: any strategy with its workers, one order after the other, without links and without a log."""

from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedws.core.tensors import Tensors
from fedws.node.worker import Worker
from fedws.privacy.policy import Policy
from fedws.protocol.encoder import VERSION
from fedws.protocol.messages import COORDINATOR, Failure, Hello, Welcome
from fedws.protocol.run_claim import Claim
from fedws.scheduling.base import Strategy
from fedws.split_learning.feature_store import FeatureStore
from fedws.split_learning.scheduler import Gathering
from fedws.training.base import Task


def run(
    strategy: Strategy[Any], workers: Mapping[str, Worker], initial: Tensors, own: Mapping[str, Task], folder: Path
) -> Tensors:
    """The model that comes of it; features are stored in ``folder``. Raises RuntimeError when an order fails.

    ``own`` are the tasks of the coordinator's own node.
    """
    for worker in workers.values():
        worker.begin(Claim("benchmark"))
    store = FeatureStore(folder)
    state, orders = strategy.start(initial, {name: _declared(worker) for name, worker in workers.items()})
    waiting = deque(orders)
    while waiting:
        order = waiting.popleft()
        if order.worker == COORDINATOR:
            node = Worker(COORDINATOR, "features", store.records(), labels=[], tasks=own, policy=Policy(samples=0))
        else:
            node = workers[order.worker]
        answer = node.answer(order)
        if isinstance(answer, Failure):
            raise RuntimeError(f"{order.task} failed on {order.worker}: {answer.reason}")
        if isinstance(strategy, Gathering) and (place := strategy.chunk(state, answer)) is not None:
            store.put(*place, answer.tensors)
        state, orders = strategy.react(state, answer)
        waiting.extend(orders)
    if strategy.failure(state):
        raise RuntimeError(strategy.failure(state))
    return strategy.model(state)


def _declared(worker: Worker) -> int:
    """How many samples a worker declares."""
    welcome = worker.greet(Hello(run="benchmark", node=worker.node, protocol=VERSION))
    assert isinstance(welcome, Welcome)
    return welcome.samples
