"""Former names of commands, flags and options.

The two demo scripts accept all former names of flags and options. ``fedws`` accepts only ``--strategy``; its errors
suggest the present names.
"""

import re
from collections.abc import Container, Mapping, Sequence
from types import MappingProxyType

ALGORITHM_ALIAS = "--strategy"
"""Former name of ``--algorithm``, which every command still accepts."""
FORMER_NODE_FLAGS: Mapping[str, str] = MappingProxyType(
    {"--testing": "--evaluator", "--digits": "--labels", "--seed": "--partition-seed", "--audit": "--audit-log"}
)
"""Former name of each flag with its present name, for the commands that serve a node."""
FORMER_FLAGS: Mapping[str, str] = MappingProxyType(
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
"""Former name of each flag with its present name, for all commands that have the flag."""
FORMER_VALUES: Mapping[tuple[str, str], str] = MappingProxyType(
    {("--wait-for-workers", "silence"): "peer_timeout", ("--encoding", "clear_bits"): "bits_without_noise"}
)
"""Flag and former value, with the present value."""
FORMER_OPTIONS: Mapping[tuple[str, str], Mapping[str, str]] = MappingProxyType(
    {
        ("--algorithm", "fedasync"): {"a": "alpha", "staleness": "staleness_function"},
        ("--algorithm", "fedbuff"): {"k": "buffer_size", "lr": "server_lr"},
        ("--algorithm", "mistnet"): {
            "cut": "split_at",
            "public": "public_dataset",
            "pretrained": "pretrained_path",
            "extractors": "num_extractors",
            "fine_tune": "extractor_epochs",
            "crop": "feature_shift",
        },
        ("--aggregator", "mean"): {"weighted": "weight_by_samples"},
        ("--sampler", "speed"): {"patience": "max_slowdown"},
    }
)
"""Flag and piece, with the former names of the piece's options and their present names."""
FORMER_COMMANDS: Mapping[str, str] = MappingProxyType({"nodes": "demo-nodes", "sizes": "communication-cost"})
"""Former name of each command with its present name."""


def select_former_flags(options: Container[str]) -> dict[str, str]:
    """Return the renamed flags of a command with these options, as former and present names.

    >>> select_former_flags({"--seed", "--rounds", "--evaluator"})
    {'--training-rounds': '--rounds'}
    """
    renamed = {**FORMER_FLAGS, **(FORMER_NODE_FLAGS if "--partition-seed" in options else {})}
    return {old: new for old, new in renamed.items() if new in options and old not in options}


class FlagTranslator:
    """Translator of flags to their present names, spelt with ``-``.

    It stores the names that the user gave, for error messages.
    """

    def __init__(self, *, accept_former_names: bool) -> None:
        self.accept_former_names = accept_former_names
        """True if all former names are accepted, and not only ``ALGORITHM_ALIAS``."""
        self._given_names: dict[str, str] = {}

    def accepted_names(self, options: Container[str]) -> dict[str, str]:
        """Return the former names that a command with these options accepts, each with its present name."""
        renamed = select_former_flags(options)
        return {old: new for old, new in renamed.items() if self.accept_former_names or old == ALGORITHM_ALIAS}

    def translate(self, args: Sequence[str], options: Container[str]) -> list[str]:
        """Return the arguments of a command with these options, with former names and values replaced."""
        accepted, last_flag = self.accepted_names(options), ""
        translated: list[str] = []
        for arg in args:
            flag, equals, value = arg.partition("=") if arg.startswith("--") else ("", "", arg)
            if flag:
                given = flag.replace("_", "-")
                last_flag = accepted.get(given, given)
                if last_flag != given:
                    self._given_names[last_flag] = given
            if self.accept_former_names:
                value = _translate_value(last_flag, value)
            translated.append(f"{last_flag}{equals}{value}" if flag else value)
        return translated

    def restore_given_names(self, text: str) -> str:
        """Return an error text in which each flag has the name that the user gave."""
        for flag, given in self._given_names.items():
            text = re.sub(rf"(?<![\w-]){flag}(?![\w-])", given, text)
        return text


def _translate_value(flag: str, value: str) -> str:
    """Return a flag's value with former names replaced by present ones.

    Both the value and the options of a piece may have former names.

    >>> _translate_value("--algorithm", "fedbuff:k=2,lr=0.5")
    'fedbuff:buffer_size=2,server_lr=0.5'
    >>> _translate_value("--algorithm", "mistnet:cut=conv1,encoding=clear_bits")
    'mistnet:split_at=conv1,encoding=bits_without_noise'
    """
    value = FORMER_VALUES.get((flag, value), value)
    piece, colon, options = value.partition(":")
    if not colon:
        return value
    renamed = FORMER_OPTIONS.get((flag, piece), {})
    pairs = (option.partition("=") for option in options.split(","))
    translated = (
        renamed.get(name, name) + equals + FORMER_VALUES.get((f"--{name}", text), text) for name, equals, text in pairs
    )
    return f"{piece}:{','.join(translated)}"
