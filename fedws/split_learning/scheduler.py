"""Gathers what workers send of their samples once, then has the coordinator train on it: makes a Strategy of any

algorithm of that kind. Training is work for the coordinator's own node, a process beside it, and is ordered and
answered like a worker's.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace

from pydantic import ValidationError

from fedws.core.errors import RejectedUpdate
from fedws.core.plan import explain
from fedws.core.seeds import order_seed
from fedws.core.tensors import Tensors, difference, unfit
from fedws.core.untrusted_text import words
from fedws.protocol.messages import COORDINATOR, Failure, Json, Order, Report
from fedws.scheduling.base import Ask
from fedws.scheduling.events import Deadline, Event
from fedws.scheduling.participants import STRIKES, Roster, Terms, excluded, rejected
from fedws.split_learning.base import GatheringAlgorithm
from fedws.split_learning.scheduler_state import GatheringState
from fedws.split_learning.upload_progress import Delivery, Facts


class Gathering:
    """A :class:`fedws.scheduling.base.Strategy` of a :class:`fedws.scheduling.base.GatheringAlgorithm`.

    A version of the model is an epoch of training. It begins when every worker has delivered, or when a quorum has and
    nobody else is at work or the time is up.
    """

    def __init__(self, algorithm: GatheringAlgorithm, terms: Terms) -> None:
        self._algorithm = algorithm
        self._terms = terms
        self.quorum = terms.quorum
        self.begin, self.scoring = algorithm.begin, algorithm.scoring

    # ------------------------------------------------------------------ what the run sees

    def start(self, model: Tensors, workers: Collection[str]) -> tuple[GatheringState, Sequence[Order]]:
        """Pretrain, or ask all workers."""
        roster = Roster.of(self._terms.workers, workers)
        for line in self._algorithm.remarks():
            roster = roster.say(line)
        basis, deliveries = self.begin(model), {worker: Delivery() for worker in self._terms.workers}
        state = GatheringState(basis.model, roster, deliveries, basis.others, classes=basis.classes, label=basis.label)
        return self._go_on(self._learnt(replace(state, shape=self._shape(basis.sample))))

    def resume(self, state: GatheringState, workers: Collection[str]) -> tuple[GatheringState, Sequence[Order]]:
        """Go on with what is stored; the order that was open is given again."""
        roster = state.roster.again(workers, self._terms.workers)
        added = {worker: Delivery() for worker in self._terms.workers if worker not in state.deliveries}
        return self._go_on(replace(state, roster=roster, deliveries={**state.deliveries, **added}, own=""))

    def react(self, state: GatheringState, event: Event) -> tuple[GatheringState, Sequence[Order]]:
        """Take an event. A report with features was stored before: see :meth:`chunk`."""
        if self._ended(state):
            return state, ()
        if isinstance(event, Deadline):
            if event.version != state.version or state.begun or state.due:
                return state, ()
            late = [worker for worker in state.roster.present() if not state.deliveries[worker].here]
            roster = replace(state.roster, said=()).say(f"The time is up; {', '.join(late) or 'nobody'} may follow")
            return self._go_on(replace(state, roster=roster, due=True))
        if getattr(event, "worker", "") == COORDINATOR:
            return self._own(state, event) if isinstance(event, Report | Failure) else (state, ())
        roster, asked = state.roster.hear(event)
        if roster is state.roster:
            return state, ()
        state = replace(state, roster=roster)
        if isinstance(event, Report) and asked is not None:
            state = self._hear(state, event)
        return self._go_on(state)

    def chunk(self, state: GatheringState, report: Report) -> tuple[int, int] | None:
        """Where the features of a report are to be stored: the worker's number and the chunk's; None if it has none.

        Raises RejectedUpdate when they are not what was asked for.
        """
        delivery = state.deliveries.get(report.worker)
        if delivery is None or report.order not in state.roster.open or delivery.step != "upload":
            return None
        self._algorithm.coded.check(report, delivery, state.classes)
        return list(state.deliveries).index(report.worker), delivery.number

    def model(self, state: GatheringState) -> Tensors:
        """The extractor and the head as they stand."""
        return state.model

    def version(self, state: GatheringState) -> int:
        """Epochs of training that are done."""
        return state.version

    def failure(self, state: GatheringState) -> str:
        """Why the run cannot go on; empty while it can."""
        return state.reason

    def awaited(self, state: GatheringState) -> Sequence[str]:
        """Who is away, while too few are there or have delivered."""
        if self._ended(state) or state.begun:
            return ()
        away = [worker for worker in state.roster.away() if not state.deliveries[worker].here]
        return away if self._possible(state) - len(away) < self.quorum else ()

    def said(self, state: GatheringState) -> Sequence[str]:
        """The log lines of the last reaction."""
        return state.roster.said

    def record(self, state: GatheringState) -> Json:
        """Of the last epoch: its loss, on how many records, of how many workers, and what privacy they spent."""
        return state.record

    def worker_model(self, state: GatheringState, report: Report) -> Tensors | None:
        """None: workers have none."""
        return None

    # ------------------------------------------------------------------ what workers say

    def _hear(self, state: GatheringState, report: Report) -> GatheringState:
        """A good answer of a worker, to what was its next step."""
        worker, delivery = report.worker, state.deliveries[report.worker]
        step, samples = delivery.step, state.roster.members[worker].samples
        roster = state.roster.accept(replace(report, samples=samples))  # no report changes what was declared
        if step == "extract":
            if report.metrics.get("wanted") == "extractor" and not delivery.wanted:
                return replace(state, roster=roster).deliver(worker, wanted=True)
            try:
                facts = Facts.model_validate(report.metrics)
                self._algorithm.coded.agree(facts, state.shape, state.label)
                facts.admit(samples, state.stated, self._terms.features)
            except (ValidationError, RejectedUpdate) as error:
                problem = explain(error) if isinstance(error, ValidationError) else words(error)
                return replace(state, roster=state.roster.fail(rejected(report, f"its features: {problem}")))
            roster = roster.say(f"{worker} has {facts.told()}")
            return replace(state, roster=roster).deliver(worker, facts=facts.model_dump())
        if step == "upload":
            return replace(state, roster=roster).deliver(worker, arrived=delivery.arrived + delivery.count)
        late = "; they take part from the next epoch on" if state.begun else ""
        roster = roster.say(f"{worker} has sent its {delivery.arrived} records; it keeps none of them{late}")
        return replace(state, roster=roster).deliver(worker, whole=True)

    # ------------------------------------------------------------------ what the coordinator's own node says

    def _own(self, state: GatheringState, answer: Report | Failure) -> tuple[GatheringState, Sequence[Order]]:
        if answer.order != state.own:
            return state, ()
        state = replace(state, own="", roster=replace(state.roster, said=()))
        problem = answer.reason if isinstance(answer, Failure) else self._unusable(state, answer)
        if problem:
            strikes, what = state.strikes + 1, f"the coordinator's own training failed: {problem}"
            reason = f"{what}, three times in a row" if strikes == STRIKES else ""
            if isinstance(answer, Failure) and answer.code == "permanent":
                reason = what
            return self._go_on(replace(state, strikes=strikes, reason=reason, roster=state.roster.say(what)))
        assert isinstance(answer, Report)
        state, told = replace(state, strikes=0), answer.metrics
        model = {name: answer.tensors[name] for name in state.model}
        if not state.pretrained:
            others = {name: answer.tensors[name] for name in state.others}
            state = replace(state, model=model, others=others, lessons=state.lessons + 1)
            known = {"classes": told["classes"], "label": told["label"], "shape": self._shape(told["sample"])}
            state = replace(state, **known)
            return self._go_on(self._learnt(state))
        memory = {name: tensor for name, tensor in answer.tensors.items() if name not in model}
        roster, failed = state.roster.counted()
        delivered = [delivery for delivery in state.deliveries.values() if delivery.arrived]
        record: Json = {"answered": len(delivered), "failed": failed, "loss": told["loss"], "samples": told["samples"]}
        record |= self._algorithm.spent(state.shape).record()
        out = excluded(roster)
        state = replace(
            state,
            model=model,
            memory=memory,
            version=state.version + 1,
            roster=roster,
            record={**record, "excluded": out} if out else record,
        )
        return self._go_on(state)

    def _unusable(self, state: GatheringState, report: Report) -> str:
        wanted = state.model if state.pretrained else {**state.model, **state.others}
        own = {name: tensor for name, tensor in report.tensors.items() if name in wanted}
        return difference(own, wanted) or unfit(report.tensors)

    def _learnt(self, state: GatheringState) -> GatheringState:
        """Whether there is another epoch of pretraining to do."""
        if self._algorithm.pretraining(state.model, state.others, state.lessons + 1) is not None:
            return state
        roster = state.roster.say(f"Pretrained for {state.lessons} epochs") if state.lessons else state.roster
        return replace(state, pretrained=True, roster=roster)

    # ------------------------------------------------------------------ what is asked next

    def _go_on(self, state: GatheringState) -> tuple[GatheringState, Sequence[Order]]:
        if self._ended(state):
            return state, ()
        if not state.begun and self._possible(state) < self.quorum:
            return replace(state, reason=state.roster.lacking(len(self._terms.workers))), ()
        orders, roster = [], state.roster
        for worker in roster.idle() if state.pretrained else ():
            step, member = state.deliveries[worker].step, roster.members[worker]
            if not step:
                continue
            number = member.round if member.round > member.base else member.round + 1
            ask, answer = self._ask(state, worker, step), state.deliveries[worker].answer
            roster, order = roster.order(worker, number, state.version, self._terms.seed, ask, answer)
            orders.append(order)
        state = replace(state, roster=roster)
        if not state.begun and self._enough(state):
            state = self._begin(state)
        if not state.own and (state.begun or not state.pretrained):
            state, order = self._teach(state)
            orders.append(order)
        return state, orders

    def _ask(self, state: GatheringState, worker: str, step: str) -> Ask:
        delivery = state.deliveries[worker]
        if step == "extract":
            return self._algorithm.extraction(state.model, state.others, state.classes, send=delivery.wanted)
        if step == "upload":
            return self._algorithm.upload(delivery.arrived, delivery.count)
        return self._algorithm.acknowledgement()

    def _enough(self, state: GatheringState) -> bool:
        """Whether training can begin."""
        here = sum(delivery.here for delivery in state.deliveries.values())
        return state.pretrained and here >= self.quorum and (state.due or not state.roster.open)

    def _possible(self, state: GatheringState) -> int:
        """How many workers have delivered, or still may."""
        out = excluded(state.roster)
        return sum(delivery.here or worker not in out for worker, delivery in state.deliveries.items())

    def _begin(self, state: GatheringState) -> GatheringState:
        records = sum(delivery.arrived for delivery in state.deliveries.values())
        roster = state.roster.say(self._algorithm.spent(state.shape).told())
        roster = roster.say(f"Training begins with {records} records")
        return replace(state, begun=True, roster=roster)

    def _teach(self, state: GatheringState) -> tuple[GatheringState, Order]:
        """The next epoch, for the coordinator's own node."""
        number = (state.version if state.begun else state.lessons) + 1
        if state.begun:
            ask = self._algorithm.epoch(state.model, state.memory, state.classes, state.shape, number)
        else:
            found = self._algorithm.pretraining(state.model, state.others, number)
            assert found is not None
            ask = found
        order = Order(
            id=f"{COORDINATOR}/{state.tries + 1}",
            worker=COORDINATOR,
            round=number,
            task=ask.task,
            seed=order_seed(self._terms.seed, COORDINATOR, number),
            settings=ask.settings,
            tensors=ask.tensors,
        )
        roster = state.roster if not state.begun else state.roster.say(f"Training epoch {number}/{self._terms.rounds}")
        return replace(state, own=order.id, tries=state.tries + 1, roster=roster), order

    def _shape(self, sample: Sequence[int]) -> tuple[int, ...]:
        return tuple(self._algorithm.shape(sample)) if sample else ()

    def _ended(self, state: GatheringState) -> bool:
        return bool(state.reason) or state.version >= self._terms.rounds
