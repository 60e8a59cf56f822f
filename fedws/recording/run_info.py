"""Functions that read ``run.json``, which holds a run's id, its plan, and the secret that continues it."""

import json
import re
from pathlib import Path
from typing import Any

from fedws.core.errors import UsageError
from fedws.core.plan import build_plan, read_plan_file
from fedws.recording import stored_records
from fedws.recording.run_layout import PLAN_FILE, RUN_INFO_FILE

RUN_FORMAT = 2
"""Format of ``run.json`` and the files beside it; other formats are rejected."""
_SECRET_PATTERN = re.compile("[0-9a-f]{64}")


def load_plan_settings(path: Path) -> dict[str, Any]:
    """Return the settings in the plan file of a run.

    Raises UsageError for a directory without a run, or without a valid plan file.
    """
    read_run_info(path)
    try:
        return read_plan_file(path / PLAN_FILE)
    except UsageError as error:
        raise UsageError(f"--resume {path}: {str(error).removeprefix('--plan ')}") from None


def finished_rounds(path: Path) -> int:
    """Return the number of rounds of a finished run, or 0 if the run has not finished.

    Raises UsageError for a directory without a run.
    """
    run_info = read_run_info(path)
    return build_plan(run_info["plan"]).rounds if run_info["finished"] else 0


def read_run_info(path: Path) -> dict[str, Any]:
    """Return the content of ``run.json``.

    Raises UsageError if the file is missing, cannot be read, is invalid, or has another format.
    """
    if not path.is_dir():
        raise UsageError(f"--resume {path}: directory not found")
    try:
        run_info = json.loads((path / RUN_INFO_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        what = "the directory is empty" if not any(path.iterdir()) else "run.json not found; no run has begun there"
        raise UsageError(f"--resume {path}: {what}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"--resume {path}: cannot read run.json: {error}") from None
    number = run_info.get("format") if isinstance(run_info, dict) else None
    if isinstance(number, int) and number > RUN_FORMAT:
        what = f"written by a newer fedws (format {number}; this one reads {RUN_FORMAT})"
        raise UsageError(f"--resume {path}: {what}; resume it with that version")
    if isinstance(number, int) and 0 < number < RUN_FORMAT and {"run", "finished", "plan"} <= run_info.keys():
        what = f"written by an older fedws (format {number}; this one reads {RUN_FORMAT})"
        raise UsageError(f"--resume {path}: {what}; resume it with that version")
    # A run of an earlier version has no secret.
    secret = run_info.get("secret", "0" * 64) if isinstance(run_info, dict) else None
    whole = isinstance(secret, str) and _SECRET_PATTERN.fullmatch(secret)
    if number != RUN_FORMAT or not whole or not {"run_id", "finished", "plan"} <= run_info.keys():
        raise UsageError(f"--resume {path}: run.json was not written by fedws")
    if problem := stored_records.run_info_problem(run_info):
        raise UsageError(f"--resume {path}: run.json is invalid: {problem}")
    return dict(run_info)
