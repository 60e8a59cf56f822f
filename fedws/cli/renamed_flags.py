"""Flags that had another name before version 0.1: the two scripts accept the former names, ``fedws`` names the new."""

from collections.abc import Container, Mapping
from types import MappingProxyType

RENAMED_NODE_FLAGS: Mapping[str, str] = MappingProxyType(
    {"--testing": "--evaluator", "--digits": "--labels", "--seed": "--partition-seed", "--audit": "--audit-log"}
)
"""Former name of a flag to its name, in the commands that serve a node."""
RENAMED_FLAGS: Mapping[str, str] = MappingProxyType(
    {
        "--silence": "--peer-timeout",
        "--heartbeat": "--ping-interval",
        "--max-message": "--max-message-bytes",
        "--seal": "--encrypt-payloads",
        "--blobs": "--body-store",
        "--blobs-above": "--body-store-min-mb",
        "--expect": "--expect-workers",
        "--strategy": "--algorithm",
        "--training-rounds": "--rounds",
        "--weighted": "--weight-by-samples",
        "--no-weighted": "--no-weight-by-samples",
        "--chooser": "--sampler",
        "--quorum": "--min-results",
        "--over-select": "--over-selection",
        "--deadline": "--round-timeout",
        "--wait": "--wait-for-workers",
        "--score-workers": "--evaluate-worker-models",
        "--federate-after-n-batches": "--max-local-batches",
        "--max-features": "--max-feature-bytes",
        "--cut": "--split-at",
        "--fine-tune": "--extractor-epochs",
        "--workers": "--num-workers",
        "--speeds": "--slowdown",
        "--dropout": "--disconnects-per-hour",
        "--pause": "--mean-offline-minutes",
        "--hours": "--max-hours",
        "--target": "--target-accuracy",
        "--extractors": "--num-extractors",
        "--public": "--public-dataset",
        "--samples": "--num-images",
        "--starts": "--num-starts",
        "--shape": "--input-shape",
        "--records": "--num-records",
    }
)
"""Former name of a flag to its name, in the commands that have it."""
RENAMED_VALUES: Mapping[tuple[str, str], str] = MappingProxyType({("--wait-for-workers", "silence"): "peer_timeout"})
"""Flag and former value to the value."""


def select_renamed(options: Container[str]) -> dict[str, str]:
    """Return the renamed flags of a command that has these options.

    >>> select_renamed({"--seed", "--rounds", "--evaluator"})
    {'--training-rounds': '--rounds'}
    """
    renamed = {**RENAMED_FLAGS, **(RENAMED_NODE_FLAGS if "--partition-seed" in options else {})}
    return {old: new for old, new in renamed.items() if new in options and old not in options}
