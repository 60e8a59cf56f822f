"""The worker: message in, message out. Synchronous, no I/O; carries out tasks on the data it holds."""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path

import torch

from fedws.core import registry
from fedws.core.error_location import placed, where
from fedws.core.errors import (
    PieceFailed,
    RequestError,
    Stopped,
    TaskError,
    TaskFailed,
    TooLarge,
    UnknownName,
    UsageError,
    printable,
)
from fedws.core.limits import ANY, Accepted
from fedws.core.rate_limited_log import BURST, Complaints
from fedws.data import map_style, samples
from fedws.data.base import Dataset
from fedws.node import data_summary
from fedws.node.failures import failure, refusal
from fedws.privacy.audit_entry import Place, counted, entry
from fedws.privacy.audit_log import Audit, Entry
from fedws.privacy.policy import Policy
from fedws.privacy.spending import Features
from fedws.privacy.usage_counts import Counted, Counts, upload
from fedws.protocol.encoder import VERSION, encode
from fedws.protocol.messages import Failure, Hello, Order, Refusal, Report, Welcome
from fedws.protocol.run_claim import Claim
from fedws.split_learning.upload_cache import Uploads
from fedws.training.base import Task
from fedws.training.task_context import Workspace
from fedws.updates.metrics import rounded

ALL = Policy()
"""The policy of a node whose owner wrote none."""


