"""Extractors that a worker draws of several, or adapts to its samples first."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import fedws
from fedws.core import registry
from fedws.core.plan import Scoring, Training
from fedws.core.tensors import Tensors, detached, digest
from fedws.privacy.audit_log import Audit, read
from fedws.privacy.policy import Policy
from fedws.protocol.messages import Report
from fedws.split_learning import pretraining
from fedws.split_learning.extractor_pool import join, parts
from fedws.split_learning.fine_tuning import Adaptation, _Before
from fedws.split_learning.model_split import split
from fedws.training import building, evaluation, local, task_context
from tests.helpers.federation import Points, registered
from tests.helpers.mistnet_requests import TOLD, features, on_data, order, part, reason, strategy, weights, worker

ADAPT = Policy(tasks=("*", "mistnet.adapt"))
"""The policy of an owner who lets the device train for MistNet."""


@pytest.fixture(autouse=True, scope="module")
def _pieces() -> Iterator[None]:
    with registered():
        yield


def others() -> Tensors:
    return pretraining.beginnings("points_net", "relu", 2)


def made_by(extractor: Tensors) -> torch.Tensor:
    """The bits of that extractor, without noise, as they would be sent."""
    module, data = split(building.initial("points_net", seed=0), "relu")[0], Points(Path(), True)
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
    node = worker(tmp_path, policy=ADAPT.model_copy(update={"epsilon": 50}))
    ask = made.extraction(model, {}, 10, send=True)
    assert ask.task == "mistnet.adapt"
    assert node.answer(order(replace(ask, tensors={}))).metrics == {"wanted": "extractor"}  # type: ignore[union-attr]
    assert isinstance(node.answer(order(ask)), Report)
    sent = features(node.answer(part()))
    plain = {name: model[name] for name in ("inner.weight", "inner.bias")}
    assert not torch.equal(sent, made_by(plain))
    settings = Adaptation.model_validate(ask.settings)
    extractor, head = parts(ask.tensors)
    work = task_context.Workspace("alice", "points", Points(Path(), True))
    adapted = settings.adapted(extractor, head, work, order(ask).seed)
    assert torch.equal(sent, made_by(adapted))
    module = nn.Sequential(*split(building.initial("points_net", seed=0), "relu"))
    losses = []
    for one in (extractor, adapted):
        module[0].load_state_dict(dict(one))
        module[1].load_state_dict(dict(head))
        losses.append(
            evaluation.score(module, work, made.scoring(Scoring(model="points_net", loss="nll", dataset="points"))).loss
        )
    assert losses[1] < losses[0], "behind the very same head"


def test_what_adapted_extractors_make_has_no_bound(tmp_path: Path) -> None:
    """Each record's features tell of all samples, and of their labels, by which the extractor was trained."""
    log = Audit(tmp_path / "log")
    node, made = worker(tmp_path, audit=log, policy=ADAPT), strategy(fine_tune=1)
    node.answer(order(made.extraction(weights(), {}, 10, send=True)))
    features(node.answer(part()))
    (line,) = [line for line in read(log.path) if line is not None and line["data"] == "features"]
    assert line["epsilon"] is None
    spent = made.spent((11,))
    assert spent.record()["epsilon_total"] is None and spent.record()["epsilon"] == 2.0
    why = "no bound for the record as a whole, since devices adapted their extractors to all of their samples"
    assert spent.told().endswith(why)
    assert strategy().spent((11,)).spent == 26.0


