"""Training on the coordinator as requests to its server trainer: pretraining, then epochs of the head.

The code is pure: it returns states and requests, and does no I/O.
"""

from collections.abc import Sequence
from dataclasses import replace

from fedws.core.seeds import request_seed
from fedws.core.tensors import find_mismatch, find_nonfinite
from fedws.protocol.messages import DEFAULT_COORDINATOR_ID, Answer, Json, TaskFailure, TaskRequest, TaskResult
from fedws.scheduling.participants import MAX_CONSECUTIVE_FAILURES, find_exclusions
from fedws.scheduling.schedule_config import ScheduleConfig
from fedws.split_learning.base import CollectThenTrainAlgorithm
from fedws.split_learning.scheduler_state import CollectThenTrainState


class ServerTraining:
    """The part of a collect-then-train scheduler that trains on the coordinator."""

    def __init__(self, algorithm: CollectThenTrainAlgorithm, config: ScheduleConfig) -> None:
        self._algorithm = algorithm
        self._config = config

    def apply(self, state: CollectThenTrainState, answer: Answer) -> CollectThenTrainState:
        """Return the state after the server trainer's answer to the open request."""
        state = replace(state, server_request_id="", participants=replace(state.participants, log_lines=()))
        problem = answer.reason if isinstance(answer, TaskFailure) else self._find_result_problem(state, answer)
        if problem:
            failures_in_row, what = state.consecutive_failures + 1, f"training on the coordinator failed: {problem}"
            reason = f"{what}, three times in a row" if failures_in_row == MAX_CONSECUTIVE_FAILURES else ""
            if isinstance(answer, TaskFailure) and answer.code == "permanent":
                reason = what
            return replace(
                state,
                consecutive_failures=failures_in_row,
                failure=reason,
                participants=state.participants.add_log_line(what),
            )
        assert isinstance(answer, TaskResult)
        state, metrics = replace(state, consecutive_failures=0), answer.metrics
        model = {name: answer.tensors[name] for name in state.model}
        if not state.pretrained:
            extra_extractors = {name: answer.tensors[name] for name in state.extra_extractors}
            state = replace(
                state,
                model=model,
                extra_extractors=extra_extractors,
                pretrain_epochs_done=state.pretrain_epochs_done + 1,
            )
            changes = {
                "num_classes": metrics["num_classes"],
                "label_format": metrics["label_format"],
                "feature_shape": self.feature_shape(metrics["input_shape"]),
            }
            state = replace(state, **changes)
            return self.check_pretraining_done(state)
        optimizer_tensors = {name: tensor for name, tensor in answer.tensors.items() if name not in model}
        participants, num_failures = state.participants.pop_num_failures()
        uploaded = [upload for upload in state.uploads.values() if upload.num_received]
        record: Json = {"num_results": len(uploaded), "num_failures": num_failures}
        record |= {"loss": metrics["loss"], "num_examples": metrics["num_examples"]}
        record |= self._algorithm.build_release(state.feature_shape).to_record()
        exclusions = find_exclusions(participants)
        return replace(
            state,
            model=model,
            optimizer_tensors=optimizer_tensors,
            version=state.version + 1,
            participants=participants,
            record={**record, "excluded": exclusions} if exclusions else record,
        )

    def start(self, state: CollectThenTrainState) -> CollectThenTrainState:
        """Return the state in which training of the head has started."""
        num_records = sum(upload.num_received for upload in state.uploads.values())
        participants = state.participants.add_log_line(self._algorithm.build_release(state.feature_shape).describe())
        participants = participants.add_log_line(f"Training started with {num_records} records")
        return replace(state, training_started=True, participants=participants)

    def create_request(self, state: CollectThenTrainState) -> tuple[CollectThenTrainState, TaskRequest]:
        """Return the request for the next epoch, and the state in which it is open."""
        number = (state.version if state.training_started else state.pretrain_epochs_done) + 1
        if state.training_started:
            task_spec = self._algorithm.configure_training(
                state.model, state.optimizer_tensors, state.num_classes, state.feature_shape, number
            )
        else:
            found = self._algorithm.configure_pretraining(state.model, state.extra_extractors, number)
            assert found is not None
            task_spec = found
        request = TaskRequest(
            request_id=f"{DEFAULT_COORDINATOR_ID}/{state.num_server_requests + 1}",
            worker=DEFAULT_COORDINATOR_ID,
            round=number,
            task=task_spec.task,
            seed=request_seed(self._config.seed, DEFAULT_COORDINATOR_ID, number),
            settings=task_spec.settings,
            tensors=task_spec.tensors,
        )
        participants = (
            state.participants
            if not state.training_started
            else state.participants.add_log_line(f"Training epoch {number}/{self._config.rounds}")
        )
        return replace(
            state,
            server_request_id=request.request_id,
            num_server_requests=state.num_server_requests + 1,
            participants=participants,
        ), request

    def check_pretraining_done(self, state: CollectThenTrainState) -> CollectThenTrainState:
        """Return the state with ``pretrained`` set if the algorithm has no further epoch of pretraining."""
        if (
            self._algorithm.configure_pretraining(state.model, state.extra_extractors, state.pretrain_epochs_done + 1)
            is not None
        ):
            return state
        participants = (
            state.participants.add_log_line(f"Pretrained for {state.pretrain_epochs_done} epochs")
            if state.pretrain_epochs_done
            else state.participants
        )
        return replace(state, pretrained=True, participants=participants)

    def _find_result_problem(self, state: CollectThenTrainState, result: TaskResult) -> str:
        expected = state.model if state.pretrained else {**state.model, **state.extra_extractors}
        model_tensors = {name: tensor for name, tensor in result.tensors.items() if name in expected}
        return find_mismatch(model_tensors, expected) or find_nonfinite(result.tensors)

    def feature_shape(self, input_shape: Sequence[int]) -> tuple[int, ...]:
        """Return the shape of a record's features; empty if the shape of an input is still unknown."""
        return tuple(self._algorithm.feature_shape(input_shape)) if input_shape else ()
