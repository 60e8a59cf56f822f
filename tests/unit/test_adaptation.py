"""Extractors that a worker draws of several, or adapts to its samples first."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from fedws import learning, lessons, registry
from fedws.adaptation import Adaptation
from fedws.cuts import split
from fedws.extractors import join, parts
from fedws.messages import Report
from fedws.plan import Scoring
from fedws.policy import Policy
from fedws.tensors import Tensors, digest
from tests.mistnet import TOLD, features, order, part, reason, strategy, weights, worker
from tests.nodes import Points, registered


@pytest.fixture(autouse=True, scope="module")
def _pieces() -> Iterator[None]:
    with registered():
        yield


def others() -> Tensors:
    return lessons.beginnings("points_net", "relu", 2)


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
