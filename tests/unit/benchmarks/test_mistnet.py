"""The figures of MistNet: what is public and what not, the nets, a run within a process, and all of it, quickly."""

import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from benchmarks.harness.settings import Settings
from benchmarks.mistnet import accuracy_and_cost, bytes_sent, in_process_run, plugin
from benchmarks.mistnet.training_case import SKEWED, WORKERS, TrainingCase, parts
from fedws import ImageDataset, TaskContext, TrainSettings, Worker
from fedws.algorithms.fedavg import FedAvg
from fedws.algorithms.mistnet import MistNet
from fedws.core import registry, seeds
from fedws.core.tensors import Tensors, copy_to_cpu
from fedws.data.datasets.cifar10 import Cifar10
from fedws.privacy.policy import Policy
from fedws.scheduling.samplers.all import AllSampler
from fedws.scheduling.schedule_config import ScheduleConfig
from fedws.scheduling.synchronous import SynchronousScheduler
from fedws.split_learning import pretrained_file
from fedws.split_learning.feature_store import FeatureStore
from fedws.split_learning.model_split import find_split_points
from fedws.split_learning.scheduler import CollectThenTrainScheduler
from fedws.training import local_training, model_building
from fedws.updates.aggregators.mean import MeanAggregator
from tests.helpers.forked_commands import Copy
from tests.helpers.support import registered_by_benchmarks

PIECES = registered_by_benchmarks()
for _name in PIECES:  # contract tests, which are collected later and run over whatever is known, are not over these
    del registry._pieces[_name]


@pytest.fixture(autouse=True, scope="module")
def _registered() -> Iterator[None]:
    registry._pieces.update(PIECES)
    yield
    for name in registered_by_benchmarks():
        del registry._pieces[name]


CASE = TrainingCase("mistnet", "small_vgg", "noise", "", "", 1, "features.9", "bits:epsilon=2")


