"""The worker, a node that carries out tasks on the data it holds; synchronous and without network I/O."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from fedws.core import registry
from fedws.core.errors import (
    TaskFailed,
    UnknownName,
    UsageError,
)
from fedws.core.limits import NO_MESSAGE_LIMITS, MessageLimits
from fedws.core.untrusted_text import to_printable
from fedws.data import map_style, samples
from fedws.data.base import Dataset
from fedws.node import data_summary
from fedws.node.failures import FailureBuilder
from fedws.node.release_ledger import ReleaseLedger
from fedws.privacy.audit_log import AuditLog
from fedws.privacy.policy import Policy
from fedws.protocol.messages import Answer, Hello, Refusal, TaskRequest, TaskResult, Welcome, build_failure
from fedws.protocol.run_claim import RunClaim
from fedws.training.base import Task
from fedws.training.task_context import TaskContext
from fedws.updates.metrics import round_metrics

DEFAULT_POLICY = Policy()
"""Policy of a node whose owner wrote none."""


class Worker:
    """A named node with data.

    - ``tasks``: the tasks that it carries out, by name; None means all registered tasks.
    - ``evaluator``: True if the node declares the role ``evaluator`` instead of ``worker``.
    - ``labels``: the labels that it declares; None means the labels of its data. More than 1,000 are not declared.
    - ``threads``: the number of threads that evaluate batches.
    - ``policy``: the policy of the node's owner.
    - ``audit_log``: the log to which every answer is written before it is sent.
    - ``state_dir``: the folder of the state that it keeps between runs.
    - ``send_error_details``: True if the coordinator may see the data. Error texts that may depend on the data are then
      sent too.

    Raises UsageError for a policy with a daily limit but without an audit log, for ``data`` that is not a map-style
    data set, and for labels that cannot be declared.
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
            raise UsageError("max_answers_per_day of a policy requires an audit log; pass one as audit_log")
        try:
            map_style.check_dataset(data)
            if len(data) and not isinstance(data, samples.SampleSubset):  # a subset belongs to a checked data set
                map_style.check_first_sample(data)
        except ValueError as error:
            raise UsageError(f"dataset {dataset}: {error}") from error
        self.node = node
        self.policy = policy
        self._tasks = tasks
        self._stop_event = threading.Event()
        self._context = TaskContext(node, dataset, data, self._stop_event, threads, state_dir=state_dir, policy=policy)
        self._failures = FailureBuilder(self._context, send_error_details=send_error_details)
        self.releases = ReleaseLedger(self._context, audit_log, self._failures)
        """Ledger that checks the policy and writes the audit log.

        A server also records in it the answers that it sends without ``execute``.
        """
        self._welcome = Welcome(
            node=node,
            role="evaluator" if evaluator else "worker",
            dataset=dataset,
            num_examples=len(data),
            labels=data_summary.declared_labels(data, labels, policy.min_samples),
            cuda=torch.cuda.is_available(),
        )
        # a node that is not served may have 0 samples
        data_summary.check_welcome(replace(self._welcome, num_examples=max(1, len(data))))

    def require_samples(self) -> None:
        """Raise UsageError if the node has no samples, since no run can use it."""
        if not self._welcome.num_examples:
            raise UsageError(f"{self.node} has no samples of {self._welcome.dataset}; serve a node with at least 1")

    def handle_hello(self, hello: Hello) -> Welcome | Refusal:
        """Return the answer to an authenticated coordinator, or a Refusal if it expects another node."""
        if hello.node != self.node:
            return Refusal(kind="node", reason=f"this is {self.node}, not {to_printable(hello.node, 64)}")
        return self._welcome

    def start_run(self, claim: RunClaim, peer: str = "") -> None:
        """Start serving the run of this claim, and drop the state that tasks kept of another run.

        Call it between tasks. ``peer`` is the id in the coordinator's certificate, or empty without one.
        """
        self._context.client_state.start_run(claim)
        self.releases.start_run(claim, peer)

    def execute(self, request: TaskRequest, limits: MessageLimits = NO_MESSAGE_LIMITS, error: str = "") -> Answer:
        """Carry out a request if the policy allows it, and return the answer, already written to the audit log.

        Any error becomes a TaskFailure with a reason. So does a result that exceeds ``limits``, and a request that
        cannot be carried out because of ``error``.
        """
        self._context.data_accessed.clear()
        if error:
            failure = build_failure(request, "failed", error, worker=self.node)
            return self.releases.record(request, failure, registry.DEFAULT_TASK_TRAITS, limits)
        return self.releases.record(request, *self._run_task(request), limits)

    def _run_task(self, request: TaskRequest) -> tuple[Answer, registry.TaskTraits]:
        """Return the answer to a request, and the traits of its task, or default traits for an unknown task."""
        self._context.warnings.clear()
        traits = registry.DEFAULT_TASK_TRAITS
        try:
            task = self._find_task(request.task)
            traits = registry.get_task_traits(task)
            self.releases.check_request(request, traits)
            result = task(request, self._context)
            if not isinstance(result, TaskResult):
                raise TaskFailed(f"task {request.task} returned {type(result).__name__} instead of TaskResult")
            self.releases.check_result(request, result, traits)
            if traits.releases == "metrics":
                result = replace(result, metrics=round_metrics(result.metrics))
            return result, traits
        except Exception as error:  # a user's model or data may raise any error; the node must survive
            return self._failures.build_from_task_error(request, error), traits

    def stop(self) -> None:
        """Request the running task to end soon; call ``resume`` before the next task."""
        self._stop_event.set()

    def resume(self) -> None:
        """Allow tasks to run again after ``stop``."""
        self._stop_event.clear()

    def _find_task(self, name: str) -> Task:
        if self._tasks is None:
            task: Task = registry.find_piece("task", name)
            return task
        if name not in self._tasks:
            raise UnknownName("task", name, self._tasks)
        return self._tasks[name]
