"""Gathers what workers send of their samples once, then has the coordinator train on it: makes a Strategy of any

algorithm of that kind. Training is work for the coordinator's own node, a process beside it, and is ordered and
answered like a worker's.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace

from pydantic import ValidationError

from fedws.core.errors import RejectedUpdate
from fedws.core.plan import describe_setting_error
from fedws.core.seeds import request_seed
from fedws.core.tensors import Tensors, find_mismatch, find_nonfinite
from fedws.core.untrusted_text import get_error_text
from fedws.protocol.messages import DEFAULT_COORDINATOR_ID, Json, TaskFailure, TaskRequest, TaskResult
from fedws.scheduling.base import TaskSpec
from fedws.scheduling.events import Event, RoundTimeout
from fedws.scheduling.participants import (
    MAX_CONSECUTIVE_FAILURES,
    Participants,
    ScheduleConfig,
    build_rejection,
    find_exclusions,
)
from fedws.split_learning.base import CollectThenTrainAlgorithm
from fedws.split_learning.scheduler_state import CollectThenTrainState
from fedws.split_learning.upload_progress import UploadManifest, UploadProgress


class CollectThenTrainScheduler:
    """A :class:`fedws.scheduling.base.Scheduler` of a :class:`fedws.scheduling.base.CollectThenTrainAlgorithm`.

    A version of the model is an epoch of training. It begins when every worker has delivered, or when a quorum has and
    nobody else is at work or the time is up.
    """

    def __init__(self, algorithm: CollectThenTrainAlgorithm, config: ScheduleConfig) -> None:
        self._algorithm = algorithm
        self._config = config
        self.min_results = config.min_results
        self.init, self.configure_evaluation = algorithm.init, algorithm.configure_evaluation

    # ------------------------------------------------------------------ what the run sees

    def start(self, model: Tensors, workers: Collection[str]) -> tuple[CollectThenTrainState, Sequence[TaskRequest]]:
        """Pretrain, or ask all workers."""
        roster = Participants.from_workers(self._config.workers, workers)
        for line in self._algorithm.startup_notices():
            roster = roster.add_log_line(line)
        basis, deliveries = self.init(model), {worker: UploadProgress() for worker in self._config.workers}
        state = CollectThenTrainState(
            basis.model,
            roster,
            deliveries,
            basis.extra_extractors,
            num_classes=basis.num_classes,
            label_format=basis.label_format,
        )
        return self._advance(
            self._check_pretraining_done(replace(state, feature_shape=self._feature_shape(basis.input_shape)))
        )

    def resume(
        self, state: CollectThenTrainState, workers: Collection[str]
    ) -> tuple[CollectThenTrainState, Sequence[TaskRequest]]:
        """Go on with what is stored; the order that was open is given again."""
        roster = state.participants.after_restart(workers, self._config.workers)
        added = {worker: UploadProgress() for worker in self._config.workers if worker not in state.uploads}
        return self._advance(replace(state, participants=roster, uploads={**state.uploads, **added}, server_request=""))

    def react(self, state: CollectThenTrainState, event: Event) -> tuple[CollectThenTrainState, Sequence[TaskRequest]]:
        """Take an event. A report with features was stored before: see :meth:`spool`."""
        if self._is_finished(state):
            return state, ()
        if isinstance(event, RoundTimeout):
            if event.version != state.version or state.training_started or state.timed_out:
                return state, ()
            late = [
                worker for worker in state.participants.connected_workers() if not state.uploads[worker].is_complete
            ]
            roster = replace(state.participants, log_lines=()).add_log_line(
                f"The time is up; {', '.join(late) or 'nobody'} may follow"
            )
            return self._advance(replace(state, participants=roster, timed_out=True))
        if getattr(event, "worker", "") == DEFAULT_COORDINATOR_ID:
            return (
                self._handle_server_answer(state, event) if isinstance(event, TaskResult | TaskFailure) else (state, ())
            )
        roster, asked = state.participants.apply(event)
        if roster is state.participants:
            return state, ()
        state = replace(state, participants=roster)
        if isinstance(event, TaskResult) and asked is not None:
            state = self._handle_result(state, event)
        return self._advance(state)

    def spool(self, state: CollectThenTrainState, result: TaskResult) -> tuple[int, int] | None:
        """Where the features of a report are to be stored: the worker's number and the chunk's; None if it has none.

        Raises RejectedUpdate when they are not what was asked for.
        """
        delivery = state.uploads.get(result.worker)
        if (
            delivery is None
            or result.request_id not in state.participants.open_requests
            or delivery.next_step != "upload"
        ):
            return None
        self._algorithm.release_format.check_records(result, delivery, state.num_classes)
        return list(state.uploads).index(result.worker), delivery.next_chunk

    def model(self, state: CollectThenTrainState) -> Tensors:
        """The extractor and the head as they stand."""
        return state.model

    def version(self, state: CollectThenTrainState) -> int:
        """Epochs of training that are done."""
        return state.version

    def failure(self, state: CollectThenTrainState) -> str:
        """Why the run cannot go on; empty while it can."""
        return state.failure

    def waiting_for(self, state: CollectThenTrainState) -> Sequence[str]:
        """Who is away, while too few are there or have delivered."""
        if self._is_finished(state) or state.training_started:
            return ()
        away = [worker for worker in state.participants.disconnected_workers() if not state.uploads[worker].is_complete]
        return away if self._count_possible_uploads(state) - len(away) < self.min_results else ()

    def log_lines(self, state: CollectThenTrainState) -> Sequence[str]:
        """The log lines of the last reaction."""
        return state.participants.log_lines

    def record(self, state: CollectThenTrainState) -> Json:
        """Of the last epoch: its loss, on how many records, of how many workers, and what privacy they spent."""
        return state.record

    def worker_model(self, state: CollectThenTrainState, result: TaskResult) -> Tensors | None:
        """None: workers have none."""
        return None

    # ------------------------------------------------------------------ what workers say

    def _handle_result(self, state: CollectThenTrainState, result: TaskResult) -> CollectThenTrainState:
        """A good answer of a worker, to what was its next step."""
        worker, delivery = result.worker, state.uploads[result.worker]
        step, samples = delivery.next_step, state.participants.members[worker].num_examples
        roster = state.participants.accept(replace(result, num_examples=samples))  # no report changes what was declared
        if step == "extract":
            if result.metrics.get("wanted") == "extractor" and not delivery.needs_extractor:
                return replace(state, participants=roster).replace_upload(worker, needs_extractor=True)
            try:
                facts = UploadManifest.model_validate(result.metrics)
                self._algorithm.release_format.check_manifest(facts, state.feature_shape, state.label_format)
                facts.check_quota(samples, state.declared_bytes, self._config.max_feature_bytes)
            except (ValidationError, RejectedUpdate) as error:
                problem = describe_setting_error(error) if isinstance(error, ValidationError) else get_error_text(error)
                return replace(
                    state,
                    participants=state.participants.record_failure(build_rejection(result, f"its features: {problem}")),
                )
            roster = roster.add_log_line(f"{worker} has {facts.describe()}")
            return replace(state, participants=roster).replace_upload(worker, manifest=facts.model_dump())
        if step == "upload":
            return replace(state, participants=roster).replace_upload(
                worker, num_received=delivery.num_received + delivery.next_count
            )
        late = "; they take part from the next epoch on" if state.training_started else ""
        roster = roster.add_log_line(
            f"{worker} has sent its {delivery.num_received} records; it keeps none of them{late}"
        )
        return replace(state, participants=roster).replace_upload(worker, acknowledged=True)

    # ------------------------------------------------------------------ what the coordinator's own node says

    def _handle_server_answer(
        self, state: CollectThenTrainState, answer: TaskResult | TaskFailure
    ) -> tuple[CollectThenTrainState, Sequence[TaskRequest]]:
        if answer.request_id != state.server_request:
            return state, ()
        state = replace(state, server_request="", participants=replace(state.participants, log_lines=()))
        problem = answer.reason if isinstance(answer, TaskFailure) else self._find_result_problem(state, answer)
        if problem:
            strikes, what = state.consecutive_failures + 1, f"the coordinator's own training failed: {problem}"
            reason = f"{what}, three times in a row" if strikes == MAX_CONSECUTIVE_FAILURES else ""
            if isinstance(answer, TaskFailure) and answer.code == "permanent":
                reason = what
            return self._advance(
                replace(
                    state,
                    consecutive_failures=strikes,
                    failure=reason,
                    participants=state.participants.add_log_line(what),
                )
            )
        assert isinstance(answer, TaskResult)
        state, told = replace(state, consecutive_failures=0), answer.metrics
        model = {name: answer.tensors[name] for name in state.model}
        if not state.pretrained:
            others = {name: answer.tensors[name] for name in state.extra_extractors}
            state = replace(
                state, model=model, extra_extractors=others, pretrain_epochs_done=state.pretrain_epochs_done + 1
            )
            known = {
                "num_classes": told["num_classes"],
                "label_format": told["label_format"],
                "feature_shape": self._feature_shape(told["input_shape"]),
            }
            state = replace(state, **known)
            return self._advance(self._check_pretraining_done(state))
        memory = {name: tensor for name, tensor in answer.tensors.items() if name not in model}
        roster, failed = state.participants.pop_num_failures()
        delivered = [delivery for delivery in state.uploads.values() if delivery.num_received]
        record: Json = {"num_results": len(delivered), "num_failures": failed}
        record |= {"loss": told["loss"], "num_examples": told["samples"]}
        record |= self._algorithm.build_release(state.feature_shape).to_record()
        out = find_exclusions(roster)
        state = replace(
            state,
            model=model,
            optimizer_tensors=memory,
            version=state.version + 1,
            participants=roster,
            record={**record, "excluded": out} if out else record,
        )
        return self._advance(state)

    def _find_result_problem(self, state: CollectThenTrainState, result: TaskResult) -> str:
        wanted = state.model if state.pretrained else {**state.model, **state.extra_extractors}
        own = {name: tensor for name, tensor in result.tensors.items() if name in wanted}
        return find_mismatch(own, wanted) or find_nonfinite(result.tensors)

    def _check_pretraining_done(self, state: CollectThenTrainState) -> CollectThenTrainState:
        """Whether there is another epoch of pretraining to do."""
        if (
            self._algorithm.configure_pretraining(state.model, state.extra_extractors, state.pretrain_epochs_done + 1)
            is not None
        ):
            return state
        roster = (
            state.participants.add_log_line(f"Pretrained for {state.pretrain_epochs_done} epochs")
            if state.pretrain_epochs_done
            else state.participants
        )
        return replace(state, pretrained=True, participants=roster)

    # ------------------------------------------------------------------ what is asked next

    def _advance(self, state: CollectThenTrainState) -> tuple[CollectThenTrainState, Sequence[TaskRequest]]:
        if self._is_finished(state):
            return state, ()
        if not state.training_started and self._count_possible_uploads(state) < self.min_results:
            return replace(state, failure=state.participants.shortage_reason(len(self._config.workers))), ()
        orders, roster = [], state.participants
        for worker in roster.idle_workers() if state.pretrained else ():
            step, member = state.uploads[worker].next_step, roster.members[worker]
            if not step:
                continue
            number = (
                member.last_requested_round
                if member.last_requested_round > member.last_accepted_round
                else member.last_requested_round + 1
            )
            ask, answer = self._configure(state, worker, step), state.uploads[worker].next_result_bytes
            roster, order = roster.create_request(worker, number, state.version, self._config.seed, ask, answer)
            orders.append(order)
        state = replace(state, participants=roster)
        if not state.training_started and self._can_train(state):
            state = self._start_training(state)
        if not state.server_request and (state.training_started or not state.pretrained):
            state, order = self._train_on_server(state)
            orders.append(order)
        return state, orders

    def _configure(self, state: CollectThenTrainState, worker: str, step: str) -> TaskSpec:
        delivery = state.uploads[worker]
        if step == "extract":
            return self._algorithm.configure_extraction(
                state.model, state.extra_extractors, state.num_classes, send=delivery.needs_extractor
            )
        if step == "upload":
            return self._algorithm.configure_upload(delivery.num_received, delivery.next_count)
        return self._algorithm.configure_acknowledgement()

    def _can_train(self, state: CollectThenTrainState) -> bool:
        """Whether training can begin."""
        here = sum(delivery.is_complete for delivery in state.uploads.values())
        return (
            state.pretrained and here >= self.min_results and (state.timed_out or not state.participants.open_requests)
        )

    def _count_possible_uploads(self, state: CollectThenTrainState) -> int:
        """How many workers have delivered, or still may."""
        out = find_exclusions(state.participants)
        return sum(delivery.is_complete or worker not in out for worker, delivery in state.uploads.items())

    def _start_training(self, state: CollectThenTrainState) -> CollectThenTrainState:
        records = sum(delivery.num_received for delivery in state.uploads.values())
        roster = state.participants.add_log_line(self._algorithm.build_release(state.feature_shape).describe())
        roster = roster.add_log_line(f"Training begins with {records} records")
        return replace(state, training_started=True, participants=roster)

    def _train_on_server(self, state: CollectThenTrainState) -> tuple[CollectThenTrainState, TaskRequest]:
        """The next epoch, for the coordinator's own node."""
        number = (state.version if state.training_started else state.pretrain_epochs_done) + 1
        if state.training_started:
            ask = self._algorithm.configure_training(
                state.model, state.optimizer_tensors, state.num_classes, state.feature_shape, number
            )
        else:
            found = self._algorithm.configure_pretraining(state.model, state.extra_extractors, number)
            assert found is not None
            ask = found
        order = TaskRequest(
            request_id=f"{DEFAULT_COORDINATOR_ID}/{state.num_server_requests + 1}",
            worker=DEFAULT_COORDINATOR_ID,
            round=number,
            task=ask.task,
            seed=request_seed(self._config.seed, DEFAULT_COORDINATOR_ID, number),
            settings=ask.settings,
            tensors=ask.tensors,
        )
        roster = (
            state.participants
            if not state.training_started
            else state.participants.add_log_line(f"Training epoch {number}/{self._config.rounds}")
        )
        return replace(
            state,
            server_request=order.request_id,
            num_server_requests=state.num_server_requests + 1,
            participants=roster,
        ), order

    def _feature_shape(self, input_shape: Sequence[int]) -> tuple[int, ...]:
        return tuple(self._algorithm.feature_shape(input_shape)) if input_shape else ()

    def _is_finished(self, state: CollectThenTrainState) -> bool:
        return bool(state.failure) or state.version >= self._config.rounds