def noise(samples: int) -> ImageDataset:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(256, (samples, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return ImageDataset(pixels, torch.arange(samples) % 10, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def test_what_is_public_is_not_private(cifar_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = cache(Cifar10)
    monkeypatch.setattr(plugin, "Cifar10", read)
    whole = read(cifar_root, True)
    private, public = (
        registry.build_piece("dataset", f"cifar10_{name}", cifar_root, True) for name in ("private", "public")
    )
    assert len(private) == 40_000, "the batches 1 to 4"
    assert torch.equal(torch.cat([private.pixels, public.pixels]), whole.pixels)
    assert torch.equal(torch.cat([private.targets, public.targets]), whole.targets)
    assert torch.equal(private[0][0], whole[0][0])
    few, test = (
        registry.build_piece("dataset", "cifar10_public:samples=3", cifar_root, train) for train in (True, False)
    )
    assert torch.equal(few.pixels, public.pixels[:3])
    assert torch.equal(test.pixels, read(cifar_root, False).pixels[:3])


def test_multiply_adds_are_counted() -> None:
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3, padding=1), torch.nn.Flatten(), torch.nn.Linear(2048, 10))
    assert plugin.multiply_adds(net) == 32 * 32 * 2 * 27 + 20480
    assert plugin.multiply_adds(accuracy_and_cost.SMALL.module) <= 25e6


@pytest.mark.parametrize("net", [accuracy_and_cost.SMALL, *accuracy_and_cost.PAPER], ids=lambda net: net.model)
def test_the_nets_are_classifiers_that_can_be_cut(net: accuracy_and_cost.Net) -> None:
    outputs = net.module.eval()(torch.zeros(2, 3, 32, 32))
    assert outputs.shape == (2, 10)
    assert torch.allclose(outputs.exp().sum(1), torch.ones(2), atol=1e-5)
    assert set(net.cuts) <= set(find_split_points(net.module))
    shares = [net.share(cut) for cut in net.cuts]
    assert 0 < shares[0] < shares[1] < 1


def test_fedavg_has_the_bytes_of_the_first_cut() -> None:
    size = accuracy_and_cost.SMALL.size("features.9", 40_000)
    assert size.feature_shape == (48, 16, 16)
    rounds = accuracy_and_cost.SMALL.equal_rounds(40_000)
    sent, again = 40_000 * (48 * 16 * 16 // 8 + 8), 2 * 4 * size.model_bytes
    assert abs(rounds * again - sent) <= again / 2
    assert accuracy_and_cost.SMALL.equal_rounds(1) == 1


def test_a_row_tells_epsilon_of_a_whole_record() -> None:
    others = [replace(CASE, label_epsilon=4.0), replace(CASE, encoding="floats"), replace(CASE, way="fedavg")]
    rows = [accuracy_and_cost.privacy_columns(accuracy_and_cost.SMALL, case)[-1] for case in (CASE, *others)]
    assert rows == ["24,576", "24,580", "none", ""]


def shared(data: ImageDataset, partition: str) -> dict[str, Worker]:
    policy, dealt = Policy(encodings=("*",), labels="clear"), zip(WORKERS, parts(data, partition), strict=True)
    return {name: Worker(name, "noise", part, policy=policy) for name, part in dealt}


def gathered(workers: Mapping[str, Worker], model: Tensors, folder: Path) -> tuple[Tensors, set[bytes]]:
    """The model after an epoch on features without noise, and every record that was stored."""
    training = TrainSettings(model="small_vgg", dataset="noise")
    file = folder.with_suffix(".safetensors")
    pretrained_file.save_pretrained(
        file,
        pretrained_file.PretrainedModel(
            model, pretrained_file.PretrainedInfo("small_vgg", "noise", 10, [3, 32, 32], 1), {}
        ),
    )
    algorithm = MistNet(
        training, split_at="features.9", encoding="bits_without_noise", labels="clear", pretrained_path=str(file)
    )
    strategy = CollectThenTrainScheduler(algorithm, ScheduleConfig(WORKERS, 1, 1, len(WORKERS)))
    after = in_process_run.run(strategy, workers, model, MistNet.server_tasks, folder)
    features, labels = (records := FeatureStore(folder).load_features()).batch(torch.arange(len(records)))
    return after, {row.numpy().tobytes() + bytes([label]) for row, label in zip(features, labels.tolist(), strict=True)}


def test_the_partition_does_not_show_in_what_mistnet_gathers(tmp_path: Path) -> None:
    data, model = noise(80), copy_to_cpu(model_building.build_model("small_vgg", 1).state_dict())
    after, even = gathered(shared(data, "iid"), model, tmp_path / "even")
    _, skewed = gathered(shared(data, SKEWED), model, tmp_path / "skewed")
    assert even == skewed
    assert len(even) == len(data)
    changed = {name for name in model if not torch.equal(model[name], after[name])}
    assert changed and not any(name.startswith(("features.0.", "features.3.", "features.7.")) for name in changed)


def test_a_run_within_the_process_trains_as_its_task_does(tmp_path: Path) -> None:
    data, training = noise(40), TrainSettings(model="small_vgg", dataset="noise", batch_size=8, max_local_batches=5)
    model = copy_to_cpu(model_building.build_model("small_vgg", 1).state_dict())
    strategy = SynchronousScheduler(FedAvg(training), MeanAggregator(), AllSampler(), ScheduleConfig(("w1",), 1, 1, 1))
    found = in_process_run.run(strategy, {"w1": Worker("w1", "noise", data)}, model, {}, tmp_path)
    module = model_building.build_model("small_vgg", 1)
    local_training.train(module, TaskContext("w1", "noise", data), training, seeds.request_seed(1, "w1", 1))
    assert all(torch.equal(found[name], tensor) for name, tensor in module.state_dict().items())


def test_a_run_within_the_process_tells_what_failed(tmp_path: Path) -> None:
    model = copy_to_cpu(model_building.build_model("small_vgg", 1).state_dict())
    workers = {name: Worker(name, "noise", noise(4)) for name in WORKERS}
    with pytest.raises(RuntimeError, match=r"mistnet\.extract failed on w1: policy: features encoded as"):
        gathered(workers, model, tmp_path)


def test_the_best_of_what_nobody_recognises_is_told() -> None:
    plain = TrainingCase("centralised", "small_vgg", "noise", "", "", 1)
    seen, hidden, worse = (replace(plain, way="mistnet", cut=cut, encoding="bits") for cut in ("a", "b", "c"))
    leaks = {("a", "bits"): (0.3, 10.0), ("b", "bits"): (0.299, 10.0), ("c", "bits"): (0.1, 10.0)}
    found = {plain: 0.8, seen: 0.79, hidden: 0.7, worse: 0.6}
    told = "best accuracy with an SSIM below 0.3: bits at b, 70.00 %, 10.00 points below centralised"
    assert accuracy_and_cost.verdict(found, plain, leaks) == told
    assert accuracy_and_cost.verdict(found, plain, {}) == "no case has an SSIM below 0.3"


@pytest.mark.long
def test_mistnet_can_be_run_quickly(
    cifar_root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a case of each way, as ``--quick`` has them, it takes a minute; here it is one, and one worker's burden.

    Two workers have links, and processes are copies.
    """
    every = accuracy_and_cost.cases
    monkeypatch.setattr(accuracy_and_cost, "cases", lambda *given: every(*given)[-1:])
    monkeypatch.setattr(accuracy_and_cost, "SMALL", accuracy_and_cost.Net("small_vgg", ("features.9",)))
    monkeypatch.setattr(bytes_sent, "WORKERS", WORKERS[:2])
    monkeypatch.setattr(subprocess, "Popen", Copy)
    accuracy_and_cost.main(Settings(cifar_root, quick=True))
    out = capsys.readouterr().out
    for row in ("pretrained, no private data", "bits:epsilon=2, labels 4", "extract to features.9", "train"):
        assert any(line.startswith(row) for line in out.splitlines()), row
    (sent,) = (float(line.split()[-2]) for line in out.splitlines() if line.startswith("mistnet, features.9, bits"))
    assert 256 * (48 * 16 * 16 // 8 + 8) / 1e6 < sent < 1, "MB: records, and extractors"
