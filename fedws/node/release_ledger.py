"""The ledger of a node's releases, which applies its owner's policy and writes its audit log."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, replace

from fedws.core.errors import TaskError, UsageError
from fedws.core.limits import NO_MESSAGE_LIMITS, MessageLimits
from fedws.core.registry import DEFAULT_TASK_TRAITS, TaskTraits
from fedws.core.untrusted_text import to_printable
from fedws.node.failures import FailureBuilder, build_refused_failure
from fedws.privacy.audit_entry import AuditContext, build_audit_entry
from fedws.privacy.audit_log import AuditLog
from fedws.privacy.feature_release import FeatureRelease
from fedws.privacy.usage_counts import CountedAs, UsageCounts, classify_answer, upload_key
from fedws.protocol.encoder import encode_message
from fedws.protocol.messages import Answer, TaskFailure, TaskRequest, TaskResult
from fedws.protocol.run_claim import RunClaim
from fedws.split_learning.upload_cache import open_uploads
from fedws.training.task_context import TaskContext


class ReleaseLedger:
    """A ledger of the answers that one node sent. Without an audit log it counts uploads in memory."""

    def __init__(self, context: TaskContext, audit_log: AuditLog | None, failures: FailureBuilder) -> None:
        self._context = context
        self._audit_log = audit_log
        self._failures = failures
        self._usage_counts = UsageCounts()
        self._upload_cache = open_uploads(context)
        self._claim, self._peer = RunClaim(), ""
        self._last_release: FeatureRelease | None = None
        """The features in the last answer; None if it held none."""

    def start_run(self, claim: RunClaim, peer: str) -> None:
        """Set the run that is served; ``peer`` is the id in the coordinator's certificate, or empty."""
        self._claim, self._peer = claim, to_printable(peer, 64)
        self._upload_cache.start_run(claim)

    # ------------------------------------------------------------------ checks against the policy

    def check_request(self, request: TaskRequest, traits: TaskTraits) -> None:
        """Check a request against the policy. Raises TaskError, and OSError if the audit log cannot be read."""
        answer_ages, num_uploads = self._count_releases(traits)
        policy, num_examples = self._context.policy, self._context.num_examples
        policy.check_request(request, num_examples, answer_ages, traits, num_uploads=num_uploads)

    def check_result(self, request: TaskRequest, result: TaskResult, traits: TaskTraits) -> None:
        """Check a result of the request's task against the policy. Raises TaskError."""
        release, _ = self._context.pending_releases.get(request.request_id, (None, None))
        self._context.policy.check_result(result, release, traits.releases)

    # ------------------------------------------------------------------ records of sent answers

    def record(self, request: TaskRequest, answer: Answer, traits: TaskTraits, limits: MessageLimits) -> Answer:
        """Write the line of an answer to the audit log and return the answer.

        The answer is that of a request that was just carried out. A TaskFailure replaces it if it exceeds ``limits``,
        if a limit of the policy is reached, or if the log cannot be written.
        """
        release, on_recorded = self._context.pending_releases.pop(request.request_id, (None, None))
        if isinstance(answer, TaskFailure):
            release = on_recorded = None
        self._last_release = release
        return self._record(request, answer, limits, release, on_recorded, traits)

    def record_resend(self, request: TaskRequest, result: TaskResult, limits: MessageLimits) -> Answer:
        """Write the audit line of a result that is sent again on a new link, and return the result."""
        release = None if self._last_release is None else replace(self._last_release, resent=True)
        return self._record(request, result, limits, release, resent=True)

    def record_unsendable(self, request: TaskRequest, error: UsageError, limits: MessageLimits) -> Answer:
        """Write the audit line of the failure that replaces an unsendable answer, and return the failure."""
        return self._record(request, self._failures.build_unsendable(request, error), limits, counts=False)

    def _record(
        self,
        request: TaskRequest,
        answer: Answer,
        limits: MessageLimits,
        release: FeatureRelease | None = None,
        on_recorded: Callable[[], None] | None = None,
        traits: TaskTraits = DEFAULT_TASK_TRAITS,
        *,
        resent: bool = False,
        counts: bool = True,
    ) -> Answer:
        """Write the audit line and return the answer, or a TaskFailure; it counts only with ``counts``."""
        try:
            num_bytes = self._measure(answer, limits)
        except UsageError as error:
            answer, release, on_recorded = self._failures.build_unsendable(request, error), None, None
            num_bytes = self._measure(answer, NO_MESSAGE_LIMITS)
        try:
            self._add(request, answer, num_bytes, release, traits, resent=resent, counts=counts)
            if on_recorded is not None:
                on_recorded()
        except TaskError as error:
            self._context.data_accessed.clear()  # refuse as if the task had not run
            refused = build_refused_failure(self._context.node, request, error)
            return self._record(request, refused, limits)
        except OSError as error:
            return self._failures.build_unrecorded(request, error)
        return answer

    def _measure(self, answer: Answer, limits: MessageLimits) -> int:
        """Return the size of an answer in bytes, or 0 without a log. Raises UsageError if it cannot be sent."""
        return encode_message(answer, limits).size if self._audit_log is not None else 0

    def _add(
        self,
        request: TaskRequest,
        answer: Answer,
        num_bytes: int,
        release: FeatureRelease | None,
        traits: TaskTraits,
        *,
        resent: bool,
        counts: bool,
    ) -> None:
        """Add the line of an answer that is about to be sent; it counts towards the limits only with ``counts``.

        The limits are checked again here, since another process of this node may have answered after the request was
        allowed. Raises TaskError if a limit is reached, and OSError if the log cannot be written.
        """
        releases = traits.releases if isinstance(answer, TaskResult) else "metrics"
        counted_as: CountedAs = ""
        if counts and not resent:
            samples_read = self._context.data_accessed.is_set()
            counted_as = classify_answer(answer, release, releases, samples_read=samples_read)
        upload_id = self._upload_cache.upload_id if release is not None or counted_as == "upload" else ""
        origin = AuditContext(self._context.node, self._context.dataset, self._claim, self._peer, upload_id)
        line = build_audit_entry(request, answer, num_bytes, release, origin, counted_as, resent=resent)
        with self._audit_log.lock() if self._audit_log is not None else nullcontext():
            if line.counted_as:
                answer_ages, num_uploads = self._count_releases(traits)
                self._context.policy.check_usage(answer_ages, traits, num_uploads=num_uploads)
            if self._audit_log is not None:
                self._audit_log.append(line)
            elif release is not None:
                self._usage_counts.add(asdict(line))

    def _count_releases(self, traits: TaskTraits) -> tuple[Mapping[str, float], int]:
        """Return the ages of the answers that count for the daily limit, and the number of sent uploads.

        The run's own upload is excluded from both. Raises TaskError if a run without an id requests features.
        """
        node, answer_ages = self._context.node, dict[str, float]()
        if self._audit_log is not None and self._context.policy.max_answers_per_day:
            answer_ages = self._audit_log.answer_ages(node)
        if traits.releases != "features":
            return answer_ages, 0
        if not self._claim.run:
            raise TaskError("features refused: the run has no id that distinguishes it from others; connect with an id")
        upload_id = self._upload_cache.upload_id
        sent_ids = (self._audit_log or self._usage_counts).sent_upload_ids(node, self._context.dataset, self._peer)
        answer_ages = {key: age for key, age in answer_ages.items() if key != upload_key(upload_id)}
        return answer_ages, len(sent_ids - {upload_id})
