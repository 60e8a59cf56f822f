"""Makes the line of the audit log for an answer."""

from dataclasses import dataclass

from fedws.core.errors import printable
from fedws.core.registry import Released
from fedws.privacy.audit_log import Entry, now
from fedws.privacy.spending import Features
from fedws.privacy.usage_counts import Counted
from fedws.protocol.messages import Failure, Order, Report
from fedws.protocol.run_claim import Claim


@dataclass(frozen=True)
class Place:
    """Where an answer was made, and for which coordinator."""

    node: str
    dataset: str
    claim: Claim
    peer: str
    """Id in the coordinator's certificate; empty where none was shown."""
    upload: str
    """Begin of the digest of the claim; empty where the answer is not a part of an upload."""


def entry(
    order: Order,
    answer: Report | Failure,
    size: int,
    features: Features | None,
    place: Place,
    counts: Counted,
    *,
    again: bool = False,
) -> Entry:
    """Return the line for an ``answer`` of ``size`` bytes; ``features`` are what it holds."""
    data, epsilon = "reason", None
    if isinstance(answer, Report):
        data = "numbers" if not answer.tensors else "tensors" if features is None else "features"
        epsilon = features.spent if features is not None else None
    return Entry(
        time=now(),
        node=place.node,
        coordinator=printable(place.claim.coordinator, 64),
        run=place.claim.shown,
        order=printable(order.id, 64),
        round=order.round,
        task=printable(order.task, 64),
        model=printable(str(order.settings.get("model", "")), 64),
        answer="report" if isinstance(answer, Report) else answer.kind,
        data=data,
        bytes=size,
        epsilon=epsilon,
        upload=place.upload,
        reason="" if isinstance(answer, Report) else printable(answer.reason, 300),
        privacy="" if features is None else features.told().removeprefix("Privacy: "),
        dataset=place.dataset,
        peer=place.peer,
        counts=counts,
        again=again,
    )


def counted(answer: Report | Failure, features: Features | None, releases: Released, *, read: bool) -> Counted:
    """Return what an answer counts as for a day's limit; ``read`` is whether its task got samples.

    A failure counts too, where it may depend on them. What a task that releases features does counts once a run.
    """
    if isinstance(answer, Failure):
        return "request" if read else ""
    if features is not None:
        return "upload"
    if releases == "features":
        return "upload" if read else ""
    return "request"
