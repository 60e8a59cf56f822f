"""The warnings that a result contains as codes, and the log line of each code."""

from fedws.protocol.messages import Json

NOT_LOG_PROBABILITIES = "not_log_probabilities"
LOG_LINES = {
    NOT_LOG_PROBABILITIES: "The model's outputs are not log-probabilities, which loss nll requires; "
    "use --loss cross_entropy",
}
"""Log line of each code; a peer sends only the code."""


def get_log_lines(metrics: Json) -> list[str]:
    """Return the log lines of the warnings in a result's metrics; unknown codes are ignored.

    >>> get_log_lines({"loss": 0.3}), len(get_log_lines({"warnings": ["not_log_probabilities", "rm"]}))
    ([], 1)
    """
    codes = metrics.get("warnings", ())
    return [line for code, line in LOG_LINES.items() if isinstance(codes, list) and code in codes]
