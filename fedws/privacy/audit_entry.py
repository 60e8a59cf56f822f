"""Makes the line of the audit log for an answer."""

from dataclasses import dataclass

from fedws.core.errors import to_printable
from fedws.core.registry import ReleaseKind
from fedws.privacy.audit_log import AuditEntry, current_timestamp
from fedws.privacy.spending import FeatureRelease
from fedws.privacy.usage_counts import CountedAs
from fedws.protocol.messages import TaskFailure, TaskRequest, TaskResult
from fedws.protocol.run_claim import RunClaim


@dataclass(frozen=True)
class AuditContext:
    """Where an answer was made, and for which coordinator."""

    node: str
    dataset: str
    claim: RunClaim
    peer: str
    """Id in the coordinator's certificate; empty where none was shown."""
    upload_id: str
    """Begin of the digest of the claim; empty where the answer is not a part of an upload."""


def build_audit_entry(
    request: TaskRequest,
    answer: TaskResult | TaskFailure,
    num_bytes: int,
    feature_release: FeatureRelease | None,
    context: AuditContext,
    counted_as: CountedAs,
    *,
    resent: bool = False,
) -> AuditEntry:
    """Return the line for an ``answer`` of ``num_bytes`` bytes; ``feature_release`` are what it holds."""
    payload, epsilon = "reason", None
    if isinstance(answer, TaskResult):
        payload = "metrics" if not answer.tensors else "tensors" if feature_release is None else "features"
        epsilon = feature_release.record_epsilon if feature_release is not None else None
    return AuditEntry(
        time=current_timestamp(),
        node=context.node,
        coordinator=to_printable(context.claim.coordinator, 64),
        run=context.claim.run_id_prefix,
        request_id=to_printable(request.request_id, 64),
        round=request.round,
        task=to_printable(request.task, 64),
        model=to_printable(str(request.settings.get("model", "")), 64),
        outcome="result" if isinstance(answer, TaskResult) else answer.kind,
        payload=payload,
        num_bytes=num_bytes,
        epsilon=epsilon,
        upload_id=context.upload_id,
        reason="" if isinstance(answer, TaskResult) else to_printable(answer.reason, 300),
        privacy="" if feature_release is None else feature_release.describe().removeprefix("Privacy: "),
        dataset=context.dataset,
        peer=context.peer,
        counted_as=counted_as,
        resent=resent,
    )


def classify_answer(
    answer: TaskResult | TaskFailure,
    feature_release: FeatureRelease | None,
    releases: ReleaseKind,
    *,
    samples_read: bool,
) -> CountedAs:
    """Return what an answer counts as for a day's limit; ``samples_read`` is whether its task got samples.

    A failure counts too, where it may depend on them. What a task that releases features does counts once a run.
    """
    if isinstance(answer, TaskFailure):
        return "request" if samples_read else ""
    if feature_release is not None:
        return "upload"
    if releases == "features":
        return "upload" if samples_read else ""
    return "request"
