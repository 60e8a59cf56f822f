"""The plan of a resumed run, with the settings that may change and the current addresses of its nodes."""

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
"""Settings that may change on resume; the workers and all addresses may change too."""


def resume_plan(stored: Plan, settings: Mapping[str, Any], source: str) -> Plan:
    """Return the plan of a resumed run, which is the stored plan with changed ``settings``; new workers come last.

    Raises UsageError if a setting differs that must not change. ``source`` is the prefix of its text.
    """
    plan = build_plan({**stored.model_dump(), **settings})
    for name in Plan.model_fields:
        new, old = getattr(plan, name), getattr(stored, name)
        if name == "evaluator":
            new, old = list(new), list(old)
        if name not in CHANGEABLE_ON_RESUME | {"workers"} and new != old:
            raise UsageError(f"{source}: cannot change {name} from {_format_value(old)} to {_format_value(new)}")
    known = {worker: plan.workers[worker] for worker in stored.workers if worker in plan.workers}
    return plan.model_copy(update={"workers": {**known, **plan.workers}})


def merge_settings(stored: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a stored plan, updated with ``overrides``.

    Nodes that connected to the stored ``listen`` address, and nodes in ``expect_workers``, get the new ``listen``
    address.

    >>> merge_settings({"listen": "ws://a:1", "workers": {"alice": "ws://a:1", "bob": "ws://b:1"}}, {"listen": "ws://c:1"})
    {'listen': 'ws://c:1', 'workers': {'alice': 'ws://c:1', 'bob': 'ws://b:1'}}
    """
    found, old_listen = {**stored, **overrides}, stored.get("listen")
    expected = overrides.get("expect_workers") or ()
    for kind in {"workers", "evaluator"} & stored.keys() - overrides.keys():
        if isinstance(stored[kind], dict):
            moved = {node for node, url in stored[kind].items() if url == old_listen or node in expected}
            found[kind] = {node: found.get("listen") if node in moved else url for node, url in stored[kind].items()}
    nodes = [found.get(kind) for kind in ("workers", "evaluator")]
    if not {"listen", "expect_workers"} & overrides.keys() and all(
        isinstance(addresses, dict) and old_listen not in addresses.values() for addresses in nodes
    ):
        found["listen"] = ""  # the coordinator now dials all nodes
    return found


def _format_value(value: Any) -> str:
    return (", ".join(value) or "none") if isinstance(value, list) else repr(value)
