"""Warnings that a result carries as codes, and the log line of each."""

from fedws.protocol.messages import Json

NOT_LOG_PROBABILITIES = "not_log_probabilities"
LOG_LINES = {
    NOT_LOG_PROBABILITIES: "The model's outputs are not log-probabilities, which loss nll needs; "
    "use --loss cross_entropy",
}
"""The line of each code; a peer sends the code alone."""


def get_log_lines(metrics: Json) -> list[str]:
    """Return the log lines of the warnings that a result's metrics carry; an unknown code has none.

    >>> get_log_lines({"loss": 0.3}), len(get_log_lines({"warnings": ["not_log_probabilities", "rm"]}))
    ([], 1)
    """
    codes = metrics.get("warnings", ())
    return [line for code, line in LOG_LINES.items() if isinstance(codes, list) and code in codes]
