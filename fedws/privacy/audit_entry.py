"""The line of the audit log for an answer."""

from dataclasses import dataclass
from datetime import UTC, datetime

from fedws.core.untrusted_text import to_printable
from fedws.privacy.feature_release import FeatureRelease
from fedws.privacy.usage_counts import CountedAs
from fedws.protocol.messages import Answer, TaskRequest, TaskResult
from fedws.protocol.run_claim import RunClaim


@dataclass(frozen=True, kw_only=True)
class AuditEntry:
    """One line."""

    time: str
    """ISO 8601, UTC."""
    node: str
    coordinator: str
    run: str
    """The first 8 characters of its public id."""
    request_id: str
    round: int
    task: str
    model: str
    outcome: str
    """``result``, ``refused`` or ``failed``."""
    payload: str
    """What kind of data left: ``tensors`` or ``features`` (with metrics), ``metrics``, or no more than a ``reason``."""
    num_bytes: int
    """Of the answer, with what frames it but the transport's own."""
    upload_id: str = ""
    """Id of the upload of which the answer is a part; new noise has a new id. Empty for any other answer."""
    reason: str = ""
    """Why it was refused or failed."""
    epsilon: float | None = None
    """Privacy spent of each record that left; None where no mechanism was used: there is no bound then."""
    privacy: str = ""
    """Of features, in words: what was spent for each of them, for a label, and for the record."""
    resent: bool = False
    """Whether it is a result that was sent before, on a link that was lost; it does not count a second time."""
    dataset: str = ""
    """Name of the data set that the node holds."""
    peer: str = ""
    """Id in the coordinator's certificate; empty where none was shown, and ``coordinator`` is not proved."""
    counted_as: CountedAs = ""
    """What counts for ``max_answers_per_day``: an answer to a ``request``, a part of an ``upload``, or nothing."""


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
    answer: Answer,
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


def current_timestamp() -> str:
    """The time of a line."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
