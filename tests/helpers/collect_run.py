"""A run of a collect-then-train scheduler, whose events the test makes; real workers answer its requests."""

import copy
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any, Literal

from fedws.coordinator.setup import prepare_run
from fedws.core import registry
from fedws.core.errors import RejectedUpdate
from fedws.core.plan import build_plan
from fedws.core.tensors import find_mismatch
from fedws.node.worker import Worker
from fedws.privacy.policy import Policy
from fedws.protocol.messages import DEFAULT_COORDINATOR_ID, TaskFailure, TaskRequest, TaskResult, build_failure
from fedws.protocol.run_claim import RunClaim
from fedws.scheduling.events import Event, WorkerConnected, WorkerDisconnected
from fedws.split_learning.feature_store import FeatureStore
from fedws.split_learning.scheduler import CollectThenTrainScheduler
from tests.helpers.federation import WORKERS, Points
from tests.helpers.support import sent_over

EPOCHS = 2
OPTIONS = {"mistnet": "mistnet:split_at=relu,public_dataset=points,pretrain_epochs=2"}
Kind = Literal["refused", "failed", "rejected", "lost"]


class Run:
    """A run whose events the test makes; it writes the feature store as the driver does."""

    def __init__(self, name: str, folder: Path, here: Sequence[str] = WORKERS, **more: Any) -> None:
        basis = {"dataset": "points", "model": "points_net", "rounds": EPOCHS}
        workers = {worker: f"memory://{worker}" for worker in WORKERS}
        plan = build_plan({"workers": workers, "algorithm": OPTIONS[name], **basis, **more})
        _, strategy, self.initial = prepare_run(plan)
        assert isinstance(strategy, CollectThenTrainScheduler)
        self.strategy = strategy
        self.store = FeatureStore(folder / "features")
        self.nodes = {worker: Worker(worker, "points", Points(Path(), True)) for worker in WORKERS}
        for node in self.nodes.values():
            node.start_run(RunClaim("run", "lab"))
        self.own = registry.find_piece("algorithm", name).server_tasks
        self.here = set(here)
        self.open: dict[str, TaskRequest] = {}
        self.orders: list[TaskRequest] = []
        self.ids: set[str] = set()
        self.stored: dict[tuple[int, int], Any] = {}
        self.excluded: set[str] = set()
        self.lines: list[str] = []
        self.state, orders = self.strategy.start(self.initial, self._declared())
        self.saved = copy.deepcopy(self.state)
        """State from which a coordinator that is killed now resumes, with the stored features."""
        self._hold(orders)

    @property
    def over(self) -> bool:
        return self.strategy.version(self.state) >= EPOCHS or bool(self.strategy.failure(self.state))

    def answer(self, order: TaskRequest) -> TaskResult | TaskFailure:
        """Return the node's own answer; request and answer are encoded and decoded on the way."""
        node = self.nodes.get(order.worker)
        if node is None:
            records, policy = self.store.load_features(), Policy(min_samples=0)
            node = Worker(DEFAULT_COORDINATOR_ID, "features", records, labels=[], tasks=self.own, policy=policy)
        answer = sent_over(node.execute(sent_over(order)))
        assert isinstance(answer, TaskResult | TaskFailure)
        return answer

    def take(self, event: Event) -> None:
        """Store the features of an event, and pass it to the scheduler."""
        if isinstance(event, TaskResult | TaskFailure):
            self.open.pop(event.request_id, None)
        if isinstance(event, WorkerConnected):
            self.here.add(event.worker)
        elif isinstance(event, WorkerDisconnected) or (isinstance(event, TaskFailure) and event.kind == "lost"):
            self.here.discard(event.worker)
        if isinstance(event, TaskResult):
            try:
                place = self.strategy.spool(self.state, event)
            except RejectedUpdate as error:
                event, place = build_failure(event, "rejected", str(error)), None
            if place is not None:
                assert isinstance(event, TaskResult)
                bits = {name: tensor.tolist() for name, tensor in event.tensors.items()}
                assert self.stored.setdefault(place, bits) == bits, "the same bits, whenever they come"
                self.store.save_chunk(*place, event.tensors)
        version, model = self.strategy.version(self.state), self.strategy.model(self.state)
        before = self.state
        self.state, orders = self.strategy.react(before, event)
        if self.state.must_checkpoint(before) or self.strategy.version(self.state) > version:
            self.saved = copy.deepcopy(self.state)
        assert version <= self.strategy.version(self.state) <= version + 1
        assert find_mismatch(self.strategy.model(self.state), model) == ""
        self._hold(orders)

    def resume(self) -> None:
        """Kill the coordinator, and resume from what it has saved."""
        self.open, self.ids = {}, set()
        state = copy.deepcopy(self.saved).with_stored_chunks(self.store.count_chunks())
        self.state, orders = self.strategy.resume(state, self._declared())
        self._hold(orders)

    def _declared(self) -> dict[str, int]:
        """Return the connected workers, with the number of samples that each declares."""
        return {worker: len(Points(Path(), True)) for worker in sorted(self.here)}

    def finish(self, random: Random) -> "Run":
        """Let all workers answer, in any order."""
        while self.open:
            self.take(self.answer(self.open[random.choice(sorted(self.open))]))
        return self

    def _hold(self, orders: Sequence[TaskRequest]) -> None:
        said = self.strategy.log_lines(self.state)
        assert all(line and line.isprintable() for line in said)
        self.lines += said
        self.excluded |= {worker for worker in WORKERS if any(line.startswith(f"{worker} is excl") for line in said)}
        busy = {order.worker for order in self.open.values()}
        for order in orders:
            assert order.request_id not in self.ids, "an id is used once on a link"
            assert order.worker not in busy, "a busy worker gets no request"
            assert order.worker in self.here | {DEFAULT_COORDINATOR_ID}, "only connected workers get requests"
            assert order.worker not in self.excluded, "an excluded worker gets no request"
            assert order.task in (self.own if order.worker == DEFAULT_COORDINATOR_ID else registry.list_pieces("task"))
            busy.add(order.worker)
            self.open[order.request_id] = order
            self.ids.add(order.request_id)
            self.orders.append(order)
        assert len(self.orders) < 500, "it makes requests without end"
        awaited = self.strategy.waiting_for(self.state)
        assert not set(awaited) & (self.here | self.excluded)
        if self.over:
            assert not orders and not awaited
        else:
            assert self.open or awaited, "a run that continues has an open request or waits for workers"


def failed(order: TaskRequest, kind: Kind) -> TaskFailure:
    return TaskFailure(
        request_id=order.request_id, worker=order.worker, round=order.round, kind=kind, reason="the cable was cut"
    )