def test_a_head_stays_what_it_is_also_where_it_keeps_means() -> None:
    class Normed(nn.Sequential):
        def __init__(self) -> None:
            inner, outer = nn.Linear(4, 11), nn.Linear(11, 10)
            super().__init__(inner, nn.BatchNorm1d(11), nn.Dropout(0.5), outer, nn.LogSoftmax(1))

    fedws.register("model", "normed")(Normed)
    try:
        model = detached(building.initial("normed", 1).state_dict())
        made = registry.build("strategy", "mistnet:cut=0,fine_tune=2", Training(model="normed", dataset="points"))
        ask = made.extraction(model, {}, 10, send=True)
        settings, (extractor, head) = Adaptation.model_validate(ask.settings), parts(ask.tensors)
        work, before = task_context.Workspace("alice", "points", Points(Path(), True)), digest(head)
        inner, outer = settings.loaded(extractor, work), settings.loaded(head, work, head=True)
        module = _Before(inner, outer)
        local.train(module, work, Training(model="normed", dataset="points"), seed=1)
        assert digest(outer.state_dict()) == before == digest(head)
        assert digest(inner.state_dict()) != digest(extractor)
        one, other = (settings.adapted(extractor, head, work, seed=1) for _ in range(2))
        assert digest(one) == digest(other)
    finally:
        del registry._pieces["model", "normed"]


def test_an_extractor_that_comes_to_nothing_is_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    asked = order(strategy(fine_tune=2).extraction(weights(), {}, 10, send=True), lr=3e38)
    assert on_data(worker(tmp_path, policy=ADAPT).answer(asked))
    why = "the extractor of points_net cannot be adapted on alice: inner.weight holds (NaN|Inf)"
    assert re.search(why, caplog.text)


def test_samples_of_another_shape_are_told_before_anything_is_trained(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ask = strategy("points_net:inputs=5", fine_tune=1).extraction(weights("points_net:inputs=5"), {}, 10, send=True)
    assert on_data(worker(tmp_path, policy=ADAPT).answer(order(ask)))
    assert "samples of [4] on alice do not fit the extractor of points_net:inputs=5" in caplog.text


def test_a_head_that_is_another_is_refused(tmp_path: Path) -> None:
    ask = strategy(fine_tune=1).extraction(weights(), {}, 10, send=True)
    spoilt = {**ask.tensors, "1:outer.bias": torch.zeros(10)}
    assert reason(worker(tmp_path, policy=ADAPT).answer(order(replace(ask, tensors=spoilt)))).endswith(
        "its digest is another"
    )
    other = {"outer.weight": torch.zeros(2, 11), "outer.bias": torch.zeros(2)}
    tensors = {**{name: tensor for name, tensor in ask.tensors.items() if name.startswith("0:")}, **join([{}, other])}
    asked = order(replace(ask, tensors=tensors), head=digest(other))
    assert re.fullmatch(
        r"the head of points_net, cut at relu, is another one here: .*",
        reason(worker(tmp_path, policy=ADAPT).answer(asked)),
    )


def test_a_device_trains_only_where_its_owner_names_the_task(tmp_path: Path) -> None:
    """A pattern is not a name: an owner who allows all tasks of MistNet allows no training with them."""
    ask = order(strategy(fine_tune=3).extraction(weights(), {}, 10, send=True))
    for tasks in (("*",), ("mistnet.*",), ("mistnet.adap?", "*.adapt")):
        why = reason(worker(tmp_path, policy=Policy(tasks=tasks)).answer(ask))
        assert why == (
            "the policy here does not name the task mistnet.adapt, which no pattern allows; "
            'to allow it, set tasks = ["*", "mistnet.adapt"] in the node\'s --policy'
        )
    node = worker(tmp_path, policy=Policy(tasks=("mistnet.extract", "mistnet.upload", "mistnet.acknowledge")))
    assert reason(node.answer(ask)) == "the policy here does not allow the task mistnet.adapt"
    node = worker(tmp_path, policy=ADAPT.model_copy(update={"epochs": 2}))
    assert reason(node.answer(ask)) == "the policy here allows 2 epochs a request, not 3"


def test_what_is_different_on_the_devices_is_said() -> None:
    (pretraining,) = strategy().remarks()
    assert pretraining == "Pretraining points_net on digits for 20 epochs"
    assert "adds no privacy" in strategy(extractor="random").remarks()[1]
    assert strategy(fine_tune=2).remarks()[1].startswith("Devices train first (epochs: 2)")
    assert "no score will tell what the devices add" in strategy(public="points").remarks()[1]
    assert strategy(pretrained="a").remarks() == []
