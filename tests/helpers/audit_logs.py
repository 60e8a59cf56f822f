"""Audit logs of some lines, and the problems that their verification finds."""

from pathlib import Path
from typing import Any

from fedws.privacy.audit_entry import AuditEntry
from fedws.privacy.audit_log import AuditLog
from fedws.privacy.audit_verify import verify_log


def entry(number: int = 1, **changes: Any) -> AuditEntry:
    given: dict[str, Any] = {
        "time": f"2026-11-21T10:00:{number % 60:02}.000+00:00",
        "node": "alice",
        "coordinator": "coordinator",
        "run": "12345678",
        "request_id": f"{number}/alice",
        "round": number,
        "task": "fedavg.fit",
        "model": "mlp",
        "outcome": "result",
        "payload": "tensors",
        "num_bytes": 1000 + number,
    }
    return AuditEntry(**{**given, **changes})


def log(folder: Path, lines: int = 5) -> Path:
    """Return an audit log of so many lines."""
    path = folder / "alice.jsonl"
    kept = AuditLog(path)
    for number in range(1, lines + 1):
        kept.append(entry(number))
    return path


def head(path: Path) -> Path:
    return path.with_name(f"{path.name}.head")


def problems(path: Path) -> list[str]:
    return verify_log(path)[1]
