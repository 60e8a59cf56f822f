"""What a node keeps on its disk because coordinators asked for MistNet's features: bounded in number, bytes and age.

A folder for each run holds features and labels until they are fetched, and then notes that they were. Beside the
folders lies the cache: tensors that coordinators sent.
"""

import contextlib
import math
import os
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

FACTS, FEATURES, LABELS, SENT, EXTRACTOR = "facts.json", "features", "labels", "sent", "extractor"
HELD = (FEATURES, LABELS, EXTRACTOR)
"""Files of a run that wait to be fetched, or to be continued; the others are notes."""
_ALL = (*HELD, FACTS, SENT)
CACHED = "extractor-"
"""What the names of cached tensors begin with; their digest follows."""
DAY = 24 * 3600.0
KEPT = 30 * DAY
"""Seconds for which features that are not fetched are kept, and what is not used of the cache."""
NOTED = 366 * DAY
"""Seconds for which the notes of a run are kept."""
MOST_NOTED = 1000
"""Runs of which there are notes, at most."""
MOST_CACHED = 64
"""Files in the cache, at most."""
CACHE = 2**31
"""Bytes of the cache, at most; but its newest file stays."""
MOST_WAITING = 8
"""Uploads of other runs that wait to be fetched, at most, when one more is made."""
WAITING = 2**33
"""Bytes of these, at most."""
LARGEST = 2**33
"""Bytes of one upload, at most."""
MOST_ASKED = 2**14
"""Bytes of the settings in the notes of a run."""
MOST_SENT = 10_000
"""Notes of what was sent of one upload, at most; what comes beyond counts as sent for the first time, each time."""


def prune(folder: Path) -> None:
    """Delete what is too old or too much, and first what was made or used longest ago."""
    prune_old(folder)
    for run in _beyond(_waiting(_runs(folder)), HELD, 0, MOST_WAITING, WAITING):
        empty(run)
    for run in _beyond(_runs(folder), _ALL, 0, MOST_NOTED):
        shutil.rmtree(run, ignore_errors=True)


def prune_old(folder: Path, own: str = "") -> None:
    """Delete what is too old, but not the folder named ``own``."""
    now = time.time()
    prune_cache(folder, now - KEPT)
    runs = [run for run in _runs(folder) if run.name != own]
    for run in _beyond(_waiting(runs), HELD, now - KEPT):
        empty(run)
    for run in _beyond(runs, _ALL, now - NOTED):
        shutil.rmtree(run, ignore_errors=True)


def prune_cache(folder: Path, earliest: float = 0.0) -> None:
    """Delete cached tensors that are too many, or were used before ``earliest``, in seconds since the epoch."""
    files = list(folder.glob(f"{CACHED}*"))
    newest = max(files, key=lambda path: _weighed(path, ())[0], default=None)
    for path in _beyond(files, (), earliest, MOST_CACHED, CACHE):
        if path != newest or _weighed(path, ())[0] < earliest:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


def empty(run: Path) -> None:
    """Delete all of a run but its notes."""
    for name in HELD:
        with contextlib.suppress(OSError):
            (run / name).unlink(missing_ok=True)


def _runs(folder: Path) -> list[Path]:
    return [path for path in folder.glob("*/") if path.is_dir()]


def _waiting(runs: Iterable[Path]) -> list[Path]:
    return [run for run in runs if any((run / name).exists() for name in HELD)]


def _beyond(
    paths: Iterable[Path], names: tuple[str, ...], earliest: float, most: float = math.inf, size: float = math.inf
) -> list[Path]:
    """Return those of ``paths`` that are older than ``earliest``, or beyond the newest ``most`` or ``size`` bytes."""
    found, total = [], 0
    weighed = sorted(((*_weighed(path, names), path) for path in paths), reverse=True)
    for number, (at, weight, path) in enumerate(weighed):
        total += weight
        if at < earliest or number >= most or total > size:
            found.append(path)
    return found


def _weighed(path: Path, names: tuple[str, ...]) -> tuple[float, int]:
    """Return when a file, or those files of a folder, were used last, and their bytes; 0 for what is gone."""
    stats: list[os.stat_result] = []
    for file in [path / name for name in names] if names else [path]:
        with contextlib.suppress(OSError):
            stats.append(file.stat())
    return max((stat.st_mtime for stat in stats), default=0.0), sum(stat.st_size for stat in stats)
