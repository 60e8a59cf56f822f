"""What a worker of MistNet may state to have: no more records than it declared, and no more bytes than a run stores."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fedws.core.errors import RejectedUpdate
from fedws.protocol.answer_size import compute_tensors_size
from fedws.protocol.messages import DEFAULT_COORDINATOR_ID, TaskRequest, TaskResult
from fedws.scheduling.events import WorkerConnected
from fedws.split_learning.upload_progress import UploadManifest, UploadProgress
from tests.helpers.collect_run import Run
from tests.helpers.federation import registered

FACTS = UploadManifest(
    num_records=1442, feature_bytes=360, feature_shape=(20, 12, 12), encoding="bits", epsilon=2.0, label_epsilon=4.0
)
EACH = 360 + 8
"""Bytes of one record, with its label."""
RUN = 120 * (2 + 8)
"""Bytes of one worker's records in a run here."""


@pytest.fixture(autouse=True)
def _pieces() -> Iterator[None]:
    with registered():
        yield


def pretrained(folder: Path, **more: Any) -> Run:
    """A run whose workers are asked for features next."""
    run = Run("mistnet", folder, **more)
    while not any(order.worker != DEFAULT_COORDINATOR_ID for order in run.open.values()):
        run.take(run.answer(run.open[min(run.open)]))
    return run


def next_order(run: Run, worker: str) -> TaskRequest | None:
    return next((order for order in run.open.values() if order.worker == worker), None)


def extracted(run: Run, worker: str, **more: Any) -> tuple[TaskRequest, TaskResult]:
    """The order to extract that is open, and the honest answer to it, once the worker has the extractor.

    The answers before it, which ask for the extractor, have ``more`` in them.
    """
    while True:
        order = next_order(run, worker)
        assert order is not None and order.task == "mistnet.extract"
        answer = run.answer(order)
        assert isinstance(answer, TaskResult)
        if "needs_tensors" not in answer.metrics:
            return order, answer
        run.take(replace(answer, **more))


def states(run: Run, worker: str, records: int, **more: Any) -> None:
    """State so many records, three times if it is asked again."""
    _, honest = extracted(run, worker, **more)
    for _ in range(3):
        order = next_order(run, worker)
        if order is None or order.task != "mistnet.extract":
            return
        metrics = {**honest.metrics, "num_records": records}
        run.take(replace(honest, request_id=order.request_id, round=order.round, metrics=metrics, **more))


# --------------------------------------------------------------------------- one statement


def test_records_are_admitted_up_to_the_samples_declared_and_the_room_that_is_left() -> None:
    FACTS.check_quota(1442, 0, 1442 * EACH)
    with pytest.raises(RejectedUpdate, match=r"^1,442 records exceed the 1,441 samples declared$"):
        FACTS.check_quota(1441, 0, 2**40)
    wanted = (
        r"^1,442 records take 530,656 bytes beside 1 bytes of other workers, "
        r"but this run stores at most 530,656 bytes; start the coordinator with --max-feature-bytes 530657$"
    )
    with pytest.raises(RejectedUpdate, match=wanted):
        FACTS.check_quota(1442, 1, 1442 * EACH)


def test_a_delivery_has_all_of_its_records_until_its_worker_is_excluded() -> None:
    assert UploadProgress().total_bytes() == UploadProgress().total_bytes(excluded=True) == 0
    begun = UploadProgress(manifest=FACTS.model_dump(), num_received=100)
    assert (begun.total_bytes(), begun.total_bytes(excluded=True)) == (1442 * EACH, 100 * EACH)


# --------------------------------------------------------------------------- in a run


@pytest.mark.parametrize("records", [121, 2**40])
def test_a_worker_that_states_more_records_than_it_declared_is_excluded(records: int, tmp_path: Path) -> None:
    """The attack: 120 samples declared, 2^40 records stated, and the coordinator fetched them until its disk was full.

    That its reports also state that many samples changes nothing.
    """
    run = pretrained(tmp_path, min_results=2)
    states(run, "bob", records, num_examples=records)
    assert run.excluded == {"bob"}
    (line,) = [line for line in run.lines if line.startswith("bob is excluded")]
    assert f"invalid features: {records:,} records exceed the 120 samples declared, three times in a row" in line
    assert not [order for order in run.orders if (order.worker, order.task) == ("bob", "mistnet.upload")]


def test_who_declares_more_on_a_new_link_may_have_more(tmp_path: Path) -> None:
    run = pretrained(tmp_path)
    run.take(WorkerConnected(worker="bob", num_examples=121))
    states(run, "bob", 121)
    assert not run.excluded and run.state.uploads["bob"].manifest["num_records"] == 121


def test_the_records_of_all_workers_together_are_bounded_before_anything_is_uploaded(tmp_path: Path) -> None:
    run = pretrained(tmp_path, min_results=2, max_feature_bytes=2 * RUN + 100)
    for worker in ("alice", "charlie"):
        run.take(extracted(run, worker)[1])
    states(run, "bob", 120)
    assert run.excluded == {"bob"}
    (line,) = [line for line in run.lines if line.startswith("bob is excluded")]
    what = "120 records take 1,200 bytes beside 2,400 bytes of other workers, but this run stores at most 2,500 bytes"
    assert f"{what}; start the coordinator with --max-feature-bytes 3600" in line
    assert not run.stored
    run = pretrained(tmp_path / "other", min_results=2, max_feature_bytes=3 * RUN)
    states(run, "bob", 120)
    assert not run.excluded


def test_what_an_excluded_worker_stated_and_never_sent_leaves_room_for_others(tmp_path: Path) -> None:
    run = pretrained(tmp_path, min_results=2, max_feature_bytes=2 * RUN)
    for worker in ("bob", "alice"):
        run.take(extracted(run, worker)[1])
    for _ in range(3):
        order = next_order(run, "bob")
        assert order is not None and order.task == "mistnet.upload"
        run.take(TaskResult(request_id=order.request_id, worker="bob", round=order.round, num_examples=120))
    assert run.excluded == {"bob"}
    run.take(extracted(run, "charlie")[1])
    assert run.excluded == {"bob"} and run.state.uploads["charlie"].manifest


def test_an_answer_is_expected_to_be_as_large_as_the_chunk_that_is_asked_for(tmp_path: Path) -> None:
    run = pretrained(tmp_path)
    order, made = extracted(run, "bob")
    assert order.max_result_bytes == 0 and not made.tensors
    run.take(made)
    asked = next_order(run, "bob")
    assert asked is not None and asked.task == "mistnet.upload"
    sent = run.answer(asked)
    assert isinstance(sent, TaskResult) and asked.max_result_bytes == compute_tensors_size(sent.tensors) > 0
