"""MistNet's tasks, as a worker carries them out and as the coordinator's own node does."""

import errno
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fedws import learning, lessons, registry
from fedws.adaptation import Adaptation
from fedws.algorithms.mistnet import MistNet, train
from fedws.audit import Audit, read
from fedws.coded import Coded
from fedws.cuts import split
from fedws.errors import UsageError
from fedws.extractors import join, parts
from fedws.featurestore import FeatureStore
from fedws.messages import Failure, Order, Report
from fedws.plan import Scoring, Training
from fedws.policy import Policy
from fedws.tensors import Tensors, detached, digest
from fedws.worker import Worker
from tests.nodes import Points, registered


@pytest.fixture(autouse=True, scope="module")
def _pieces() -> Iterator[None]:
    with registered():
        yield


TOLD = ("records", "bytes", "shape", "encoding", "epsilon", "label_epsilon", "label_shape", "label_dtype")


def strategy(model: str = "points_net", **options: Any) -> MistNet:
    chosen = ",".join(f"{key}={value}" for key, value in {"cut": "relu", **options}.items())
    made = registry.build("strategy", f"mistnet:{chosen}", Training(model=model, dataset="points"))
    assert isinstance(made, MistNet)
    return made


def weights(model: str = "points_net") -> Tensors:
    return detached(learning.initial(model, seed=3).state_dict())


def order(ask: Any, number: int = 1, **changes: Any) -> Order:
    asked = {"task": ask.task, "settings": {**ask.settings, **changes}, "tensors": ask.tensors}
    return Order(id=f"{number}/alice", worker="alice", round=number, **asked)


def worker(folder: Path, run: str = "first", **more: Any) -> Worker:
    made = Worker("alice", "points", Points(Path(), True), state=folder / "uploads", **more)
    made.begin(run, "lab")
    return made


def extraction(send: bool = True, number: int = 1, changes: dict[str, Any] | None = None, **options: Any) -> Order:
    return order(strategy(**options).extraction(weights(), {}, 10, send=send), number, **(changes or {}))


def part(first: int = 0, count: int = 120, number: int = 2) -> Order:
    return order(strategy().upload(first, count), number)


def reason(answer: Report | Failure) -> str:
    assert isinstance(answer, Failure) and answer.kind == "refused", answer
    return answer.reason


# --------------------------------------------------------------------------- on the worker


def test_it_asks_for_the_extractor_once_and_keeps_it_by_its_digest(tmp_path: Path) -> None:
    node = worker(tmp_path)
    asked = node.answer(extraction(send=False))
    assert isinstance(asked, Report) and asked.metrics == {"wanted": "extractor"} and not asked.tensors
    made = node.answer(extraction(send=True, number=2))
    assert isinstance(made, Report) and not made.tensors
    assert made.metrics == {
        "records": 120, "bytes": 2, "shape": [11],
        "encoding": "bits", "epsilon": 2.0, "label_epsilon": 4.0, "label_shape": [], "label_dtype": "int64",
    }  # fmt: skip
    again = worker(tmp_path, run="second").answer(extraction(send=False))
    assert isinstance(again, Report) and again.metrics["records"] == 120


def test_what_it_sends_are_the_features_of_its_samples_with_noise(tmp_path: Path) -> None:
    """With so much epsilon that no bit is flipped, they are the very features."""
    node = worker(tmp_path, policy=Policy(labels="clear", epsilon=50))
    assert isinstance(node.answer(extraction(epsilon=50, labels="clear")), Report)
    sent = node.answer(part())
    assert isinstance(sent, Report)
    module, data = learning.initial("points_net", seed=0), Points(Path(), True)
    module.load_state_dict(dict(weights()))
    extractor, _ = split(module, "relu")
    with torch.inference_mode():
        features = extractor(torch.stack([data[index][0] for index in range(120)]))
    encoding = registry.build("encoding", "bits:epsilon=50")
    assert torch.equal(encoding.decode(sent.tensors["features"], (11,)), (features > 0).float())
    assert torch.equal(sent.tensors["labels"], data.targets)


