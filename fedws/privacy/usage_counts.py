"""The counts for the limits of an owner's policy, computed from the lines of the audit log."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, NamedTuple

from fedws.core.registry import ReleaseKind
from fedws.privacy.feature_release import FeatureRelease
from fedws.protocol.messages import Answer, TaskFailure

CountedAs = Literal["", "request", "upload"]
"""Category of a line for the daily limit: empty if it does not count, a request, or a part of the run's upload."""
COUNTING_PERIOD = timedelta(days=1)
"""Time for which an answer counts for the daily limit."""
_COUNTED_AS_BY_PAYLOAD: dict[str, CountedAs] = {"tensors": "request", "features": "upload"}
"""Category by payload for lines of an earlier version, which do not contain the category."""


def classify_answer(
    answer: Answer,
    feature_release: FeatureRelease | None,
    releases: ReleaseKind,
    *,
    samples_read: bool,
) -> CountedAs:
    """Return the category of an answer for the daily limit; ``samples_read`` is True if its task got samples.

    A failure also counts if it may depend on samples. All answers of tasks that release features count once a run.
    """
    if isinstance(answer, TaskFailure):
        return "request" if samples_read else ""
    if feature_release is not None:
        return "upload"
    if releases == "features":
        return "upload" if samples_read else ""
    return "request"


class SentUpload(NamedTuple):
    """An upload whose features left the node."""

    node: str
    dataset: str
    """Name of the data set; empty for lines of earlier versions, and then it matches any data set."""
    peer: str
    """Id in the coordinator's certificate; empty without a certificate, and then it matches any coordinator."""
    upload_id: str


class UsageCounts:
    """Counts over the lines that were added."""

    def __init__(self, *, track_recent: bool = False) -> None:
        """Create empty counts, which include answers for the daily limit only with ``track_recent``.

        Without a daily limit, the number of answers to keep would have no bound.
        """
        self.track_recent = track_recent
        self._latest_times: dict[tuple[str, str], str] = {}  # newest time by node and counting key
        self._uploads: set[SentUpload] = set()

    def add(self, line: Mapping[str, Any]) -> None:
        """Count a line of an audit log."""
        now, time = datetime.now(UTC), _line_time(line)
        if self.track_recent and time >= (now - 2 * COUNTING_PERIOD).isoformat() and (counted := counting_key(line)):
            key, latest = (str(line["node"]), counted), (now + COUNTING_PERIOD).isoformat()
            possible = [it for it in (time, self._latest_times.get(key, "")) if it and it <= latest]
            self._latest_times[key] = max(possible, default=time)
        if line.get("payload") == "features":
            known = (str(line.get(key, "")) for key in ("node", "dataset", "peer", "upload_id"))
            self._uploads.add(SentUpload(*known))

    def answer_ages(self, node: str, period: timedelta = COUNTING_PERIOD) -> dict[str, float]:
        """Return the age in seconds of each answer of a node within ``period``, over all runs.

        The keys are those of ``counting_key``. If several lines have the same key, the age is that of the newest.
        A line with a time in the future has age 0, since the clock was set back after it. If the time is more than
        ``period`` ahead, the clock was wrong then, and the line does not count yet. Older lines are dropped.
        """
        now = datetime.now(UTC)
        earliest, latest = (now - period).isoformat(), now + period
        self._latest_times = {key: time for key, time in self._latest_times.items() if time >= earliest}
        times = {
            key: datetime.fromisoformat(time) for (owner, key), time in self._latest_times.items() if owner == node
        }
        return {key: max(0.0, (now - time).total_seconds()) for key, time in times.items() if time <= latest}

    def sent_upload_ids(self, node: str, dataset: str, peer: str) -> set[str]:
        """Return the ids of all uploads whose features ever left a node for a coordinator.

        Two coordinators are different only if certificates prove both ids. An upload also counts if its line does not
        contain the data set or the coordinator.
        """
        return {
            found.upload_id
            for found in self._uploads
            if found.node == node and found.dataset in ("", dataset) and (not peer or found.peer in ("", peer))
        }


def _line_time(line: Mapping[str, Any]) -> str:
    """Return the time of a line; a damaged line without a time counts as written now."""
    try:
        return datetime.fromisoformat(str(line.get("time"))).astimezone(UTC).isoformat(timespec="milliseconds")
    except ValueError:
        return datetime.now(UTC).isoformat(timespec="milliseconds")


def counting_key(line: Mapping[str, Any]) -> str:
    """Return a key that is the same for all lines that count once together; empty if a line does not count."""
    counted_as = line.get("counted_as", _COUNTED_AS_BY_PAYLOAD.get(str(line.get("payload")), ""))
    if line.get("resent"):
        return ""
    if counted_as == "upload":
        return upload_key(str(line.get("upload_id")))
    return f"number {line.get('number')}" if counted_as == "request" else ""


def upload_key(upload_id: str) -> str:
    """Return the counting key of the lines of an upload.

    >>> upload_key("a5")
    'upload a5'
    """
    return f"upload {upload_id}"
