"""MistNet on a worker: what it makes of its samples, once, and what it sends of that."""

import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fedws.core import registry
from fedws.core.limits import MessageLimits
from fedws.core.tensors import hash_tensors
from fedws.node.worker import Worker
from fedws.privacy.audit_chain import read_lines
from fedws.privacy.audit_log import AuditLog
from fedws.privacy.policy import Policy
from fedws.protocol.messages import TaskFailure, TaskResult
from fedws.protocol.run_claim import RunClaim
from fedws.split_learning.extractor_pool import pack_state_dicts
from fedws.split_learning.model_split import split_model
from fedws.training import model_building
from tests.helpers.federation import Points, registered
from tests.helpers.mistnet_requests import extraction, features, on_data, order, part, reason, strategy, weights, worker


@pytest.fixture(autouse=True, scope="module")
def _pieces() -> Iterator[None]:
    with registered():
        yield


def test_it_asks_for_the_extractor_once_and_keeps_it_by_its_digest(tmp_path: Path) -> None:
    node = worker(tmp_path)
    asked = node.execute(extraction(send=False))
    assert isinstance(asked, TaskResult) and asked.metrics == {"needs_tensors": "extractor"} and not asked.tensors
    made = node.execute(extraction(send=True, number=2))
    assert isinstance(made, TaskResult) and not made.tensors
    assert made.metrics == {
        "num_records": 120, "feature_bytes": 2, "feature_shape": [11],
        "encoding": "bits", "epsilon": 2.0, "label_epsilon": 4.0, "label_shape": [], "label_dtype": "int64",
    }  # fmt: skip
    again = worker(tmp_path, run="second").execute(extraction(send=False))
    assert isinstance(again, TaskResult) and again.metrics["num_records"] == 120


def test_what_it_sends_are_the_features_of_its_samples_with_noise(tmp_path: Path) -> None:
    """With so much epsilon that no bit is flipped, they are the very features."""
    node = worker(tmp_path, policy=Policy(labels="clear", max_epsilon=50))
    assert isinstance(node.execute(extraction(epsilon=50, labels="clear")), TaskResult)
    sent = node.execute(part())
    assert isinstance(sent, TaskResult)
    module, data = model_building.build_model("points_net", seed=0), Points(Path(), True)
    module.load_state_dict(dict(weights()))
    extractor, _ = split_model(module, "relu")
    with torch.inference_mode():
        features = extractor(torch.stack([data[index][0] for index in range(120)]))
    encoding = registry.build_piece("encoding", "bits:epsilon=50")
    assert torch.equal(encoding.decode(sent.tensors["features"], (11,)), (features > 0).float())
    assert torch.equal(sent.tensors["labels"], data.targets)


def test_its_noise_is_not_the_orders(tmp_path: Path) -> None:
    """The same order, with the same seed, to the same data, in another run: other flips."""
    sent = []
    for run in ("first", "second"):
        node = worker(tmp_path, run=run)
        node.execute(extraction(epsilon=0.1))
        found = node.execute(part())
        assert isinstance(found, TaskResult)
        sent.append(found.tensors["features"])
    assert not torch.equal(*sent)


def test_a_repeated_request_gets_the_same_bits_and_spends_nothing(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "log")
    first = worker(tmp_path, audit_log=log)
    first.execute(extraction())
    sent = [first.execute(part(0, 60)), first.execute(part(60, 60, 3)), first.execute(part(0, 60, 4))]
    restarted = worker(tmp_path, audit_log=log)
    sent += [restarted.execute(extraction(number=5)), restarted.execute(part(0, 60, 6))]
    features = [answer.tensors.get("features") for answer in sent if isinstance(answer, TaskResult)]
    assert features[0] is not None and features[2] is not None and features[4] is not None
    assert torch.equal(features[0], features[2]) and torch.equal(features[0], features[4])
    lines = [(line["payload"], line["epsilon"]) for line in read_lines(log.path) if line is not None]
    spent = 11 * 2.0 + 4.0
    features_spent = [spent, spent, 0.0, 0.0]
    assert lines == [
        ("metrics", None), *(("features", it) for it in features_spent[:3]), ("metrics", None), ("features", 0.0),
    ]  # fmt: skip