def test_its_noise_is_not_the_orders(tmp_path: Path) -> None:
    """The same order, with the same seed, to the same data, in another run: other flips."""
    sent = []
    for run in ("first", "second"):
        node = worker(tmp_path, run=run)
        node.answer(extraction(epsilon=0.1))
        found = node.answer(part())
        assert isinstance(found, Report)
        sent.append(found.tensors["features"])
    assert not torch.equal(*sent)


def test_a_repeated_request_gets_the_same_bits_and_spends_nothing(tmp_path: Path) -> None:
    log = Audit(tmp_path / "log")
    first = worker(tmp_path, audit=log)
    first.answer(extraction())
    sent = [first.answer(part(0, 60)), first.answer(part(60, 60, 3)), first.answer(part(0, 60, 4))]
    restarted = worker(tmp_path, audit=log)
    sent += [restarted.answer(extraction(number=5)), restarted.answer(part(0, 60, 6))]
    features = [answer.tensors.get("features") for answer in sent if isinstance(answer, Report)]
    assert features[0] is not None and features[2] is not None and features[4] is not None
    assert torch.equal(features[0], features[2]) and torch.equal(features[0], features[4])
    lines = [(line["data"], line["epsilon"]) for line in read(log.path) if line is not None]
    spent = 11 * 2.0 + 4.0
    features_spent = [spent, spent, 0.0, 0.0]
    assert lines == [
        ("numbers", None), *(("features", it) for it in features_spent[:3]), ("numbers", None), ("features", 0.0),
    ]  # fmt: skip


def test_other_settings_in_the_same_run_are_refused(tmp_path: Path) -> None:
    node = worker(tmp_path)
    assert isinstance(node.answer(extraction()), Report)
    for changes in ({"epsilon": 1}, {"label_epsilon": 1}, {"cut": "inner"}, {"encoding": "sue"}):
        assert "new noise would spend privacy twice" in reason(node.answer(extraction(number=2, **changes)))
    assert isinstance(node.answer(extraction(number=3)), Report)


def test_what_was_acknowledged_is_gone_and_not_made_again(tmp_path: Path) -> None:
    node = worker(tmp_path)
    node.answer(extraction())
    node.answer(part())
    done = order(strategy().acknowledgement(), 3)
    assert isinstance(node.answer(done), Report) and isinstance(node.answer(done), Report)
    assert reason(node.answer(part(number=4))) == "alice has deleted the features of this run"
    assert isinstance(node.answer(extraction(number=5)), Report), "it tells what they were, and makes no new ones"
    assert reason(node.answer(part(number=6))) == "alice has deleted the features of this run"


def test_a_run_without_an_id_gets_none(tmp_path: Path) -> None:
    """It could not ask for the same bits again, and would get new noise each time."""
    node = worker(tmp_path, run="")
    assert reason(node.answer(extraction())) == "a run without an id could not ask for the same features again"


def test_a_days_rounds_count_every_run_once_however_it_is_called(tmp_path: Path) -> None:
    """Ids that begin alike are other runs, with other noise; the chunks of one run are one."""
    log, sent = Audit(tmp_path / "log"), 0
    for number in range(4):
        node = worker(tmp_path, run=f"aaaaaaaa{number}", policy=Policy(rounds_per_day=2), audit=log)
        if isinstance(node.answer(extraction()), Failure):
            break
        for first in (0, 60):
            assert isinstance(node.answer(part(first, 60, first + 2)), Report)
        assert isinstance(node.answer(order(strategy().acknowledgement(), 99)), Report)
        sent += 1
    assert sent == 2


def test_a_policy_that_names_the_model_lets_its_features_leave(tmp_path: Path) -> None:
    node = worker(tmp_path, policy=Policy(models=("points_net",)))
    for asked in (extraction(), part(), order(strategy().acknowledgement(), 3)):
        assert isinstance(node.answer(asked), Report)
    other = worker(tmp_path, run="second", policy=Policy(models=("points_*",)))
    other.answer(extraction())
    why = reason(other.answer(order(strategy().upload(0, 1), 2, model="points_linear")))
    assert why == "the features of this run are of points_net, not of points_linear"


