"""What a node keeps on its disk because coordinators asked for MistNet's features: bounded in number, bytes and age.

A folder for each run holds features and labels until they are fetched, and then notes that they were. Beside the
folders lies the cache: tensors that coordinators sent.
"""

import contextlib
import math
import os
import re
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

MANIFEST_FILE, FEATURES_FILE, LABELS_FILE, SENT_FILE, EXTRACTOR_FILE = (
    "manifest.json",
    "features",
    "labels",
    "sent",
    "extractor",
)
PAYLOAD_FILES = (FEATURES_FILE, LABELS_FILE, EXTRACTOR_FILE)
"""Files of a run that wait to be fetched, or to be continued; the others are notes."""
_RUN_FILES = (*PAYLOAD_FILES, MANIFEST_FILE, SENT_FILE)
_RUN_NAME = re.compile(r"[0-9a-f]{64}")
CACHE_PREFIX = "extractor-"
"""What the names of cached tensors begin with; their digest follows."""
DAY_SECONDS = 24 * 3600.0
RETENTION_SECONDS = 30 * DAY_SECONDS
"""Seconds for which features that are not fetched are kept, and what is not used of the cache."""
NOTES_RETENTION_SECONDS = 366 * DAY_SECONDS
"""Seconds for which the notes of a run are kept."""
MAX_RUNS_WITH_NOTES = 1000
"""Runs of which there are notes, at most."""
MAX_CACHE_FILES = 64
"""Files in the cache, at most."""
MAX_CACHE_BYTES = 2**31
"""Bytes of the cache, at most; but its newest file stays."""
MAX_PENDING_UPLOADS = 8
"""Uploads of other runs that wait to be fetched, at most, when one more is made."""
MAX_PENDING_BYTES = 2**33
"""Bytes of these, at most."""
MAX_UPLOAD_BYTES = 2**33
"""Bytes of one upload, at most."""
MAX_SETTINGS_BYTES = 2**14
"""Bytes of the settings in the notes of a run."""
MAX_SENT_NOTES = 10_000
"""Notes of what was sent of one upload, at most; what comes beyond counts as sent for the first time, each time."""


def prune_uploads(folder: Path) -> None:
    """Delete what is too old or too much, and first what was made or used longest ago."""
    prune_expired(folder)
    for run in _select_excess(
        _select_pending(_list_runs(folder)), PAYLOAD_FILES, 0, MAX_PENDING_UPLOADS, MAX_PENDING_BYTES
    ):
        delete_payload(run)
    for run in _select_excess(_list_runs(folder), _RUN_FILES, 0, MAX_RUNS_WITH_NOTES):
        shutil.rmtree(run, ignore_errors=True)


def prune_expired(folder: Path, current_run: str = "") -> None:
    """Delete what is too old, but not the folder named ``current_run``."""
    now = time.time()
    prune_cache(folder, now - RETENTION_SECONDS)
    runs = [run for run in _list_runs(folder) if run.name != current_run]
    for run in _select_excess(_select_pending(runs), PAYLOAD_FILES, now - RETENTION_SECONDS):
        delete_payload(run)
    for run in _select_excess(runs, _RUN_FILES, now - NOTES_RETENTION_SECONDS):
        shutil.rmtree(run, ignore_errors=True)


def prune_cache(folder: Path, earliest: float = 0.0) -> None:
    """Delete cached tensors that are too many, or were used before ``earliest``, in seconds since the epoch."""
    files = list(folder.glob(f"{CACHE_PREFIX}*"))
    newest = max(files, key=lambda path: _last_use_and_bytes(path, ())[0], default=None)
    for path in _select_excess(files, (), earliest, MAX_CACHE_FILES, MAX_CACHE_BYTES):
        if path != newest or _last_use_and_bytes(path, ())[0] < earliest:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


def delete_payload(run: Path) -> None:
    """Delete all of a run but its notes."""
    for name in PAYLOAD_FILES:
        with contextlib.suppress(OSError):
            (run / name).unlink(missing_ok=True)


def _list_runs(folder: Path) -> list[Path]:
    """Return the folders of runs; anything else in ``folder`` is not this module's to delete."""
    return [path for path in folder.glob("*/") if _RUN_NAME.fullmatch(path.name) and path.is_dir()]


def _select_pending(runs: Iterable[Path]) -> list[Path]:
    return [run for run in runs if any((run / name).exists() for name in PAYLOAD_FILES)]


def _select_excess(
    paths: Iterable[Path],
    file_names: tuple[str, ...],
    earliest: float,
    max_count: float = math.inf,
    max_bytes: float = math.inf,
) -> list[Path]:
    """Return those of ``paths`` that are older than ``earliest``, or beyond the newest ``max_count`` or ``max_bytes``
    bytes."""
    found, total = [], 0
    weighed = sorted(((*_last_use_and_bytes(path, file_names), path) for path in paths), reverse=True)
    for number, (at, weight, path) in enumerate(weighed):
        total += weight
        if at < earliest or number >= max_count or total > max_bytes:
            found.append(path)
    return found


def _last_use_and_bytes(path: Path, names: tuple[str, ...]) -> tuple[float, int]:
    """Return when a file, or those files of a folder, were used last, and their bytes; 0 for what is gone."""
    stats: list[os.stat_result] = []
    for file in [path / name for name in names] if names else [path]:
        with contextlib.suppress(OSError):
            stats.append(file.stat())
    return max((stat.st_mtime for stat in stats), default=0.0), sum(stat.st_size for stat in stats)
