"""The worker: message in, message out. Synchronous, no I/O; carries out tasks on the data it holds."""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from fedws.core import registry
from fedws.core.error_text import describe_with_location, find_user_location
from fedws.core.errors import (
    MessageTooLarge,
    PieceFailed,
    RequestError,
    TaskCancelled,
    TaskError,
    TaskFailed,
    UnknownName,
    UsageError,
)
from fedws.core.limits import NO_MESSAGE_LIMITS, MessageLimits
from fedws.core.rate_limited_log import BURST_LINES, RateLimitedLog
from fedws.core.untrusted_text import to_printable
from fedws.data import map_style, samples
from fedws.data.base import Dataset
from fedws.node import data_summary
from fedws.node.failures import build_failure, build_refused_failure
from fedws.node.release_ledger import ReleaseLedger
from fedws.privacy.audit_log import AuditLog
from fedws.privacy.policy import Policy
from fedws.privacy.spending import FeatureRelease
from fedws.protocol.encoder import PROTOCOL_VERSION
from fedws.protocol.messages import Hello, Refusal, TaskFailure, TaskRequest, TaskResult, Welcome
from fedws.protocol.run_claim import RunClaim
from fedws.split_learning.upload_cache import open_uploads
from fedws.training.base import Task
from fedws.training.task_context import TaskContext
from fedws.updates.metrics import round_metrics

DEFAULT_POLICY = Policy()
"""The policy of a node whose owner wrote none."""


