"""The line that the audit log holds for an answer."""

from dataclasses import dataclass
from datetime import UTC, datetime

from fedws.core.untrusted_text import to_printable
from fedws.privacy.feature_release import FeatureRelease
from fedws.privacy.usage_counts import CountedAs
from fedws.protocol.messages import Answer, TaskRequest, TaskResult
from fedws.protocol.run_claim import RunClaim


@dataclass(frozen=True, kw_only=True)
class AuditEntry:
    """A line of the audit log, which describes one answer."""

    time: str
    """Time of the answer in UTC, in ISO 8601 format."""
    node: str
    coordinator: str
    run: str
    """First 8 characters of the run's public id."""
    request_id: str
    round: int
    task: str
    model: str
    outcome: str
    """Outcome of the request: ``result``, ``refused`` or ``failed``."""
    payload: str
    """Kind of the data that left: ``tensors``, ``features``, ``metrics`` or ``reason``.

    Metrics also leave with ``tensors`` and ``features``. A refusal or failure contains only a reason.
    """
    num_bytes: int
    """Size of the answer in bytes, including the framing of the message but not that of the transport."""
    upload_id: str = ""
    """Id of the upload that the answer belongs to; empty for any other answer.

    An upload with new noise has a new id.
    """
    reason: str = ""
    """Reason of the refusal or failure."""
    epsilon: float | None = None
    """Epsilon spent for each record that left; None without a privacy mechanism, which means no bound."""
    privacy: str = ""
    """Text about released features: the epsilon spent for each feature, for a label and for the whole record."""
    resent: bool = False
    """True if the result was sent before on a link that was lost; it does not count a second time."""
    dataset: str = ""
    """Name of the data set that the node holds."""
    peer: str = ""
    """Id in the coordinator's certificate; empty without a certificate, and then ``coordinator`` is not verified."""
    counted_as: CountedAs = ""
    """Category of the answer for ``max_answers_per_day``: ``request``, part of an ``upload``, or empty."""


@dataclass(frozen=True)
class AuditContext:
    """Origin of an answer: its node and data set, and the coordinator that it is for."""

    node: str
    dataset: str
    claim: RunClaim
    peer: str
    """Id in the coordinator's certificate; empty without a certificate."""
    upload_id: str
    """First characters of the digest of the claim; empty if the answer is not part of an upload."""


def build_audit_entry(
    request: TaskRequest,
    answer: Answer,
    num_bytes: int,
    feature_release: FeatureRelease | None,
    context: AuditContext,
    counted_as: CountedAs,
    *,
    resent: bool = False,
) -> AuditEntry:
    """Return the line for an ``answer`` of ``num_bytes`` bytes.

    ``feature_release`` describes the features that the answer contains; None if it contains no features.
    """
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


def current_timestamp() -> str:
    """Return the current UTC time in ISO 8601 format, with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
