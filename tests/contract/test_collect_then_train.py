"""Every registered strategy that gathers once and trains at the coordinator: whatever happens to its workers, what they

noised is sent once, arrives whole, and is trained on; and the run ends, with a model or with a reason.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedws.core import registry
from fedws.protocol.messages import DEFAULT_COORDINATOR_ID, TaskRequest, TaskResult
from fedws.scheduling.events import RoundTimeout, WorkerConnected, WorkerDisconnected
from fedws.split_learning.base import is_collect_then_train
from fedws.split_learning.extractor_pool import unpack_state_dicts
from fedws.split_learning.feature_store import StoredFeatures
from tests.helpers.collect_run import EPOCHS, OPTIONS, Run, failed
from tests.helpers.federation import WORKERS, registered

NAMES = [
    name for name in registry.list_pieces("algorithm") if is_collect_then_train(registry.find_piece("algorithm", name))
]
CALM = settings(deadline=None, max_examples=10, suppress_health_check=[HealthCheck.too_slow])
every = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(autouse=True, scope="module")
def _pieces() -> Iterator[None]:
    with registered():
        yield


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "fedws.split_learning.upload_progress.MAX_CHUNK_BYTES", 10 * 50
    )  # fifty records of two bytes, and eight for a label


def whole(run: Run) -> StoredFeatures:
    """All records of all workers, each once."""
    records = run.store.load_features()
    assert len(records) == len(WORKERS) * 120
    return records


@every
@CALM
@given(random=st.randoms(use_true_random=False))
def test_it_trains_on_every_record_however_the_answers_come(
    name: str, random: Random, tmp_path_factory: pytest.TempPathFactory
) -> None:
    run = Run(name, tmp_path_factory.mktemp("run")).finish(random)
    assert run.strategy.version(run.state) == EPOCHS and not run.strategy.failure(run.state)
    whole(run)
    record = run.strategy.record(run.state)
    assert (record["num_results"], record["num_examples"]) == (3, 360)
    assert any(not torch.equal(run.strategy.model(run.state)[key], run.initial[key]) for key in run.initial)


@every
def test_the_extractor_is_what_was_pretrained_and_stays_so(name: str, tmp_path: Path) -> None:
    run = Run(name, tmp_path)
    while not any(order.worker != DEFAULT_COORDINATOR_ID for order in run.open.values()):
        run.take(run.answer(run.open[min(run.open)]))
    before = run.strategy.model(run.state)
    after = run.finish(Random(1)).strategy.model(run.state)
    sent = {
        key
        for order in run.orders
        if order.worker != DEFAULT_COORDINATOR_ID
        for piece in unpack_state_dicts(order.tensors)
        for key in piece
    }
    assert sent == {"inner.weight", "inner.bias"}, "nobody is sent the head"
    assert all(torch.equal(before[key], after[key]) for key in sent)
    assert not torch.equal(before["outer.weight"], after["outer.weight"])
    assert not torch.equal(before["inner.weight"], run.initial["inner.weight"]), "pretraining changes all of it"


@every
@pytest.mark.parametrize("optimizer", ["sgd:momentum=0.9", "adam"])
def test_what_an_optimizer_remembers_goes_with_the_orders(optimizer: str, name: str, tmp_path: Path) -> None:
    run = Run(name, tmp_path, optimizer=optimizer).finish(Random(1))
    assert run.strategy.version(run.state) == EPOCHS and not run.strategy.failure(run.state)
    orders = [order for order in run.orders if order.task == f"{name}.train"]
    assert [bool(set(order.tensors) - set(run.initial)) for order in orders] == [False, True]


@every
@pytest.mark.parametrize(
    "options", ["extractor=random", "extractor_epochs=1", "extractor=random,extractor_epochs=1,labels=clear"]
)
def test_it_trains_on_every_record_whichever_extractors_made_them(options: str, name: str, tmp_path: Path) -> None:
    run = Run(name, tmp_path, algorithm=f"{OPTIONS[name]},{options}")
    for node in run.nodes.values():
        node.policy = node._context.policy.model_copy(update={"labels": "clear", "tasks": ("*", "mistnet.fine_tune")})
        node._context = replace(node._context, policy=node.policy)
        node.releases._context = node._context
    run.finish(Random(1))
    assert run.strategy.version(run.state) == EPOCHS and not run.strategy.failure(run.state)
    whole(run)
    assert set(run.strategy.model(run.state)) == set(run.initial), "the model has one extractor, whatever was drawn"


@every
def test_a_worker_is_never_asked_to_train(name: str, tmp_path: Path) -> None:
    run = Run(name, tmp_path).finish(Random(1))
    asked = {order.task for order in run.orders if order.worker != DEFAULT_COORDINATOR_ID}
    assert asked == {f"{name}.extract", f"{name}.upload", f"{name}.acknowledge"}


@every
@settings(CALM, max_examples=12)
@given(data=st.data())
def test_a_run_ends_under_any_schedule(
    name: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Answers, failures, losses, returns, deadlines and restarts of the coordinator in any order."""
    quorum = data.draw(st.sampled_from([0, 1, 2]), "quorum")
    here = data.draw(st.sets(st.sampled_from(WORKERS)), "here")
    run = Run(name, tmp_path_factory.mktemp("run"), sorted(here), min_results=quorum)
    for _ in range(data.draw(st.integers(0, 25), "events")):
        if run.over:
            break
        choices = [*run.open, *(f"joins {worker}" for worker in WORKERS if worker not in run.here)]
        choices += [*(f"leaves {worker}" for worker in sorted(run.here)), "deadline", "restart"]
        choice = data.draw(st.sampled_from(choices), "event")
        what, _, worker = choice.partition(" ")
        if choice in run.open:
            order = run.open[choice]
            kinds = ["answer", "answer", "answer", "failed", "rejected", "lost"]
            kind: Any = data.draw(
                st.sampled_from(kinds if order.worker != DEFAULT_COORDINATOR_ID else kinds[:4]), "kind"
            )
            run.take(run.answer(order) if kind == "answer" else failed(order, kind))
        elif what == "joins":
            run.take(WorkerConnected(worker=worker, num_examples=120))
        elif what == "leaves":
            for order in [order for order in run.open.values() if order.worker == worker]:
                run.take(failed(order, "lost"))
            run.take(WorkerDisconnected(worker=worker, reason="gone"))
        elif what == "deadline":
            run.take(RoundTimeout(version=run.strategy.version(run.state)))
        else:
            run.resume()
    for worker in sorted(set(WORKERS) - run.here):
        if not run.over:
            run.take(WorkerConnected(worker=worker, num_examples=120))
    run.finish(Random(1))
    assert run.over
    if not run.strategy.failure(run.state):
        assert run.strategy.version(run.state) == EPOCHS
        assert len(run.store.load_features()) >= 120 * (quorum or 3)


