"""What counts for the limits of an owner's policy, from the lines of the audit log."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, NamedTuple

from fedws.core.registry import ReleaseKind
from fedws.privacy.feature_release import FeatureRelease
from fedws.protocol.messages import Answer, TaskFailure

CountedAs = Literal["", "request", "upload"]
"""What a line counts as for a day's limit: nothing, a request of its own, or a part of the run's upload."""
COUNTING_PERIOD = timedelta(days=1)
"""Time for which an answer counts for a day's limit."""
_COUNTED_AS_BY_PAYLOAD: dict[str, CountedAs] = {"tensors": "request", "features": "upload"}
"""What a line of an earlier version counts as, by its payload: such a line does not state it."""


def classify_answer(
    answer: Answer,
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


class SentUpload(NamedTuple):
    """An upload whose features left."""

    node: str
    dataset: str
    """Name of the data set; empty in lines of earlier versions, which may be of any."""
    peer: str
    """Id in the coordinator's certificate; empty where none was shown, and then it may be any coordinator."""
    upload_id: str


class UsageCounts:
    """What counts, of the lines that were added."""

    def __init__(self, *, track_recent: bool = False) -> None:
        """Keep what counts for a day's limit only with ``track_recent``: where no limit is set, nothing bounds its
        number."""
        self.track_recent = track_recent
        self._latest_times: dict[tuple[str, str], str] = {}  # node and what counts once, and the newest time
        self._uploads: set[SentUpload] = set()

    def add(self, line: Mapping[str, Any]) -> None:
        """Take in a line of an audit log."""
        now, time = datetime.now(UTC), _line_time(line)
        if self.track_recent and time >= (now - 2 * COUNTING_PERIOD).isoformat() and (what := counting_key(line)):
            key, latest = (str(line["node"]), what), (now + COUNTING_PERIOD).isoformat()
            possible = [it for it in (time, self._latest_times.get(key, "")) if it and it <= latest]
            self._latest_times[key] = max(possible, default=time)
        if line.get("payload") == "features":
            known = (str(line.get(key, "")) for key in ("node", "dataset", "peer", "upload_id"))
            self._uploads.add(SentUpload(*known))

    def answer_ages(self, node: str, period: timedelta = COUNTING_PERIOD) -> dict[str, float]:
        """Return what a node's lines of that time count as, over all runs: the age of each in seconds.

        The keys are what counts once, see :func:`counting_key`; of several lines the newest gives the age. A line of
        the future has age 0, since the clock was set back after it; further ahead than that time the clock was wrong,
        and the line does not count until its time has come. Older lines are forgotten.
        """
        now = datetime.now(UTC)
        earliest, latest = (now - period).isoformat(), now + period
        self._latest_times = {key: time for key, time in self._latest_times.items() if time >= earliest}
        times = {
            what: datetime.fromisoformat(time) for (whose, what), time in self._latest_times.items() if whose == node
        }
        return {what: max(0.0, (now - time).total_seconds()) for what, time in times.items() if time <= latest}

    def sent_upload_ids(self, node: str, dataset: str, peer: str) -> set[str]:
        """Return the ids of the uploads whose features left that node for that coordinator, over all time.

        Two coordinators are different only where a certificate proves both ids. What a line does not state may be
        anything, so it counts.
        """
        return {
            found.upload_id
            for found in self._uploads
            if found.node == node and found.dataset in ("", dataset) and (not peer or found.peer in ("", peer))
        }


def _line_time(line: Mapping[str, Any]) -> str:
    """Return when a line was written; now where a damaged line does not state a time, so that it counts."""
    try:
        return datetime.fromisoformat(str(line.get("time"))).astimezone(UTC).isoformat(timespec="milliseconds")
    except ValueError:
        return datetime.now(UTC).isoformat(timespec="milliseconds")


def counting_key(line: Mapping[str, Any]) -> str:
    """Return what is the same in all lines that count once; empty for a line that does not count."""
    counted_as = line.get("counted_as", _COUNTED_AS_BY_PAYLOAD.get(str(line.get("payload")), ""))
    if line.get("resent"):
        return ""
    if counted_as == "upload":
        return upload_key(str(line.get("upload_id")))
    return f"number {line.get('number')}" if counted_as == "request" else ""


def upload_key(upload_id: str) -> str:
    """Return what the lines of that upload count as.

    >>> upload_key("a5")
    'upload a5'
    """
    return f"upload {upload_id}"