class Worker:
    """A named node with data.

    ``tasks`` are the tasks it carries out, by name; None means all that are registered. ``evaluator`` is what it tells
    a coordinator that it is. ``labels`` are those that it declares to hold; None means those of its data. More than
    1,000 are not declared. ``threads`` score batches at once. ``policy`` is its owner's; ``audit_log`` is where every
    answer is written down before it leaves; ``state_dir`` is a folder for what it keeps from run to run. With
    ``send_error_details``, which is for a node whose data the coordinator may see, the text of an error also leaves
    where it may tell of the data. Raises UsageError for a policy that counts rounds, where nothing is written down, for
    ``data`` that is not a map-style data set, and for labels that cannot be declared.
    """

    def __init__(
        self,
        node: str,
        dataset: str,
        data: Dataset,
        *,
        labels: Sequence[int] | None = None,
        tasks: Mapping[str, Task] | None = None,
        evaluator: bool = False,
        threads: int = 1,
        policy: Policy = DEFAULT_POLICY,
        audit_log: AuditLog | None = None,
        state_dir: Path | None = None,
        send_error_details: bool = False,
    ) -> None:
        if policy.max_answers_per_day is not None and audit_log is None:
            raise UsageError("max_answers_per_day of a policy is counted in the audit log; name one with audit")
        try:
            map_style.check_dataset(data)
            if len(data) and not isinstance(data, samples.SampleSubset):  # a part is of a data set that was checked
                map_style.check_first_sample(data)
        except ValueError as error:
            raise UsageError(f"dataset {dataset}: {error}") from error
        self.node = node
        self.policy = policy
        self._tasks = tasks
        self._warning_log = RateLimitedLog(node)
        self._failure_log = RateLimitedLog(node, BURST_LINES)
        self._last_release: FeatureRelease | None = None
        """The features in the last answer; None when it held none."""
        self._send_error_details = send_error_details
        self._stop_event = threading.Event()
        self._context = TaskContext(node, dataset, data, self._stop_event, threads, state_dir=state_dir, policy=policy)
        uploads = open_uploads(self._context)
        self._releases = ReleaseLedger(node, dataset, policy, audit_log, uploads)
        self._welcome = Welcome(
            node=node,
            role="evaluator" if evaluator else "worker",
            dataset=dataset,
            num_examples=len(data),
            labels=data_summary.declared_labels(data, labels, policy.min_samples),
            cuda=torch.cuda.is_available(),
        )
        data_summary.check_welcome(
            replace(self._welcome, num_examples=max(1, len(data)))
        )  # one that is not served may hold none

    def require_samples(self) -> None:
        """Raise UsageError for a node that no run can use, as it holds no samples."""
        if not self._welcome.num_examples:
            raise UsageError(f"{self.node} holds no samples of {self._welcome.dataset}; serve a node with at least 1")

    def handle_hello(self, hello: Hello) -> Welcome | Refusal:
        """The answer to who is calling; a Refusal when the caller means another node or speaks another protocol."""
        if hello.protocol != PROTOCOL_VERSION:
            return Refusal(
                kind="protocol", reason=f"{self.node} speaks protocol {PROTOCOL_VERSION}, not {hello.protocol}"
            )
        if hello.node != self.node:
            return Refusal(kind="node", reason=f"this is {self.node}, not {to_printable(hello.node, 64)}")
        return self._welcome

    def start_run(self, claim: RunClaim, peer: str = "") -> None:
        """Serve the run of this claim; drop what tasks kept of another run. Call it between tasks.

        ``peer`` is the id in the coordinator's certificate, if it showed one.
        """
        self._context.client_state.start_run(claim)
        self._releases.start_run(claim, peer)

    def execute(
        self, request: TaskRequest, limits: MessageLimits = NO_MESSAGE_LIMITS, error: str = ""
    ) -> TaskResult | TaskFailure:
        """Carry out a request as far as the policy allows; whatever goes wrong becomes a TaskFailure with its reason.

        So does a result that is not ``limits``, and a request with ``error``: why it cannot be carried out. The
        answer is on the audit log when this returns.
        """
        self._context.data_accessed.clear()
        answer: TaskResult | TaskFailure
        if error:
            answer, traits = build_failure(self.node, request, "failed", error), registry.DEFAULT_TASK_TRAITS
        else:
            answer, traits = self._run_task(request)
        features, on_recorded = self._context.pending_releases.pop(request.request_id, (None, None))
        if isinstance(answer, TaskFailure):
            features = on_recorded = None
        self._last_release = features
        return self._record_answer(request, answer, limits, features, on_recorded, traits)

    def record_resend(
        self, request: TaskRequest, result: TaskResult, limits: MessageLimits = NO_MESSAGE_LIMITS
    ) -> TaskResult | TaskFailure:
        """Return ``result``, which answered the same request on an older link, once its line is on the audit log."""
        features = None if self._last_release is None else replace(self._last_release, resent=True)
        return self._record_answer(request, result, limits, features, resent=True)

    def record_unsendable(
        self, request: TaskRequest, error: UsageError, limits: MessageLimits = NO_MESSAGE_LIMITS
    ) -> TaskResult | TaskFailure:
        """Return the answer in place of one that could not be sent, once its line is on the audit log."""
        return self._record_answer(request, self.build_unsendable_failure(request, error), limits, None, counts=False)

    def _record_answer(
        self,
        request: TaskRequest,
        answer: TaskResult | TaskFailure,
        limits: MessageLimits,
        release: FeatureRelease | None,
        on_recorded: Callable[[], None] | None = None,
        traits: registry.TaskTraits = registry.DEFAULT_TASK_TRAITS,
        *,
        resent: bool = False,
        counts: bool = True,
    ) -> TaskResult | TaskFailure:
        """Return the answer, or a TaskFailure, once its line is on the audit log; it counts only with ``counts``."""
        try:
            num_bytes = self._releases.measure(answer, limits)
        except UsageError as error:
            answer, release, on_recorded = self.build_unsendable_failure(request, error), None, None
            num_bytes = self._releases.measure(answer, NO_MESSAGE_LIMITS)
        try:
            self._releases.add(
                request,
                answer,
                num_bytes,
                release,
                traits,
                samples_read=self._context.data_accessed.is_set(),
                resent=resent,
                counts=counts,
            )
            if on_recorded is not None:
                on_recorded()
        except TaskError as error:
            self._context.data_accessed.clear()  # it is refused as if nothing had been computed
            return self._record_answer(request, build_refused_failure(self.node, request, error), limits, None)
        except OSError as error:
            self._failure_log.log(f"the audit log cannot be written, so nothing leaves: {error}", logging.ERROR)
            return build_failure(self.node, request, "failed", "the audit log cannot be written, so nothing leaves")
        return answer

    def _run_task(self, request: TaskRequest) -> tuple[TaskResult | TaskFailure, registry.TaskTraits]:
        """Return the answer to a request, and the traits of its task; the default ones if the task cannot be found."""
        self._context.warnings.clear()
        traits = registry.DEFAULT_TASK_TRAITS
        try:
            task = self._find_task(request.task)
            traits = registry.get_task_traits(task)
            self._releases.check_request(request, self._context.num_examples, traits)
            result = task(request, self._context)
            if not isinstance(result, TaskResult):
                raise TaskFailed(f"task {request.task} returned {type(result).__name__} instead of TaskResult")
            features, _ = self._context.pending_releases.get(request.request_id, (None, None))
            self.policy.check_result(result, features, traits.releases)
            if traits.releases == "metrics":
                result = replace(result, metrics=round_metrics(result.metrics))
            return result, traits
        except Exception as error:  # a user's model or data may raise anything; the node must live on
            return self._handle_task_error(request, error), traits

    def _handle_task_error(self, request: TaskRequest, error: Exception) -> TaskFailure:
        """Return the answer to a request whose task raised an error.

        Once the task has got samples, an error and its type may depend on them. The coordinator then gets one text for
        all errors, but for those that are declared to depend on the request alone.
        """
        if isinstance(error, TaskCancelled) and self._stop_event.is_set():
            self._context.data_accessed.clear()  # its caller is gone, or its node is ending: it depends on no sample
        hidden = self._must_hide_errors and not isinstance(error, RequestError)
        if isinstance(error, TaskError | UnknownName) and not hidden:
            place = f" ({find_user_location(error)})" if find_user_location(error) else ""
            self._warning_log.log(
                f"{to_printable(request.task, 64)} was refused: {to_printable(str(error), 300)}{place}"
            )
            return build_refused_failure(self.node, request, error)
        if isinstance(error, TaskFailed | TaskCancelled) and not hidden:
            return build_failure(self.node, request, "failed", str(error))
        self._failure_log.log(f"{request.task} failed: {describe_with_location(error)}", logging.ERROR, error)
        if hidden:
            return self._build_data_failure(request)
        cause = error.__cause__ if isinstance(error, PieceFailed) else None
        # The coordinator gets the type alone: the text, and which line it was, may tell of the data.
        return build_failure(
            self.node, request, "failed", f"{type(cause or error).__name__} (see the log of {self.node})"
        )

    @property
    def _must_hide_errors(self) -> bool:
        """Whether what goes wrong now may depend on samples that the coordinator must not learn about."""
        return self._context.data_accessed.is_set() and not self._send_error_details

    def _build_data_failure(self, request: TaskRequest) -> TaskFailure:
        return build_failure(self.node, request, "failed", f"the task failed on its data (see the log of {self.node})")

    def stop(self) -> None:
        """Make the task that is running end soon; :meth:`resume` before the next one."""
        self._stop_event.set()

    def resume(self) -> None:
        """Be ready for tasks again."""
        self._stop_event.clear()

    def _find_task(self, name: str) -> Task:
        if self._tasks is None:
            task: Task = registry.find_piece("task", name)
            return task
        if name not in self._tasks:
            raise UnknownName("task", name, self._tasks)
        return self._tasks[name]

    def build_unsendable_failure(self, request: TaskRequest, error: UsageError) -> TaskFailure:
        """Return the answer in place of a result that cannot be sent: what it has would be the same another time."""
        if isinstance(error, MessageTooLarge):
            return replace(build_failure(self.node, request, "refused", f"its report has {error}"), code="permanent")
        if self._must_hide_errors:
            self._failure_log.log(f"{request.task} failed: its report cannot be sent: {error}", logging.ERROR)
            return self._build_data_failure(request)
        return build_failure(self.node, request, "failed", str(error))  # a task may report what cannot travel