@every
def test_a_quorum_begins_when_the_time_is_up_and_who_is_late_still_takes_part(name: str, tmp_path: Path) -> None:
    run = Run(name, tmp_path, min_results=1)
    alice = [order for order in run.open.values() if order.worker in ("alice", DEFAULT_COORDINATOR_ID)]
    while alice:
        run.take(run.answer(alice[0]))
        alice = [order for order in run.open.values() if order.worker in ("alice", DEFAULT_COORDINATOR_ID)]
    assert len(run.store.load_features()) == 120 and {order.worker for order in run.open.values()} == {"bob", "charlie"}
    run.take(RoundTimeout(version=0))
    (epoch,) = [order for order in run.open.values() if order.worker == DEFAULT_COORDINATOR_ID]
    first = run.answer(epoch)
    assert isinstance(first, TaskResult) and first.metrics["num_examples"] == 120
    for worker in ("bob", "charlie"):
        while mine := [order for order in run.open.values() if order.worker == worker]:
            run.take(run.answer(mine[0]))
    run.take(first)
    run.finish(Random(1))
    assert run.strategy.record(run.state)["num_examples"] == 360, "in the epoch after"
    late = [line for line in run.lines if line.endswith("they are used from the next epoch on")]
    assert [line.partition(" ")[0] for line in late] == ["bob", "charlie"]