class Worker:
    """A named node with data.

    ``tasks`` are the tasks it carries out, by name; None means all that are registered. ``evaluator`` is what it
    tells a coordinator that it is. ``labels`` are those that it declares to hold; None means those of its data. More
    than 1,000 are not declared.
    ``threads`` score batches at once. ``policy`` is its owner's; ``audit`` is where every answer is written down
    before it leaves; ``state`` is a folder for what it keeps from run to run. With ``details``, which is for a node
    whose data the coordinator may see, the text of an error also leaves where it may tell of the data.
    Raises UsageError for a policy that counts rounds, where nothing is written down, for ``data`` that is not a
    map-style data set, and for labels that cannot be declared.
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
        policy: Policy = ALL,
        audit: Audit | None = None,
        state: Path | None = None,
        details: bool = False,
    ) -> None:
        if policy.rounds_per_day is not None and audit is None:
            raise UsageError("rounds_per_day of a policy is counted in the audit log; name one with audit")
        try:
            map_style.check(data)
            if len(data) and not isinstance(data, samples.Part):  # a part is of a data set that was checked
                map_style.check_first(data)
        except ValueError as error:
            raise UsageError(f"dataset {dataset}: {error}") from error
        self.node = node
        self.policy = policy
        self._tasks = tasks
        self._audit = audit
        self._complaints = Complaints(node)
        self._failures = Complaints(node, BURST)
        self._claim = Claim()
        self._features: Features | None = None
        """The features in the last answer; None when it held none."""
        self._peer = ""
        self._counts = Counts()  # where there is no audit log
        self._details = details
        self._stop = threading.Event()
        self._workspace = Workspace(node, dataset, data, self._stop, threads, state=state, policy=policy)
        self._uploads = self._workspace.resource(Uploads)
        self._welcome = Welcome(
            node=node,
            role="evaluator" if evaluator else "worker",
            dataset=dataset,
            samples=len(data),
            labels=data_summary.labels(data, labels, policy.samples),
            cuda=torch.cuda.is_available(),
        )
        data_summary.checked(replace(self._welcome, samples=max(1, len(data))))  # one that is not served may hold none

    def check(self) -> None:
        """Raise UsageError for a node that no run can use, as it holds no samples."""
        if not self._welcome.samples:
            raise UsageError(f"{self.node} holds no samples of {self._welcome.dataset}; serve a node with at least 1")

    def greet(self, hello: Hello) -> Welcome | Refusal:
        """The answer to who is calling; a Refusal when the caller means another node or speaks another protocol."""
        if hello.protocol != VERSION:
            return Refusal(kind="protocol", reason=f"{self.node} speaks protocol {VERSION}, not {hello.protocol}")
        if hello.node != self.node:
            return Refusal(kind="node", reason=f"this is {self.node}, not {printable(hello.node, 64)}")
        return self._welcome

    def begin(self, claim: Claim, peer: str = "") -> None:
        """Serve the run of this claim; drop what tasks kept of another run. Call it between tasks.

        ``peer`` is the id in the coordinator's certificate, if it showed one.
        """
        self._claim, self._peer = claim, printable(peer, 64)
        self._workspace.keepsake.begin(claim)
        self._uploads.begin(claim)

    def answer(self, order: Order, accepted: Accepted = ANY, trouble: str = "") -> Report | Failure:
        """Carry out an order as far as the policy allows; whatever goes wrong becomes a Failure with its reason.

        So does a report that is not ``accepted``, and an order with ``trouble``: why it cannot be carried out. The
        answer is on the audit log when this returns.
        """
        self._workspace.read.clear()
        answer = failure(self.node, order, "failed", trouble) if trouble else self._answer(order)
        features, then = self._workspace.leaving.pop(order.id, (None, None))
        if isinstance(answer, Failure):
            features = then = None
        self._features = features
        return self._written(order, answer, accepted, features, then)

    def repeat(self, order: Order, report: Report, accepted: Accepted = ANY) -> Report | Failure:
        """Return ``report``, which answered the same request on an older link, once its line is on the audit log."""
        features = None if self._features is None else replace(self._features, again=True)
        return self._written(order, report, accepted, features, again=True)

    def replaced(self, order: Order, error: UsageError, accepted: Accepted = ANY) -> Report | Failure:
        """Return the answer in place of one that could not be sent, once its line is on the audit log."""
        return self._written(order, self.unsendable(order, error), accepted, None, counts=False)

    def _written(
        self,
        order: Order,
        answer: Report | Failure,
        accepted: Accepted,
        features: Features | None,
        then: Callable[[], None] | None = None,
        *,
        again: bool = False,
        counts: bool = True,
    ) -> Report | Failure:
        """Return the answer, or a Failure, once its line is on the audit log; without ``counts`` it counts as none."""
        try:
            size = encode(answer, accepted).size if self._audit is not None else 0
        except UsageError as error:
            answer, features, then = self.unsendable(order, error), None, None
            size = encode(answer).size
        try:
            line = self._entry(order, answer, size, features, again=again, counts=counts and not again)
            with self._audit.alone() if self._audit is not None else nullcontext():
                if line.counts:  # another process of this node may have answered since the request was allowed
                    task = registry.traits(self._task(order.task))
                    left, uploads = self._left(task)
                    self.policy.counted(left, task, uploads=uploads)
                if self._audit is not None:
                    self._audit.add(line)
                elif features is not None:
                    self._counts.add(asdict(line))
            if then is not None:
                then()
        except TaskError as error:
            self._workspace.read.clear()  # it is refused as if nothing had been computed
            return self._written(order, refusal(self.node, order, error), accepted, None)
        except OSError as error:
            self._failures.hear(f"the audit log cannot be written, so nothing leaves: {error}", logging.ERROR)
            return failure(self.node, order, "failed", "the audit log cannot be written, so nothing leaves")
        return answer

    def _answer(self, order: Order) -> Report | Failure:
        self._workspace.warnings.clear()
        try:
            task = self._task(order.task)
            traits = registry.traits(task)
            self._allow(order, traits)
            report = task(order, self._workspace)
            if not isinstance(report, Report):
                raise TaskFailed(f"task {order.task} gave {type(report).__name__}, no Report")
            features, _ = self._workspace.leaving.get(order.id, (None, None))
            self.policy.after(report, features, traits.releases)
            return replace(report, metrics=rounded(report.metrics)) if traits.releases == "metrics" else report
        except Exception as error:  # a user's model or data may raise anything; the node must live on
            return self._failed(order, error)

    def _allow(self, order: Order, task: registry.Traits) -> None:
        """Hold an order against the policy. Raises TaskError, and OSError where the audit log cannot be read."""
        left, uploads = self._left(task)
        self.policy.before(order, self._workspace.held, left, task, uploads=uploads)

    def _left(self, task: registry.Traits) -> tuple[Mapping[str, float], int]:
        """Return what counts for the day and the number of uploads that left, both without the run's own upload.

        Raises TaskError where features are requested by a run without an id.
        """
        left = self._audit.left(self.node) if self._audit is not None and self.policy.rounds_per_day else {}
        if task.releases != "features":
            return left, 0
        if not self._claim.run:
            raise TaskError("features were refused: a run without an id cannot be told from others; connect with one")
        own = self._uploads.id
        known = (self._audit or self._counts).uploads(self.node, self._workspace.dataset, self._peer)
        left = {what: age for what, age in left.items() if what != upload(own)}
        return left, len(known - {own})

    def _failed(self, order: Order, error: Exception) -> Failure:
        """Return the answer to an order whose task raised an error.

        Once the task has got samples, an error and its type may depend on them. The coordinator then gets one text for
        all errors, but for those that are declared to depend on the request alone.
        """
        if isinstance(error, Stopped) and self._stop.is_set():
            self._workspace.read.clear()  # its caller is gone, or its node is ending: it depends on no sample
        hidden = self._hidden and not isinstance(error, RequestError)
        if isinstance(error, TaskError | UnknownName) and not hidden:
            place = f" ({where(error)})" if where(error) else ""
            self._complaints.hear(f"{printable(order.task, 64)} was refused: {printable(str(error), 300)}{place}")
            return refusal(self.node, order, error)
        if isinstance(error, TaskFailed | Stopped) and not hidden:
            return failure(self.node, order, "failed", str(error))
        self._failures.hear(f"{order.task} failed: {placed(error)}", logging.ERROR, error)
        if hidden:
            return self._on_data(order)
        cause = error.__cause__ if isinstance(error, PieceFailed) else None
        # The coordinator gets the type alone: the text, and which line it was, may tell of the data.
        return failure(self.node, order, "failed", f"{type(cause or error).__name__} (see the log of {self.node})")

    @property
    def _hidden(self) -> bool:
        """Whether what goes wrong now may depend on samples that the coordinator must not learn about."""
        return self._workspace.read.is_set() and not self._details

    def _on_data(self, order: Order) -> Failure:
        return failure(self.node, order, "failed", f"the task failed on its data (see the log of {self.node})")

    def stop(self) -> None:
        """Make the task that is running end soon; :meth:`resume` before the next one."""
        self._stop.set()

    def resume(self) -> None:
        """Be ready for tasks again."""
        self._stop.clear()

    def _task(self, name: str) -> Task:
        if self._tasks is None:
            task: Task = registry.find("task", name)
            return task
        if name not in self._tasks:
            raise UnknownName("task", name, self._tasks)
        return self._tasks[name]

    def _entry(
        self, order: Order, answer: Report | Failure, size: int, features: Features | None, *, again: bool, counts: bool
    ) -> Entry:
        releases = registry.traits(self._task(order.task)).releases if isinstance(answer, Report) else "metrics"
        what: Counted = counted(answer, features, releases, read=self._workspace.read.is_set()) if counts else ""
        upload = self._uploads.id if features is not None or what == "upload" else ""
        place = Place(self.node, self._workspace.dataset, self._claim, self._peer, upload)
        return entry(order, answer, size, features, place, what, again=again)

    def unsendable(self, order: Order, error: UsageError) -> Failure:
        """Return the answer in place of a report that cannot be sent: what it has would be the same another time."""
        if isinstance(error, TooLarge):
            return replace(failure(self.node, order, "refused", f"its report has {error}"), code="permanent")
        if self._hidden:
            self._failures.hear(f"{order.task} failed: its report cannot be sent: {error}", logging.ERROR)
            return self._on_data(order)
        return failure(self.node, order, "failed", str(error))  # a task may report what cannot travel
