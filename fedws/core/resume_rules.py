"""The plan of a run that continues: which of its settings may change, and where its nodes are now."""

from collections.abc import Mapping
from typing import Any

from fedws.core.errors import UsageError
from fedws.core.plan import Plan, build_plan

CHANGEABLE_ON_RESUME = frozenset(
    {
        "rounds",
        "listen",
        "peer_timeout",
        "ping_interval",
        "wait_for_workers",
        "max_message_bytes",
        "max_feature_bytes",
        "plugins",
    }
)
"""Settings that may be others when a run continues. The workers and all addresses may be others, too."""


def resume_plan(stored: Plan, settings: Mapping[str, Any], source: str) -> Plan:
    """Return the plan of a run that continues, with ``settings`` as they are now; workers that it adds come last.

    Raises UsageError that names a setting which must stay and differs.
    """
    plan = build_plan({**stored.model_dump(), **settings})
    for name in Plan.model_fields:
        new, old = getattr(plan, name), getattr(stored, name)
        if name == "evaluator":
            new, old = list(new), list(old)
        if name not in CHANGEABLE_ON_RESUME | {"workers"} and new != old:
            raise UsageError(f"{source}: its {name} stays what it is, {_format_value(old)}, not {_format_value(new)}")
    known = {worker: plan.workers[worker] for worker in stored.workers if worker in plan.workers}
    return plan.model_copy(update={"workers": {**known, **plan.workers}})


def merge_settings(stored: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """A stored plan's settings with those that are given now; who joins, or is to join now, does so at the new address.

    >>> merge_settings({"listen": "ws://a:1", "workers": {"alice": "ws://a:1", "bob": "ws://b:1"}}, {"listen": "ws://c:1"})
    {'listen': 'ws://c:1', 'workers': {'alice': 'ws://c:1', 'bob': 'ws://b:1'}}
    """
    found, there = {**stored, **overrides}, stored.get("listen")
    expected = overrides.get("expect_workers") or ()
    for kind in {"workers", "evaluator"} & stored.keys() - overrides.keys():
        if isinstance(stored[kind], dict):
            moved = {node for node, url in stored[kind].items() if url == there or node in expected}
            found[kind] = {node: found.get("listen") if node in moved else url for node, url in stored[kind].items()}
    nodes = [found.get(kind) for kind in ("workers", "evaluator")]
    if not {"listen", "expect_workers"} & overrides.keys() and all(
        isinstance(it, dict) and there not in it.values() for it in nodes
    ):
        found["listen"] = ""  # all are dialled now
    return found


def _format_value(value: Any) -> str:
    return (", ".join(value) or "none") if isinstance(value, list) else repr(value)
