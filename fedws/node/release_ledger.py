"""What has left a node: the lines of its audit log, and what counts for the limits of its owner's policy."""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict

from fedws.core.errors import TaskError
from fedws.core.limits import MessageLimits
from fedws.core.registry import TaskTraits
from fedws.core.untrusted_text import to_printable
from fedws.privacy.audit_entry import AuditContext, build_audit_entry, classify_answer
from fedws.privacy.audit_log import AuditLog
from fedws.privacy.policy import Policy
from fedws.privacy.spending import FeatureRelease
from fedws.privacy.usage_counts import CountedAs, UsageCounts, upload_key
from fedws.protocol.encoder import encode_message
from fedws.protocol.messages import TaskFailure, TaskRequest, TaskResult
from fedws.protocol.run_claim import RunClaim
from fedws.split_learning.upload_cache import UploadCache


class ReleaseLedger:
    """The answers that left one node; without an audit log it counts uploads in memory."""

    def __init__(
        self, node: str, dataset: str, policy: Policy, audit_log: AuditLog | None, upload_cache: UploadCache
    ) -> None:
        self._node = node
        self._dataset = dataset
        self._policy = policy
        self._audit_log = audit_log
        self._usage_counts = UsageCounts()
        self._upload_cache = upload_cache
        self._claim, self._peer = RunClaim(), ""

    def start_run(self, claim: RunClaim, peer: str) -> None:
        """Note the run that is served; ``peer`` is the id in the coordinator's certificate, or empty."""
        self._claim, self._peer = claim, to_printable(peer, 64)
        self._upload_cache.start_run(claim)

    def measure(self, answer: TaskResult | TaskFailure, limits: MessageLimits) -> int:
        """Return the bytes of an answer for its line; 0 without a log. Raises UsageError if it cannot be sent."""
        return encode_message(answer, limits).size if self._audit_log is not None else 0

    def check_request(self, request: TaskRequest, num_examples: int, traits: TaskTraits) -> None:
        """Check a request against the policy. Raises TaskError, and OSError if the audit log cannot be read."""
        answer_ages, num_uploads = self._count_releases(traits)
        self._policy.check_request(request, num_examples, answer_ages, traits, num_uploads=num_uploads)

    def add(
        self,
        request: TaskRequest,
        answer: TaskResult | TaskFailure,
        num_bytes: int,
        release: FeatureRelease | None,
        traits: TaskTraits,
        *,
        samples_read: bool,
        resent: bool,
        counts: bool,
    ) -> None:
        """Add the line of an answer that is about to leave; it counts for the limits only with ``counts``.

        ``samples_read`` is whether the task read samples. Raises TaskError if a limit is reached, since another process
        of this node may have answered after the request was allowed, and OSError if the log cannot be written.
        """
        releases = traits.releases if isinstance(answer, TaskResult) else "metrics"
        counted_as: CountedAs = ""
        if counts and not resent:
            counted_as = classify_answer(answer, release, releases, samples_read=samples_read)
        upload_id = self._upload_cache.upload_id if release is not None or counted_as == "upload" else ""
        context = AuditContext(self._node, self._dataset, self._claim, self._peer, upload_id)
        line = build_audit_entry(request, answer, num_bytes, release, context, counted_as, resent=resent)
        with self._audit_log.lock() if self._audit_log is not None else nullcontext():
            if line.counted_as:
                answer_ages, num_uploads = self._count_releases(traits)
                self._policy.check_usage(answer_ages, traits, num_uploads=num_uploads)
            if self._audit_log is not None:
                self._audit_log.append(line)
            elif release is not None:
                self._usage_counts.add(asdict(line))

    def _count_releases(self, traits: TaskTraits) -> tuple[Mapping[str, float], int]:
        """Return what counts for the day and the number of uploads that left, both without the run's own upload.

        Raises TaskError if a run without an id requests features.
        """
        answer_ages: Mapping[str, float] = {}
        if self._audit_log is not None and self._policy.max_answers_per_day:
            answer_ages = self._audit_log.answer_ages(self._node)
        if traits.releases != "features":
            return answer_ages, 0
        if not self._claim.run:
            raise TaskError("features were refused: a run without an id cannot be told from others; connect with one")
        upload_id = self._upload_cache.upload_id
        sent_ids = (self._audit_log or self._usage_counts).sent_upload_ids(self._node, self._dataset, self._peer)
        answer_ages = {key: age for key, age in answer_ages.items() if key != upload_key(upload_id)}
        return answer_ages, len(sent_ids - {upload_id})