def test_other_settings_in_the_same_run_are_refused(tmp_path: Path) -> None:
    node = worker(tmp_path)
    assert isinstance(node.execute(extraction()), TaskResult)
    for changes in ({"epsilon": 1}, {"label_epsilon": 1}, {"split_at": "inner"}, {"encoding": "sue"}):
        assert "new noise would spend privacy twice" in reason(node.execute(extraction(number=2, **changes)))
    assert isinstance(node.execute(extraction(number=3)), TaskResult)


def test_what_was_acknowledged_is_gone_and_not_made_again(tmp_path: Path) -> None:
    node = worker(tmp_path)
    node.execute(extraction())
    node.execute(part())
    done = order(strategy().configure_acknowledgement(), 3)
    assert isinstance(node.execute(done), TaskResult) and isinstance(node.execute(done), TaskResult)
    assert reason(node.execute(part(number=4))) == "alice has deleted the features of this run"
    assert isinstance(node.execute(extraction(number=5)), TaskResult), "it tells what they were, and makes no new ones"
    assert reason(node.execute(part(number=6))) == "alice has deleted the features of this run"


def test_a_run_without_an_id_gets_none(tmp_path: Path) -> None:
    """It could not ask for the same bits again, and would get new noise each time."""
    node = worker(tmp_path, run="")
    assert reason(node.execute(extraction())) == (
        "features refused: the run has no id that distinguishes it from others; connect with an id"
    )


def test_a_days_rounds_count_every_run_once_however_it_is_called(tmp_path: Path) -> None:
    """Ids that begin alike are other runs, with other noise; the chunks of one run are one."""
    log, sent = AuditLog(tmp_path / "log"), 0
    for number in range(4):
        node = worker(
            tmp_path, run=f"aaaaaaaa{number}", policy=Policy(max_answers_per_day=2, max_uploads=9), audit_log=log
        )
        if isinstance(node.execute(extraction()), TaskFailure):
            break
        for first in (0, 60):
            assert isinstance(node.execute(part(first, 60, first + 2)), TaskResult)
        assert isinstance(node.execute(order(strategy().configure_acknowledgement(), 99)), TaskResult)
        sent += 1
    assert sent == 2


def test_a_policy_that_names_the_model_lets_its_features_leave(tmp_path: Path) -> None:
    node = worker(tmp_path, policy=Policy(models=("points_net",)))
    for asked in (extraction(), part(), order(strategy().configure_acknowledgement(), 3)):
        assert isinstance(node.execute(asked), TaskResult)
    other = worker(tmp_path, run="second", policy=Policy(models=("points_*",)))
    other.execute(extraction())
    why = reason(other.execute(order(strategy().configure_upload(0, 1), 2, model="points_linear")))
    assert why == "the features of this run are from model 'points_net', not 'points_linear'"


