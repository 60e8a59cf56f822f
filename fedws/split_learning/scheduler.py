"""Scheduler of algorithms that collect features once and then train on the coordinator.

Training is a task of the server trainer, a process beside the coordinator. It is requested and answered like a task of
a worker.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace

from pydantic import ValidationError

from fedws.core.errors import RejectedUpdate
from fedws.core.tensors import Tensors
from fedws.core.untrusted_text import get_error_text
from fedws.core.validation import describe_setting_error
from fedws.protocol.messages import DEFAULT_COORDINATOR_ID, Json, TaskFailure, TaskRequest, TaskResult, build_failure
from fedws.scheduling.base import TaskSpec
from fedws.scheduling.events import Event, RoundTimeout
from fedws.scheduling.participants import Participants, find_exclusions
from fedws.scheduling.schedule_config import ScheduleConfig
from fedws.split_learning.base import CollectThenTrainAlgorithm
from fedws.split_learning.scheduler_state import CollectThenTrainState
from fedws.split_learning.server_training import ServerTraining
from fedws.split_learning.upload_progress import UploadManifest, UploadProgress


class CollectThenTrainScheduler:
    """A ``fedws.scheduling.base.Scheduler`` of a ``fedws.split_learning.base.CollectThenTrainAlgorithm``.

    A version of the model is an epoch of training. Training starts when all workers have uploaded their records. It
    also starts when ``min_results`` workers have done so, and no request is open or the upload deadline has passed.
    """

    def __init__(self, algorithm: CollectThenTrainAlgorithm, config: ScheduleConfig) -> None:
        self._algorithm = algorithm
        self._config = config
        self._training = ServerTraining(algorithm, config)
        self.min_results = config.min_results
        self.init, self.configure_evaluation = algorithm.init, algorithm.configure_evaluation

    # ------------------------------------------------------------------ the protocol of schedulers

    def start(self, model: Tensors, workers: Collection[str]) -> tuple[CollectThenTrainState, Sequence[TaskRequest]]:
        """Return the initial state, with a request for pretraining or requests to all workers."""
        participants = Participants.from_workers(self._config.workers, workers)
        for line in self._algorithm.startup_notices():
            participants = participants.add_log_line(line)
        initial, uploads = self.init(model), {worker: UploadProgress() for worker in self._config.workers}
        state = CollectThenTrainState(
            initial.model,
            participants,
            uploads,
            initial.extra_extractors,
            num_classes=initial.num_classes,
            label_format=initial.label_format,
        )
        return self._advance(
            self._training.check_pretraining_done(
                replace(state, feature_shape=self._training.feature_shape(initial.input_shape))
            )
        )

    def resume(
        self, state: CollectThenTrainState, workers: Collection[str]
    ) -> tuple[CollectThenTrainState, Sequence[TaskRequest]]:
        """Continue with the stored records, and repeat the request that was open."""
        participants = state.participants.after_restart(workers, self._config.workers)
        added = {worker: UploadProgress() for worker in self._config.workers if worker not in state.uploads}
        return self._advance(
            replace(state, participants=participants, uploads={**state.uploads, **added}, server_request_id="")
        )

    def react(self, state: CollectThenTrainState, event: Event) -> tuple[CollectThenTrainState, Sequence[TaskRequest]]:
        """Process an event; ``spool`` has stored the features of a result before."""
        if self._is_finished(state):
            return state, ()
        if isinstance(event, RoundTimeout):
            if event.version != state.version or state.training_started or state.timed_out:
                return state, ()
            pending = [
                worker for worker in state.participants.connected_workers() if not state.uploads[worker].is_complete
            ]
            participants = replace(state.participants, log_lines=()).add_log_line(
                f"Upload deadline passed; incomplete: {', '.join(pending) or 'none'}"
            )
            return self._advance(replace(state, participants=participants, timed_out=True))
        if getattr(event, "worker", "") == DEFAULT_COORDINATOR_ID:
            if not isinstance(event, TaskResult | TaskFailure) or event.request_id != state.server_request_id:
                return state, ()
            return self._advance(self._training.apply(state, event))
        participants, pending_request = state.participants.apply(event)
        if participants is state.participants:
            return state, ()
        state = replace(state, participants=participants)
        if isinstance(event, TaskResult) and pending_request is not None:
            state = self._handle_result(state, event)
        return self._advance(state)

    def spool(self, state: CollectThenTrainState, result: TaskResult) -> tuple[int, int] | None:
        """Return the worker's number and the chunk's number of a result's features, or None if it has none.

        The caller stores the features under these numbers. Raises RejectedUpdate if they are not the requested ones.
        """
        upload = state.uploads.get(result.worker)
        if (
            upload is None
            or result.request_id not in state.participants.pending_requests
            or upload.next_step != "upload"
        ):
            return None
        self._algorithm.release_format.check_records(result, upload, state.num_classes)
        return list(state.uploads).index(result.worker), upload.next_chunk

    def model(self, state: CollectThenTrainState) -> Tensors:
        """Return the current extractor and head."""
        return state.model

    def version(self, state: CollectThenTrainState) -> int:
        """Return the number of complete training epochs."""
        return state.version

    def failure(self, state: CollectThenTrainState) -> str:
        """Return why the run cannot continue, or an empty string."""
        return state.failure

    def waiting_for(self, state: CollectThenTrainState) -> Sequence[str]:
        """Return the disconnected workers if too few workers are connected or have uploaded their records."""
        if self._is_finished(state) or state.training_started:
            return ()
        disconnected = [
            worker for worker in state.participants.disconnected_workers() if not state.uploads[worker].is_complete
        ]
        return disconnected if self._count_possible_uploads(state) - len(disconnected) < self.min_results else ()

    def log_lines(self, state: CollectThenTrainState) -> Sequence[str]:
        """Return the log lines of the last reaction."""
        return state.participants.log_lines

    def record(self, state: CollectThenTrainState) -> Json:
        """Return the loss, number of records, number of workers and privacy cost of the last epoch."""
        return state.record

    def worker_model(self, state: CollectThenTrainState, result: TaskResult) -> Tensors | None:
        """Return None, because workers do not have a model of their own."""
        return None

    # ------------------------------------------------------------------ results of workers

    def _handle_result(self, state: CollectThenTrainState, result: TaskResult) -> CollectThenTrainState:
        """Return the state after a worker's successful result for its next step."""
        worker, upload = result.worker, state.uploads[result.worker]
        step, num_examples = upload.next_step, state.participants.members[worker].num_examples
        # a result does not change the declared number of samples
        participants = state.participants.accept(replace(result, num_examples=num_examples))
        if step == "extract":
            if result.metrics.get("needs_tensors") == "extractor" and not upload.needs_extractor:
                return replace(state, participants=participants).replace_upload(worker, needs_extractor=True)
            try:
                manifest = UploadManifest.model_validate(result.metrics)
                self._algorithm.release_format.check_manifest(manifest, state.feature_shape, state.label_format)
                manifest.check_quota(num_examples, state.declared_bytes, self._config.max_feature_bytes)
            except (ValidationError, RejectedUpdate) as error:
                problem = describe_setting_error(error) if isinstance(error, ValidationError) else get_error_text(error)
                return replace(
                    state,
                    participants=state.participants.record_failure(
                        build_failure(result, "rejected", f"invalid features: {problem}")
                    ),
                )
            participants = participants.add_log_line(f"{worker} extracted {manifest.describe()}")
            return replace(state, participants=participants).replace_upload(worker, manifest=manifest.model_dump())
        if step == "upload":
            return replace(state, participants=participants).replace_upload(
                worker, num_received=upload.num_received + upload.next_count
            )
        remark = "; they are used from the next epoch on" if state.training_started else ""
        participants = participants.add_log_line(
            f"{worker} uploaded its {upload.num_received} records and deleted its copy{remark}"
        )
        return replace(state, participants=participants).replace_upload(worker, acknowledged=True)

    # ------------------------------------------------------------------ the next requests

    def _advance(self, state: CollectThenTrainState) -> tuple[CollectThenTrainState, Sequence[TaskRequest]]:
        if self._is_finished(state):
            return state, ()
        if not state.training_started and self._count_possible_uploads(state) < self.min_results:
            return replace(state, failure=state.participants.shortage_reason(len(self._config.workers))), ()
        requests, participants = [], state.participants
        for worker in participants.idle_workers() if state.pretrained else ():
            step, member = state.uploads[worker].next_step, participants.members[worker]
            if not step:
                continue
            number = member.next_request_number
            task_spec, max_result_bytes = self._configure(state, worker, step), state.uploads[worker].next_result_bytes
            participants, request = participants.create_request(
                worker, number, state.version, self._config.seed, task_spec, max_result_bytes
            )
            requests.append(request)
        state = replace(state, participants=participants)
        if not state.training_started and self._can_train(state):
            state = self._training.start(state)
        if not state.server_request_id and (state.training_started or not state.pretrained):
            state, request = self._training.create_request(state)
            requests.append(request)
        return state, requests

    def _configure(self, state: CollectThenTrainState, worker: str, step: str) -> TaskSpec:
        upload = state.uploads[worker]
        if step == "extract":
            return self._algorithm.configure_extraction(
                state.model, state.extra_extractors, state.num_classes, send=upload.needs_extractor
            )
        if step == "upload":
            return self._algorithm.configure_upload(upload.num_received, upload.next_count)
        return self._algorithm.configure_acknowledgement()

    def _can_train(self, state: CollectThenTrainState) -> bool:
        """Return True if training can start."""
        num_complete = sum(upload.is_complete for upload in state.uploads.values())
        return (
            state.pretrained
            and num_complete >= self.min_results
            and (state.timed_out or not state.participants.pending_requests)
        )

    def _count_possible_uploads(self, state: CollectThenTrainState) -> int:
        """Return the number of workers that have uploaded their records, or still can."""
        exclusions = find_exclusions(state.participants)
        return sum(upload.is_complete or worker not in exclusions for worker, upload in state.uploads.items())

    def _is_finished(self, state: CollectThenTrainState) -> bool:
        return bool(state.failure) or state.version >= self._config.rounds