@pytest.mark.parametrize("how", ["the log cannot be written", "it is too large"])
def test_what_did_not_leave_was_not_sent(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the first copy that does leave would be written down as one that spends nothing."""
    log = Audit(tmp_path / "log")
    node = worker(tmp_path, audit=log)
    node.answer(extraction())
    with monkeypatch.context() as patch:
        if how == "the log cannot be written":
            patch.setattr(Audit, "add", lambda *_: (_ for _ in ()).throw(OSError("no")))
            assert isinstance(node.answer(part()), Failure)
        else:
            assert isinstance(node.answer(part(), 100), Failure)
    assert isinstance(node.answer(part(number=3)), Report)
    lines = [line for line in read(log.path) if line is not None]
    assert lines[-1]["epsilon"] == 11 * 2.0 + 4.0


def test_a_sample_that_overflows_is_not_told_by_the_answer(tmp_path: Path) -> None:
    """An extractor could be made to overflow for some samples alone."""
    tensors = {**weights(), "inner.weight": torch.full((11, 4), 3e38)}
    ask = strategy(encoding="laplace").extraction(tensors, {}, 10, send=True)
    node = worker(tmp_path, policy=Policy(features=("laplace",)))
    assert isinstance(node.answer(order(ask)), Report)


def test_nothing_is_sent_that_was_not_made(tmp_path: Path) -> None:
    node = worker(tmp_path)
    assert reason(node.answer(part())) == "alice has no features of this run"
    assert isinstance(node.answer(order(strategy().acknowledgement())), Report)
    node.answer(extraction())
    node.begin("second", "lab")
    assert reason(node.answer(part())) == "alice has no features of this run"


@pytest.mark.parametrize(("first", "count"), [(0, 121), (120, 1), (119, 2), (2**40, 1)])
def test_records_beyond_the_last_are_refused(first: int, count: int, tmp_path: Path) -> None:
    node = worker(tmp_path)
    node.answer(extraction())
    assert "are no chunk of 120" in reason(node.answer(part(first, count)))


def test_by_default_floats_and_clear_labels_do_not_leave(tmp_path: Path) -> None:
    node = worker(tmp_path)
    refused = "the policy here does not allow features encoded as"
    assert reason(node.answer(extraction(encoding="floats"))) == f"{refused} floats"
    assert reason(node.answer(extraction(encoding="clear_bits"))) == f"{refused} clear_bits"
    assert reason(node.answer(extraction(labels="clear"))) == "the policy here lets no clear labels leave"
    assert not list((tmp_path / "uploads").glob("*/features")), "nothing was computed"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"extractors": ["0" * 64]}, "the extractor is not the one that was pretrained: its digest is another"),
        ({"extractors": ["../x"]}, "extractors.0: .*"),
        ({"cut": "nowhere"}, "--cut nowhere: there is no such cut in PointsNet; there are: inner, relu"),
        ({"cut": "inner", "model": "mlp"}, "--cut inner: there is no such cut in Mlp; there are: .*"),
        (
            {"model": "points_net:inputs=5"},
            r"the extractor of points_net:inputs=5, cut at relu, .* \[11, 4\].*",
        ),
        ({"model": "none"}, "unknown model 'none'.*"),
        ({"encoding": "none"}, "unknown encoding 'none'.*"),
        ({"encoding": "bits:epsilon=0"}, "encoding bits: epsilon: .*"),
        ({"encoding": "bits:epsilon=nan"}, "encoding bits: epsilon: .*"),
        ({"label_epsilon": 0.0}, "label_epsilon: .*"),
        ({"label_epsilon": "4"}, "label_epsilon: .*"),
        ({"classes": 5}, "alice holds labels beyond the 5 of points_net"),
        ({"dataset": "mnist"}, "alice holds points, not mnist"),
    ],
)
def test_an_order_that_cannot_be_meant_is_refused(changes: dict[str, Any], why: str, tmp_path: Path) -> None:
    assert re.fullmatch(f"(settings: )?{why}", reason(worker(tmp_path).answer(extraction(changes=changes))))


def test_samples_of_another_shape_are_told_by_their_shape_alone(tmp_path: Path) -> None:
    made = strategy("points_net:inputs=5").extraction(weights("points_net:inputs=5"), {}, 10, send=True)
    why = reason(worker(tmp_path).answer(order(made)))
    assert why == "samples of [4] on alice do not fit the extractor of points_net:inputs=5"


def test_a_full_disk_is_said_and_nothing_is_half_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    node = worker(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        assert reason(node.answer(extraction())) == "alice cannot keep its features: No space left on device"
    assert isinstance(node.answer(extraction(number=2)), Report)


def test_inference_needs_no_gradients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    forward = nn.Linear.forward

    def watched(self: nn.Linear, inputs: torch.Tensor) -> torch.Tensor:
        seen.append((torch.is_grad_enabled(), torch.is_inference_mode_enabled(), self.out_features))
        return forward(self, inputs)

    monkeypatch.setattr(nn.Linear, "forward", watched)
    worker(tmp_path).answer(extraction())
    assert seen and set(seen) == {(False, True, 11)}, "the head is not run"


# --------------------------------------------------------------------------- drawn and adapted extractors


def others() -> Tensors:
    return lessons.beginnings("points_net", "relu", 2)


def features(sent: Report | Failure) -> torch.Tensor:
    assert isinstance(sent, Report), sent
    return sent.tensors["features"]


def made_by(extractor: Tensors) -> torch.Tensor:
    """The bits of that extractor, without noise, as they would be sent."""
    module, data = split(learning.initial("points_net", seed=0), "relu")[0], Points(Path(), True)
    module.load_state_dict(dict(extractor))
    with torch.inference_mode():
        values = module(torch.stack([data[index][0] for index in range(120)]))
    packed: torch.Tensor = registry.build("encoding", "bits:epsilon=50").encode(values, None)
    return packed


def test_a_worker_draws_one_of_several_extractors_and_does_not_say_which(tmp_path: Path) -> None:
    made = strategy(extractor="random", epsilon=50)
    model = weights()
    several = [{name: model[name] for name in ("inner.weight", "inner.bias")}, *parts(others())]
    possible, drawn = [made_by(one) for one in several], set()
    for number in range(60):  # one of three is never drawn with a chance of 3 (2 / 3)^60 < 1e-9
        node = worker(tmp_path, run=f"run {number}", policy=Policy(epsilon=50))
        wanted = node.answer(order(made.extraction(model, others(), 10, send=number == 0)))
        assert isinstance(wanted, Report) and set(wanted.metrics) == {*TOLD}
        bits = features(node.answer(part()))
        (which,) = [place for place, one in enumerate(possible) if torch.equal(one, bits)]
        assert torch.equal(features(node.answer(part(number=3))), bits), "and stays with it"
        drawn.add(which)
    assert drawn == {0, 1, 2}


def test_all_of_several_extractors_must_be_those_that_are_meant(tmp_path: Path) -> None:
    ask = strategy(extractor="random").extraction(weights(), others(), 10, send=True)
    node = worker(tmp_path)
    assert node.answer(order(replace(ask, tensors={}))).metrics == {"wanted": "extractor"}  # type: ignore[union-attr]
    for tensors in (
        {name: tensor for name, tensor in ask.tensors.items() if not name.startswith("2:")},
        {**ask.tensors, "2:inner.bias": torch.zeros(11)},
        {**ask.tensors, "3:inner.bias": torch.zeros(11)},
    ):
        assert reason(node.answer(order(replace(ask, tensors=tensors)))).endswith("its digest is another")


def test_an_extractor_is_adapted_on_the_device_and_its_head_is_not(tmp_path: Path) -> None:
    model, made = weights(), strategy(fine_tune=3, epsilon=50)
    node = worker(tmp_path, policy=Policy(epsilon=50))
    ask = made.extraction(model, {}, 10, send=True)
    assert ask.task == "mistnet.adapt"
    assert node.answer(order(replace(ask, tensors={}))).metrics == {"wanted": "extractor"}  # type: ignore[union-attr]
    assert isinstance(node.answer(order(ask)), Report)
    sent = features(node.answer(part()))
    plain = {name: model[name] for name in ("inner.weight", "inner.bias")}
    assert not torch.equal(sent, made_by(plain))
    settings = Adaptation.model_validate(ask.settings)
    extractor, head = parts(ask.tensors)
    work = learning.Workspace("alice", "points", Points(Path(), True))
    adapted = settings.adapted(extractor, head, work, order(ask).seed)
    assert torch.equal(sent, made_by(adapted))
    module = nn.Sequential(*split(learning.initial("points_net", seed=0), "relu"))
    losses = []
    for one in (extractor, adapted):
        module[0].load_state_dict(dict(one))
        module[1].load_state_dict(dict(head))
        losses.append(
            learning.score(module, work, made.scoring(Scoring(model="points_net", loss="nll", dataset="points"))).loss
        )
    assert losses[1] < losses[0], "behind the very same head"


def test_a_head_that_is_another_is_refused(tmp_path: Path) -> None:
    ask = strategy(fine_tune=1).extraction(weights(), {}, 10, send=True)
    spoilt = {**ask.tensors, "1:outer.bias": torch.zeros(10)}
    assert reason(worker(tmp_path).answer(order(replace(ask, tensors=spoilt)))).endswith("its digest is another")
    other = {"outer.weight": torch.zeros(2, 11), "outer.bias": torch.zeros(2)}
    tensors = {**{name: tensor for name, tensor in ask.tensors.items() if name.startswith("0:")}, **join([{}, other])}
    asked = order(replace(ask, tensors=tensors), head=digest(other))
    assert re.fullmatch(
        r"the head of points_net, cut at relu, is another one here: .*", reason(worker(tmp_path).answer(asked))
    )


def test_an_owner_can_keep_a_device_from_training(tmp_path: Path) -> None:
    ask = order(strategy(fine_tune=3).extraction(weights(), {}, 10, send=True))
    node = worker(tmp_path, policy=Policy(tasks=("mistnet.extract", "mistnet.upload", "mistnet.acknowledge")))
    assert reason(node.answer(ask)) == "the policy here does not allow the task mistnet.adapt"
    node = worker(tmp_path, policy=Policy(epochs=2))
    assert reason(node.answer(ask)) == "the policy here wants at most 2 as an order's epochs, not 3"


def test_what_is_different_on_the_devices_is_said() -> None:
    assert strategy().remarks() == []
    assert "adds no privacy" in strategy(extractor="random").remarks()[0]
    (told,) = strategy(fine_tune=2).remarks()
    assert told.startswith("Devices train first (epochs: 2)") and told.endswith("no epsilon here counts")


# --------------------------------------------------------------------------- labels that are no classes


class Lines(Points):
    """Points whose label is the point before the last."""

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        point, _ = super().__getitem__(index)
        return point, point[:2]


def test_labels_that_are_no_classes_leave_as_they_are(tmp_path: Path) -> None:
    data = Lines(Path(), True)
    node = Worker("alice", "points", data, state=tmp_path, policy=Policy(labels="clear"))
    node.begin("first", "lab")
    asked = order(strategy(labels="clear").extraction(weights(), {}, 0, send=True))
    made = node.answer(asked)
    assert isinstance(made, Report) and (made.metrics["label_shape"], made.metrics["label_dtype"]) == ([2], "float32")
    sent = node.answer(part())
    assert isinstance(sent, Report)
    assert torch.equal(sent.tensors["labels"], torch.stack([data[index][1] for index in range(120)]))


def test_labels_that_are_no_classes_cannot_be_randomised(tmp_path: Path) -> None:
    asked = extraction(changes={"classes": 0})
    assert "labels that are no classes cannot be randomised" in reason(worker(tmp_path).answer(asked))
    node = Worker("alice", "points", Lines(Path(), True), state=tmp_path)
    node.begin("first", "lab")
    assert reason(node.answer(extraction())) == "the labels on alice are no classes, as points_net tells them apart"


# --------------------------------------------------------------------------- on the coordinator's own node


def stored(folder: Path, **options: Any) -> FeatureStore:
    """What alice sent."""
    node, store = worker(folder), FeatureStore(folder / "features")
    node.answer(extraction(**options))
    sent = node.answer(part())
    assert isinstance(sent, Report)
    store.put(0, 0, sent.tensors)
    return store


def own(store: FeatureStore, **options: Any) -> Worker:
    return Worker("coordinator", "features", store.records(), labels=[], tasks=strategy(**options).own)


def epoch(model: Tensors, number: int, **options: Any) -> Order:
    ask = strategy(**options).epoch(model, {}, 10, (11,), number)
    return replace(order(ask, number), worker="coordinator", seed=number)


def test_training_makes_the_loss_fall_and_leaves_the_extractor_alone(tmp_path: Path) -> None:
    node, model, losses = own(stored(tmp_path, epsilon=8)), weights(), []
    for number in range(1, 16):
        found = node.answer(epoch(model, number, epsilon=8))
        assert isinstance(found, Report)
        model = found.tensors
        losses.append(found.metrics["loss"])
        assert found.metrics["samples"] == 120
    assert losses[-1] < losses[0] - 0.1
    before = weights()
    assert all(torch.equal(model[name], before[name]) for name in ("inner.weight", "inner.bias"))
    assert not torch.equal(model["outer.weight"], before["outer.weight"])


def test_an_epoch_is_the_same_again(tmp_path: Path) -> None:
    """So that one that was lost with the coordinator gives what it would have given."""
    store = stored(tmp_path)
    one, other = (own(store).answer(epoch(weights(), 1)) for _ in range(2))
    assert isinstance(one, Report) and isinstance(other, Report)
    assert digest(one.tensors) == digest(other.tensors)


def test_a_worker_does_not_train_for_the_coordinator(tmp_path: Path) -> None:
    assert "mistnet.train" not in registry.names("task") and train is not None
    answer = worker(tmp_path).answer(epoch(weights(), 1))
    assert reason(answer).startswith("unknown task 'mistnet.train'")


# --------------------------------------------------------------------------- the strategy's settings


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"cut": "nowhere"}, "there is no such cut in PointsNet; there are: inner, relu"),
        ({"cut": "outer"}, "nothing after it has weights in PointsNet; there are: inner, relu"),
        ({"epsilon": "0"}, "epsilon: .* greater than 0"),
        ({"epsilon": "-1"}, "epsilon: .* greater than 0"),
        ({"epsilon": "nan"}, "epsilon: .*"),
        ({"epsilon": "inf"}, "epsilon: .*"),
        ({"epsilon": "much"}, "epsilon: .*, not 'much'"),
        ({"label_epsilon": "0"}, "label_epsilon: .* greater than 0"),
        ({"encoding": "morse"}, "unknown encoding 'morse'"),
        ({"encoding": "floats", "epsilon": "2"}, "unknown option of encoding floats 'epsilon'"),
        ({"labels": "none"}, "labels: .*'randomised' or 'clear'"),
        ({"public": "nothing"}, "unknown dataset 'nothing'"),
    ],
)
def test_a_setting_that_cannot_be_is_named(options: dict[str, str], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        strategy(**options)


def test_losses_that_labels_with_noise_do_not_go_with_are_refused() -> None:
    with pytest.raises(UsageError, match="--loss mse: labels are randomised for nll and cross_entropy"):
        registry.build("strategy", "mistnet:cut=relu", Training(model="points_net", dataset="points", loss="mse"))


def test_an_encodings_options_and_its_epsilon_go_together() -> None:
    made = Coded.of("laplace:bound=3", 1.0, None)
    assert made.encoder().epsilon == 1.0 and made.name == "laplace" and "bound=3" in made.encoding


def test_epsilon_is_a_number_however_it_is_written() -> None:
    """Another implementation read a text of 100 as the number of the layer."""
    for text in ("100", "100.0", "1e2"):
        assert strategy(epsilon=text).coded.spent((11,)).epsilon == 100.0


def test_what_is_spent_is_told_whole() -> None:
    spent = strategy().coded.spent((20, 12, 12))
    assert (spent.values, spent.epsilon, spent.label_epsilon, spent.spent) == (2880, 2.0, 4.0, 5764.0)
    assert math.isclose(strategy(encoding="oue", epsilon=1).coded.spent((8,)).spent or 0, 12.0)
    assert strategy(encoding="clear_bits").coded.spent((8,)).spent is None
    assert strategy(labels="clear").coded.spent((8,)).spent is None