@pytest.mark.parametrize("how", ["the log cannot be written", "it is too large"])
def test_what_did_not_leave_was_not_sent(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the first copy that does leave would be written down as one that spends nothing."""
    log = AuditLog(tmp_path / "log")
    node = worker(tmp_path, audit_log=log)
    node.execute(extraction())
    with monkeypatch.context() as patch:
        if how == "the log cannot be written":
            patch.setattr(AuditLog, "append", lambda *_: (_ for _ in ()).throw(OSError("no")))
            assert isinstance(node.execute(part()), TaskFailure)
        else:
            assert isinstance(node.execute(part(), MessageLimits(100)), TaskFailure)
    assert isinstance(node.execute(part(number=3)), TaskResult)
    lines = [line for line in read_lines(log.path) if line is not None]
    assert lines[-1]["epsilon"] == 11 * 2.0 + 4.0


def test_a_sample_that_overflows_is_not_told_by_the_answer(tmp_path: Path) -> None:
    """An extractor could be made to overflow for some samples alone."""
    tensors = {**weights(), "inner.weight": torch.full((11, 4), 3e38)}
    ask = strategy(encoding="laplace").configure_extraction(tensors, {}, 10, send=True)
    node = worker(tmp_path, policy=Policy(encodings=("laplace",)))
    assert isinstance(node.execute(order(ask)), TaskResult)


def test_nothing_is_sent_that_was_not_made(tmp_path: Path) -> None:
    node = worker(tmp_path)
    assert reason(node.execute(part())) == "alice has no features of this run"
    assert isinstance(node.execute(order(strategy().configure_acknowledgement())), TaskResult)
    node.execute(extraction())
    node.start_run(RunClaim("second", "lab"))
    assert reason(node.execute(part())) == "alice has no features of this run"


@pytest.mark.parametrize(("first", "count"), [(0, 121), (120, 1), (119, 2), (2**40, 1)])
def test_records_beyond_the_last_are_refused(first: int, count: int, tmp_path: Path) -> None:
    node = worker(tmp_path)
    node.execute(extraction())
    assert "invalid chunk: " in reason(node.execute(part(first, count)))


def test_by_default_floats_and_clear_labels_do_not_leave(tmp_path: Path) -> None:
    node = worker(tmp_path)
    refused = "policy: features encoded as"
    allowed = "are not allowed; encodings of the policy: bits, sue, oue"
    assert reason(node.execute(extraction(encoding="floats"))) == f"{refused} 'floats' {allowed}"
    assert (
        reason(node.execute(extraction(encoding="bits_without_noise"))) == f"{refused} 'bits_without_noise' {allowed}"
    )
    assert (
        reason(node.execute(extraction(labels="clear")))
        == "policy: clear labels are not allowed; labels of the policy: randomised"
    )
    assert not list((tmp_path / "uploads").glob("*/features")), "nothing was computed"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"extractors": ["0" * 64]}, "the received tensors do not match the requested digests"),
        ({"extractors": ["../x"]}, "extractors.0: .*"),
        ({"split_at": "nowhere"}, "--split-at nowhere: unknown split point in PointsNet; choose from inner, relu"),
        ({"split_at": "inner", "model": "mlp"}, "--split-at inner: unknown split point in Mlp; choose from .*"),
        (
            {"model": "points_net:inputs=5"},
            r"the extractor of points_net:inputs=5, split at relu, .* \[11, 4\].*",
        ),
        ({"model": "none"}, "unknown model 'none'.*"),
        ({"encoding": "none"}, "unknown encoding 'none'.*"),
        ({"encoding": "bits:epsilon=0"}, "encoding bits: epsilon: .*"),
        ({"encoding": "bits:epsilon=nan"}, "encoding bits: epsilon: .*"),
        ({"label_epsilon": 0.0}, "label_epsilon: .*"),
        ({"label_epsilon": "4"}, "label_epsilon: .*"),
        ({"dataset": "mnist"}, "alice has data set 'points', not 'mnist'"),
    ],
)
def test_an_order_that_cannot_be_meant_is_refused(changes: dict[str, Any], why: str, tmp_path: Path) -> None:
    assert re.fullmatch(f"(settings: )?{why}", reason(worker(tmp_path).execute(extraction(changes=changes))))


def test_tensors_of_another_model_are_not_kept(tmp_path: Path) -> None:
    """Else the disk could be filled, with the digests of anything."""
    other = {"big": torch.zeros(1000)}
    asked = extraction(send=False, changes={"extractors": [hash_tensors(other)]})
    why = reason(worker(tmp_path).execute(replace(asked, tensors=pack_state_dicts([other]))))
    assert why.startswith("the extractor of points_net, split at relu, differs on this node: ")
    assert not list((tmp_path / "uploads").glob("*"))


def test_samples_and_labels_that_do_not_fit_are_told_in_the_nodes_log_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = strategy("points_net:inputs=5").configure_extraction(weights("points_net:inputs=5"), {}, 10, send=True)
    assert on_data(worker(tmp_path).execute(order(made)))
    assert "samples of shape [4] on alice do not fit the extractor of points_net:inputs=5" in caplog.text
    assert on_data(worker(tmp_path).execute(extraction(changes={"num_classes": 5})))
    assert "alice has labels outside the 5 classes of points_net" in caplog.text


def test_inference_needs_no_gradients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    forward = nn.Linear.forward

    def watched(self: nn.Linear, inputs: torch.Tensor) -> torch.Tensor:
        seen.append((torch.is_grad_enabled(), torch.is_inference_mode_enabled(), self.out_features))
        return forward(self, inputs)

    monkeypatch.setattr(nn.Linear, "forward", watched)
    worker(tmp_path).execute(extraction())
    assert seen and set(seen) == {(False, True, 11)}, "the head is not run"


class Lines(Points):
    """Points whose label is the point before the last."""

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        point, _ = super().__getitem__(index)
        return point, point[:2]


def test_labels_that_are_no_classes_leave_as_they_are(tmp_path: Path) -> None:
    data = Lines(Path(), True)
    node = Worker("alice", "points", data, state_dir=tmp_path, policy=Policy(labels="clear"))
    node.start_run(RunClaim("first", "lab"))
    asked = order(strategy(labels="clear").configure_extraction(weights(), {}, 0, send=True))
    made = node.execute(asked)
    assert isinstance(made, TaskResult) and (made.metrics["label_shape"], made.metrics["label_dtype"]) == (
        [2],
        "float32",
    )
    sent = node.execute(part())
    assert isinstance(sent, TaskResult)
    assert torch.equal(sent.tensors["labels"], torch.stack([data[index][1] for index in range(120)]))


def test_labels_that_are_no_classes_cannot_be_randomised(tmp_path: Path) -> None:
    asked = extraction(changes={"num_classes": 0})
    assert "labels that are not classes cannot be randomised" in reason(worker(tmp_path).execute(asked))
    node = Worker("alice", "points", Lines(Path(), True), state_dir=tmp_path)
    node.start_run(RunClaim("first", "lab"))
    assert on_data(node.execute(extraction()))


def test_new_noise_for_a_run_whose_notes_are_gone_counts_as_a_new_run(tmp_path: Path) -> None:
    """Notes are kept for a bounded time; the audit log, which counts, stays."""
    log = AuditLog(tmp_path / "audit.jsonl")
    node = worker(tmp_path, policy=Policy(max_answers_per_day=1, max_uploads=2), audit_log=log)
    assert isinstance(node.execute(extraction()), TaskResult)
    assert len(features(node.execute(part()))) == 120
    assert len(features(node.execute(part(number=3)))) == 120, "the same bits count once"
    (folder,) = (path for path in (tmp_path / "uploads").iterdir() if path.is_dir())
    shutil.rmtree(folder)
    assert "the limit of" in reason(node.execute(extraction(number=4)))
    assert "the limit of" in reason(node.execute(part(number=5)))


def test_settings_that_are_too_long_are_refused_before_a_sample_is_read(tmp_path: Path) -> None:
    """So the coordinator gets the reason, and the request counts for no limit."""
    log = AuditLog(tmp_path / "audit.jsonl")
    node = worker(tmp_path, policy=Policy(max_answers_per_day=1), audit_log=log)
    padded = extraction(changes={"encoding": "bits" + " " * 20_000})
    assert "bytes exceed the limit of 16,384 bytes" in reason(node.execute(padded))
    assert log.answer_ages("alice") == {} and not (tmp_path / "uploads").exists()
