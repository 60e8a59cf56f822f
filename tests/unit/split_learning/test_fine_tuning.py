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
from fedws.core.task_settings import EvalSettings, TrainSettings
from fedws.core.tensors import Tensors, copy_to_cpu, hash_tensors
from fedws.privacy.audit_chain import read_lines
from fedws.privacy.audit_log import AuditLog
from fedws.privacy.policy import Policy
from fedws.protocol.messages import TaskResult
from fedws.split_learning import pretraining
from fedws.split_learning.extractor_pool import pack_state_dicts, unpack_state_dicts
from fedws.split_learning.fine_tuning import FineTuneSettings, _FrozenHeadModel
from fedws.split_learning.model_split import split_model
from fedws.training import evaluation, local_training, model_building, task_context
from tests.helpers.federation import Points, registered
from tests.helpers.mistnet_requests import TOLD, features, on_data, order, part, reason, strategy, weights, worker

ADAPT = Policy(tasks=("*", "mistnet.fine_tune"))
"""The policy of an owner who lets the device train for MistNet."""


@pytest.fixture(autouse=True, scope="module")
def _pieces() -> Iterator[None]:
    with registered():
        yield


def others() -> Tensors:
    return pretraining.build_extractors("points_net", "relu", 2)


def made_by(extractor: Tensors) -> torch.Tensor:
    """The bits of that extractor, without noise, as they would be sent."""
    module, data = split_model(model_building.build_model("points_net", seed=0), "relu")[0], Points(Path(), True)
    module.load_state_dict(dict(extractor))
    with torch.inference_mode():
        values = module(torch.stack([data[index][0] for index in range(120)]))
    packed: torch.Tensor = registry.build_piece("encoding", "bits:epsilon=50").encode(values, None)
    return packed


def test_a_worker_draws_one_of_several_extractors_and_does_not_say_which(tmp_path: Path) -> None:
    made = strategy(extractor="random", epsilon=50)
    model = weights()
    several = [{name: model[name] for name in ("inner.weight", "inner.bias")}, *unpack_state_dicts(others())]
    possible, drawn = [made_by(one) for one in several], set()
    for number in range(60):  # one of three is never drawn with a chance of 3 (2 / 3)^60 < 1e-9
        node = worker(tmp_path, run=f"run {number}", policy=Policy(max_epsilon=50))
        wanted = node.execute(order(made.configure_extraction(model, others(), 10, send=number == 0)))
        assert isinstance(wanted, TaskResult) and set(wanted.metrics) == {*TOLD}
        bits = features(node.execute(part()))
        (which,) = [place for place, one in enumerate(possible) if torch.equal(one, bits)]
        assert torch.equal(features(node.execute(part(number=3))), bits), "and stays with it"
        drawn.add(which)
    assert drawn == {0, 1, 2}


def test_all_of_several_extractors_must_be_those_that_are_meant(tmp_path: Path) -> None:
    ask = strategy(extractor="random").configure_extraction(weights(), others(), 10, send=True)
    node = worker(tmp_path)
    assert node.execute(order(replace(ask, tensors={}))).metrics == {"needs_tensors": "extractor"}  # type: ignore[union-attr]
    for tensors in (
        {name: tensor for name, tensor in ask.tensors.items() if not name.startswith("2:")},
        {**ask.tensors, "2:inner.bias": torch.zeros(11)},
        {**ask.tensors, "3:inner.bias": torch.zeros(11)},
    ):
        assert reason(node.execute(order(replace(ask, tensors=tensors)))).endswith("do not match the requested digests")


def test_an_extractor_is_adapted_on_the_device_and_its_head_is_not(tmp_path: Path) -> None:
    model, made = weights(), strategy(extractor_epochs=3, epsilon=50)
    node = worker(tmp_path, policy=ADAPT.model_copy(update={"max_epsilon": 50}))
    ask = made.configure_extraction(model, {}, 10, send=True)
    assert ask.task == "mistnet.fine_tune"
    assert node.execute(order(replace(ask, tensors={}))).metrics == {"needs_tensors": "extractor"}  # type: ignore[union-attr]
    assert isinstance(node.execute(order(ask)), TaskResult)
    sent = features(node.execute(part()))
    plain = {name: model[name] for name in ("inner.weight", "inner.bias")}
    assert not torch.equal(sent, made_by(plain))
    settings = FineTuneSettings.model_validate(ask.settings)
    extractor, head = unpack_state_dicts(ask.tensors)
    work = task_context.TaskContext("alice", "points", Points(Path(), True))
    adapted = settings.fine_tune(extractor, head, work, order(ask).seed)
    assert torch.equal(sent, made_by(adapted))
    module = nn.Sequential(*split_model(model_building.build_model("points_net", seed=0), "relu"))
    losses = []
    for one in (extractor, adapted):
        module[0].load_state_dict(dict(one))
        module[1].load_state_dict(dict(head))
        losses.append(
            evaluation.evaluate(
                module, work, made.configure_evaluation(EvalSettings(model="points_net", loss="nll", dataset="points"))
            ).loss
        )
    assert losses[1] < losses[0], "behind the very same head"


