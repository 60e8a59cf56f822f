"""Retention of what a node keeps on its disk for MistNet: limits on number, size and age.

A folder for each run holds features and labels until they are fetched, and then notes that they were sent. The cache,
beside the folders, holds tensors that coordinators sent.
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
"""Files of a run that wait to be fetched or continued; the other files are notes."""
_RUN_FILES = (*PAYLOAD_FILES, MANIFEST_FILE, SENT_FILE)
_RUN_NAME = re.compile(r"[0-9a-f]{64}")
CACHE_PREFIX = "extractor-"
"""Prefix of the names of cached tensors; their digest follows."""
DAY_SECONDS = 24 * 3600.0
RETENTION_SECONDS = 30 * DAY_SECONDS
"""Time in seconds for which features that are not fetched, and unused files of the cache, are kept."""
NOTES_RETENTION_SECONDS = 366 * DAY_SECONDS
"""Time in seconds for which the notes of a run are kept."""
MAX_RUNS_WITH_NOTES = 1000
"""Maximum number of runs with notes."""
MAX_CACHE_FILES = 64
"""Maximum number of files in the cache."""
MAX_CACHE_BYTES = 2**31
"""Maximum size of the cache in bytes; the newest file is kept in any case."""
MAX_PENDING_UPLOADS = 8
"""Maximum number of uploads of other runs that wait to be fetched when an upload is created."""
MAX_PENDING_BYTES = 2**33
"""Maximum size of these uploads in bytes."""
MAX_UPLOAD_BYTES = 2**33
"""Maximum size of one upload in bytes."""
MAX_SETTINGS_BYTES = 2**14
"""Maximum size of the settings in the notes of a run, in bytes."""
MAX_SENT_NOTES = 10_000
"""Maximum number of notes of sent records per upload; records beyond count as sent for the first time, each time."""


def prune_uploads(folder: Path) -> None:
    """Delete expired and excess data; the data that were made or used longest ago are deleted first."""
    prune_expired(folder)
    for run in _select_excess(
        _select_pending(_list_runs(folder)), PAYLOAD_FILES, 0, MAX_PENDING_UPLOADS, MAX_PENDING_BYTES
    ):
        delete_payload(run)
    for run in _select_excess(_list_runs(folder), _RUN_FILES, 0, MAX_RUNS_WITH_NOTES):
        shutil.rmtree(run, ignore_errors=True)


def prune_expired(folder: Path, current_run: str = "") -> None:
    """Delete expired data, except in the folder named ``current_run``."""
    now = time.time()
    prune_cache(folder, now - RETENTION_SECONDS)
    runs = [run for run in _list_runs(folder) if run.name != current_run]
    for run in _select_excess(_select_pending(runs), PAYLOAD_FILES, now - RETENTION_SECONDS):
        delete_payload(run)
    for run in _select_excess(runs, _RUN_FILES, now - NOTES_RETENTION_SECONDS):
        shutil.rmtree(run, ignore_errors=True)


def prune_cache(folder: Path, earliest: float = 0.0) -> None:
    """Delete cached tensors above the limits, or last used before ``earliest``, in seconds since the epoch."""
    files = list(folder.glob(f"{CACHE_PREFIX}*"))
    newest = max(files, key=lambda path: _last_use_and_bytes(path, ())[0], default=None)
    for path in _select_excess(files, (), earliest, MAX_CACHE_FILES, MAX_CACHE_BYTES):
        if path != newest or _last_use_and_bytes(path, ())[0] < earliest:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


def delete_payload(run: Path) -> None:
    """Delete all files of a run except its notes."""
    for name in PAYLOAD_FILES:
        with contextlib.suppress(OSError):
            (run / name).unlink(missing_ok=True)


def _list_runs(folder: Path) -> list[Path]:
    """Return the folders of runs; this module must not delete other content of ``folder``."""
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
    """Return those of ``paths`` that are older than ``earliest`` or above ``max_count`` or ``max_bytes``.

    The newest paths are counted first.
    """
    found, total = [], 0
    ranked = sorted(((*_last_use_and_bytes(path, file_names), path) for path in paths), reverse=True)
    for number, (last_use, size, path) in enumerate(ranked):
        total += size
        if last_use < earliest or number >= max_count or total > max_bytes:
            found.append(path)
    return found


def _last_use_and_bytes(path: Path, names: tuple[str, ...]) -> tuple[float, int]:
    """Return the time of last use of a file, or of named files in a folder, and the size in bytes.

    Missing files count as 0.
    """
    stats: list[os.stat_result] = []
    for file in [path / name for name in names] if names else [path]:
        with contextlib.suppress(OSError):
            stats.append(file.stat())
    return max((stat.st_mtime for stat in stats), default=0.0), sum(stat.st_size for stat in stats)
