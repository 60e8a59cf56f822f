"""What counts for the limits of an owner's policy, from the lines of the audit log."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, NamedTuple

Counted = Literal["", "request", "upload"]
"""What a line counts as for a day's limit: nothing, a request of its own, or a part of the run's upload."""
CLOCK = 0.001
"""Seconds that a line may be of the future: a time is written down in whole milliseconds."""
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

    def __init__(self) -> None:
        self._recent: list[tuple[str, str, str]] = []  # node, time, and what counts once
        self._uploads: set[Upload] = set()

    def add(self, line: Mapping[str, Any]) -> None:
        """Take in a line of an audit log."""
        if what := once(line):
            self._recent.append((str(line["node"]), str(line["time"]), what))
        if line.get("data") == "features":
            known = (str(line.get(key, "")) for key in ("node", "dataset", "peer", "upload"))
            self._uploads.add(Upload(*known))

    def left(self, node: str, since: timedelta = DAY) -> dict[str, float]:
        """Return what a node's lines of that time count as, over all runs: the age of each in seconds.

        The keys are what counts once, see :func:`once`; of several lines the newest gives the age. Lines of the
        future, from a clock that was ahead, do not count until their time has come. Older lines are forgotten.
        """
        now = datetime.now(UTC)
        earliest = (now - since).isoformat()
        self._recent = [entry for entry in self._recent if entry[1] >= earliest]
        ages: dict[str, float] = {}
        for whose, time, what in self._recent:
            age = (now - datetime.fromisoformat(time)).total_seconds()
            if whose == node and age >= -CLOCK:
                ages[what] = max(0.0, min(age, ages.get(what, age)))
        return ages

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