@every
@pytest.mark.parametrize("what", ["features", "bytes", "labels", "label", "missing", "bit"])
def test_what_was_not_asked_for_is_rejected_and_what_had_arrived_stays(name: str, what: str, tmp_path: Path) -> None:
    run = Run(name, tmp_path)
    uploads: list[TaskRequest] = []
    while len(uploads) < 2:
        order = next(order for order in run.open.values() if order.worker in ("alice", DEFAULT_COORDINATOR_ID))
        uploads += [order] if order.task.endswith(".upload") else []
        if len(uploads) < 2:
            run.take(run.answer(order))
    good = run.answer(uploads[1])
    assert isinstance(good, TaskResult) and len(run.store.load_features()) == 50
    features, labels = good.tensors["features"], good.tensors["labels"]
    bad: dict[str, dict[str, torch.Tensor]] = {
        "features": {"features": features[:-1], "labels": labels},
        "bytes": {"features": features[:, :1], "labels": labels},
        "labels": {"features": features, "labels": labels.to(torch.int32)},
        "label": {"features": features, "labels": labels + 9},
        "missing": {"features": features},
        "bit": {"features": features | 1, "labels": labels},
    }
    for _ in range(2):
        order = next(order for order in run.open.values() if order.worker == "alice")
        run.take(
            TaskResult(
                request_id=order.request_id, worker="alice", round=order.round, num_examples=120, tensors=bad[what]
            )
        )
        assert "alice sent a result that was rejected" in run.lines[-1]
        assert len(run.store.load_features()) == 50
    run.finish(Random(1))
    assert run.strategy.version(run.state) == EPOCHS
    whole(run)


HOSTILE: dict[str, dict[str, Any] | None] = {
    "another epsilon": {"epsilon": 100.0},
    "another encoding": {"encoding": "floats", "feature_bytes": 44},
    "another shape of as many bytes": {"feature_shape": [12]},
    "a huge shape": {"feature_shape": [2**40], "feature_bytes": 2**37},
    "no records": {"num_records": 0},
    "no end of records": {"num_records": 2**62},
    "a text": {"num_records": "many"},
    "labels of another shape": {"label_shape": [9]},
    "other labels": {"label_dtype": "float32"},
    "labels without bounds": {"label_shape": [2**40, 2**40]},
    "one thing more": {"chunk": 2**62},
    "nothing": None,
}


@every
@pytest.mark.parametrize("what", HOSTILE)
def test_a_worker_with_other_features_than_asked_for_is_excluded(name: str, what: str, tmp_path: Path) -> None:
    """Also the first to answer: it is not the others who are wrong."""
    run, changes = Run(name, tmp_path, min_results=2), HOSTILE[what]
    for _ in range(3):
        while True:
            order = next(order for order in run.open.values() if order.worker in ("charlie", DEFAULT_COORDINATOR_ID))
            found = run.answer(order)
            if order.worker == "charlie" and isinstance(found, TaskResult) and "feature_shape" in found.metrics:
                break
            run.take(found)
        metrics = {**found.metrics, **changes} if changes is not None else {}
        run.take(TaskResult(**{**vars(found), "metrics": metrics}))
    assert "charlie" in run.excluded
    run.finish(Random(1))
    assert run.strategy.version(run.state) == EPOCHS and len(run.store.load_features()) == 240


@every
def test_training_that_fails_three_times_ends_the_run_with_its_reason(name: str, tmp_path: Path) -> None:
    run = Run(name, tmp_path)
    while not run.over:
        order = next((order for order in run.open.values() if order.task.endswith(".train")), None)
        run.take(failed(order, "failed") if order else run.answer(run.open[min(run.open)]))
    assert run.strategy.failure(run.state).endswith("the cable was cut, three times in a row")
    whole(run)


@every
def test_a_worker_whose_records_are_here_is_not_needed_any_more(name: str, tmp_path: Path) -> None:
    """Be it that it never hears that they are."""
    run = Run(name, tmp_path)
    while not run.over and run.open:
        order = run.open[min(run.open)]
        lost = order.worker == "bob" and order.task.endswith(".acknowledge")
        run.take(failed(order, "failed") if lost else run.answer(order))
    assert "bob" in run.excluded and run.strategy.version(run.state) == EPOCHS
    whole(run)


@every
def test_a_killed_coordinator_goes_on_with_what_is_stored(name: str, tmp_path: Path) -> None:
    """And every worker sends only what is missing."""
    run = Run(name, tmp_path)
    while len(run.stored) < 4:
        run.take(run.answer(run.open[max(run.open)]))
    before = len(run.orders)
    assert sum(delivery.num_received for delivery in run.saved.uploads.values()) < 4 * 50, "not all of it was saved"
    run.resume()
    run.finish(Random(1))
    whole(run)
    uploads = [order for order in run.orders[before:] if order.task.endswith(".upload")]
    assert len(uploads) == 9 - 4, "three chunks of each of three workers, of which four were here"
