"""What counts for the limits of an owner's policy, from the lines of the audit log."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, NamedTuple

Counted = Literal["", "request", "upload"]
"""What a line counts as for a day's limit: nothing, a request of its own, or a part of the run's upload."""
DAY = timedelta(days=1)
_OLD: dict[str, Counted] = {"tensors": "request", "features": "upload"}
"""What a line of an earlier version counts as, by the data that left: such a line does not state it."""


class Upload(NamedTuple):
    """An upload whose features left."""

    node: str
    dataset: str
    """Name of the data set; empty in lines of earlier versions, which may be of any."""
    peer: str
    """Id in the coordinator's certificate; empty where none was shown, and then it may be any coordinator."""
    upload: str


class Counts:
    """What counts, of the lines that were added."""

    def __init__(self, *, days: bool = False) -> None:
        """Keep what counts for a day's limit only with ``days``: where no limit is set, nothing bounds its number."""
        self.days = days
        self._recent: dict[tuple[str, str], str] = {}  # node and what counts once, and the newest time
        self._uploads: set[Upload] = set()

    def add(self, line: Mapping[str, Any]) -> None:
        """Take in a line of an audit log."""
        now, time = datetime.now(UTC), _time(line)
        if self.days and time >= (now - 2 * DAY).isoformat() and (what := once(line)):
            key, latest = (str(line["node"]), what), (now + DAY).isoformat()
            possible = [it for it in (time, self._recent.get(key, "")) if it and it <= latest]
            self._recent[key] = max(possible, default=time)
        if line.get("data") == "features":
            known = (str(line.get(key, "")) for key in ("node", "dataset", "peer", "upload"))
            self._uploads.add(Upload(*known))

    def left(self, node: str, since: timedelta = DAY) -> dict[str, float]:
        """Return what a node's lines of that time count as, over all runs: the age of each in seconds.

        The keys are what counts once, see :func:`once`; of several lines the newest gives the age. A line of the
        future has age 0, since the clock was set back after it; further ahead than that time the clock was wrong, and
        the line does not count until its time has come. Older lines are forgotten.
        """
        now = datetime.now(UTC)
        earliest, latest = (now - since).isoformat(), now + since
        self._recent = {key: time for key, time in self._recent.items() if time >= earliest}
        times = {what: datetime.fromisoformat(time) for (whose, what), time in self._recent.items() if whose == node}
        return {what: max(0.0, (now - time).total_seconds()) for what, time in times.items() if time <= latest}

    def uploads(self, node: str, dataset: str, peer: str) -> set[str]:
        """Return the ids of the uploads whose features left that node for that coordinator, over all time.

        Two coordinators are different only where a certificate proves both ids. What a line does not state may be
        anything, so it counts.
        """
        return {
            found.upload
            for found in self._uploads
            if found.node == node and found.dataset in ("", dataset) and (not peer or found.peer in ("", peer))
        }


def _time(line: Mapping[str, Any]) -> str:
    """Return when a line was written; now where a damaged line does not state a time, so that it counts."""
    try:
        return datetime.fromisoformat(str(line.get("time"))).astimezone(UTC).isoformat(timespec="milliseconds")
    except ValueError:
        return datetime.now(UTC).isoformat(timespec="milliseconds")


def once(line: Mapping[str, Any]) -> str:
    """Return what is the same in all lines that count once; empty for a line that does not count."""
    counts = line.get("counts", _OLD.get(str(line.get("data")), ""))
    if line.get("again"):
        return ""
    if counts == "upload":
        return upload(str(line.get("upload")))
    return f"number {line.get('number')}" if counts == "request" else ""


def upload(name: str) -> str:
    """Return what the lines of that upload count as.

    >>> upload("a5")
    'upload a5'
    """
    return f"upload {name}"
