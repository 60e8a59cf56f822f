"""``python -m evaluator``: the dedicated evaluator, from its command to the record of a run."""

import json

from tests.helpers.processes import Processes, assert_one_line, dialling, ended_well, serving
from tests.helpers.support import REPOSITORY


def test_a_run_records_the_confusion_matrix_of_each_model(processes: Processes) -> None:
    """Of every model that is evaluated; its sum and its diagonal are the numbers that the evaluation has."""
    processes.environment["PYTHONPATH"] = str(REPOSITORY)
    flags = processes.tiny()
    urls = serving(
        {
            "alice": processes.fork("worker", "--id", "alice", "--port", "0", *flags),
            "testing": processes.start("-m", "evaluator", "--port", "0", *flags),
        }
    )
    ended_well(
        processes.fork("run", *dialling(urls), *flags, "--rounds", "1", "--evaluate-every", "1",
                       "--loss", "cross_entropy", "--run-dir", "run")
    )  # fmt: skip
    records = [json.loads(line) for line in (processes.folder / "run" / "metrics.jsonl").read_text().splitlines()]
    scores = [record for record in records if record["kind"] == "evaluation"]
    assert {record["model"] for record in scores} == {"alice", "federated"}
    for record in scores:
        matrix = record["tables"]["confusion"]
        assert [len(row) for row in matrix] == [10] * 10 and [sum(row) for row in matrix] == [4] * 10
        assert sum(matrix[label][label] for label in range(10)) == record["num_correct"]
        assert [sum(column) for column in zip(*matrix, strict=True)] == record["predicted_label_counts"]


def test_a_data_set_that_does_not_exist_is_one_line(processes: Processes) -> None:
    processes.environment["PYTHONPATH"] = str(REPOSITORY)
    assert_one_line(processes.start("-m", "evaluator", "--dataset", "minst"), "unknown dataset 'minst'", status=1)