def test_what_adapted_extractors_make_has_no_bound(tmp_path: Path) -> None:
    """Each record's features tell of all samples, and of their labels, by which the extractor was trained."""
    log = AuditLog(tmp_path / "log")
    node, made = worker(tmp_path, audit_log=log, policy=ADAPT), strategy(extractor_epochs=1)
    node.execute(order(made.configure_extraction(weights(), {}, 10, send=True)))
    features(node.execute(part()))
    (line,) = [line for line in read_lines(log.path) if line is not None and line["payload"] == "features"]
    assert line["epsilon"] is None
    spent = made.build_release((11,))
    assert spent.to_record()["record_epsilon"] is None and spent.to_record()["epsilon"] == 2.0
    why = "no bound for the record as a whole, since workers trained their extractors on all of their samples"
    assert spent.describe().endswith(why)
    assert strategy().build_release((11,)).record_epsilon == 26.0


def test_a_head_stays_what_it_is_also_where_it_keeps_means() -> None:
    class Normed(nn.Sequential):
        def __init__(self) -> None:
            inner, outer = nn.Linear(4, 11), nn.Linear(11, 10)
            super().__init__(inner, nn.BatchNorm1d(11), nn.Dropout(0.5), outer, nn.LogSoftmax(1))

    fedws.register("model", "normed")(Normed)
    try:
        model = copy_to_cpu(model_building.build_model("normed", 1).state_dict())
        made = registry.build_piece(
            "algorithm", "mistnet:split_at=0,extractor_epochs=2", TrainSettings(model="normed", dataset="points")
        )
        ask = made.configure_extraction(model, {}, 10, send=True)
        settings, (extractor, head) = FineTuneSettings.model_validate(ask.settings), unpack_state_dicts(ask.tensors)
        work, before = task_context.TaskContext("alice", "points", Points(Path(), True)), hash_tensors(head)
        inner, outer = settings.build_half(extractor, work), settings.build_half(head, work, head=True)
        module = _FrozenHeadModel(inner, outer)
        local_training.train(module, work, TrainSettings(model="normed", dataset="points"), seed=1)
        assert hash_tensors(outer.state_dict()) == before == hash_tensors(head)
        assert hash_tensors(inner.state_dict()) != hash_tensors(extractor)
        one, other = (settings.fine_tune(extractor, head, work, seed=1) for _ in range(2))
        assert hash_tensors(one) == hash_tensors(other)
    finally:
        del registry._pieces["model", "normed"]


def test_an_extractor_that_comes_to_nothing_is_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    asked = order(strategy(extractor_epochs=2).configure_extraction(weights(), {}, 10, send=True), lr=3e38)
    assert on_data(worker(tmp_path, policy=ADAPT).execute(asked))
    why = "cannot fine-tune the extractor of points_net on alice: inner.weight contains (NaN|Inf)"
    assert re.search(why, caplog.text)


def test_samples_of_another_shape_are_told_before_anything_is_trained(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ask = strategy("points_net:inputs=5", extractor_epochs=1).configure_extraction(
        weights("points_net:inputs=5"), {}, 10, send=True
    )
    assert on_data(worker(tmp_path, policy=ADAPT).execute(order(ask)))
    assert "samples of shape [4] on alice do not fit the extractor of points_net:inputs=5" in caplog.text


def test_a_head_that_is_another_is_refused(tmp_path: Path) -> None:
    ask = strategy(extractor_epochs=1).configure_extraction(weights(), {}, 10, send=True)
    spoilt = {**ask.tensors, "1:outer.bias": torch.zeros(10)}
    assert reason(worker(tmp_path, policy=ADAPT).execute(order(replace(ask, tensors=spoilt)))).endswith(
        "do not match the requested digests"
    )
    other = {"outer.weight": torch.zeros(2, 11), "outer.bias": torch.zeros(2)}
    tensors = {
        **{name: tensor for name, tensor in ask.tensors.items() if name.startswith("0:")},
        **pack_state_dicts([{}, other]),
    }
    asked = order(replace(ask, tensors=tensors), head=hash_tensors(other))
    assert re.fullmatch(
        r"the head of points_net, split at relu, differs on this node: .*",
        reason(worker(tmp_path, policy=ADAPT).execute(asked)),
    )


def test_a_device_trains_only_where_its_owner_names_the_task(tmp_path: Path) -> None:
    """A pattern is not a name: an owner who allows all tasks of MistNet allows no training with them."""
    ask = order(strategy(extractor_epochs=3).configure_extraction(weights(), {}, 10, send=True))
    for tasks in (("*",), ("mistnet.*",), ("mistnet.fine_tun?", "*.fine_tune")):
        why = reason(worker(tmp_path, policy=Policy(tasks=tasks)).execute(ask))
        assert why == (
            "policy: task 'mistnet.fine_tune' is not allowed by patterns, only by its exact name; "
            'to allow it, set tasks = ["*", "mistnet.fine_tune"] in the node\'s --policy'
        )
    node = worker(tmp_path, policy=Policy(tasks=("mistnet.extract", "mistnet.upload", "mistnet.acknowledge")))
    assert reason(node.execute(ask)) == "policy: task 'mistnet.fine_tune' is not allowed"
    node = worker(tmp_path, policy=ADAPT.model_copy(update={"max_epochs": 2}))
    assert reason(node.execute(ask)) == "policy: 3 epochs requested, at most 2 allowed"


def test_what_is_different_on_the_devices_is_said() -> None:
    (pretraining,) = strategy().startup_notices()
    assert pretraining == "Pretraining points_net on digits for 20 epochs"
    assert "adds no privacy" in strategy(extractor="random").startup_notices()[1]
    assert strategy(extractor_epochs=2).startup_notices()[1].startswith("Workers train first (epochs: 2)")
    assert "no metric will show what the workers add" in strategy(public_dataset="points").startup_notices()[1]
    assert strategy(pretrained_path="a").startup_notices() == []
