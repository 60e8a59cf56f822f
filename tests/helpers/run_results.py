"""The numbers of results in a run's record."""

import fedws


def answered(result: fedws.RunResult) -> list[int]:
    return [record["num_results"] for record in result.metrics if record["kind"] == "round"]
