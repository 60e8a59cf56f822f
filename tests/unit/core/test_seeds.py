"""A data set that draws from numpy's and Python's generators: the seed decides, and their states come back."""

import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Subset

from fedws.core.errors import TaskCancelled
from fedws.core.registry import _pieces
from fedws.core.seeds import seed_generators
from fedws.core.task_settings import EvalSettings, TrainSettings
from fedws.data.samples import ImageDataset, SampleSubset
from fedws.protocol.evaluation_result import EvalResult
from fedws.training.evaluation import evaluate
from fedws.training.local_training import compute_gradient, train
from fedws.training.model_building import build_model
from fedws.training.task_context import TaskContext


class Augmented:
    """Inputs with noise from each of the three generators."""

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        noise = random.random() + np.random.rand() + float(torch.rand(()))
        return torch.tensor([float(index), noise]), index % 2


def states() -> tuple[Any, ...]:
    return random.getstate(), repr(np.random.get_state(legacy=False)), torch.get_rng_state().tolist()


def net() -> nn.Sequential:
    with seed_generators(1):
        return nn.Sequential(nn.Linear(2, 2), nn.LogSoftmax(1))


def work(**more: Any) -> TaskContext:
    return TaskContext("alice", "augmented", Augmented(), **more)


def trained(seed: int) -> list[Any]:
    module = net()
    train(module, work(), TrainSettings(model="m", dataset="augmented", batch_size=4), seed)
    return module.state_dict()["0.weight"].tolist()  # type: ignore[no-any-return]


def sloped(seed: int) -> list[Any]:
    module = net()
    compute_gradient(module, work(), TrainSettings(model="m", dataset="augmented", batch_size=4), seed)
    return [parameter.grad.tolist() for parameter in module.parameters() if parameter.grad is not None]


def scored(threads: int = 1) -> EvalResult:
    return evaluate(
        net(), work(threads=threads), EvalSettings(model="m", loss="nll", dataset="augmented", batch_size=3)
    )


@pytest.mark.parametrize("learn", [trained, sloped])
def test_the_seed_decides_what_a_data_set_draws(learn: Any) -> None:
    found = []
    for start in (1, 2):
        random.seed(start)
        np.random.seed(start)
        torch.manual_seed(start)
        before = states()
        found.append(learn(11))
        assert states() == before
    assert found[0] == found[1] != learn(12)


def test_scores_of_a_data_set_that_draws_are_the_same() -> None:
    random.seed(1)
    one = scored()
    before = states()
    assert scored() == scored(threads=3) == one
    assert states() == before


@pytest.mark.parametrize("part", [lambda it: it, lambda it: SampleSubset(Subset(it, range(4)), torch.arange(3))])
def test_scores_of_images_do_not_wait_for_a_worker_that_trains_in_the_process(part: Any) -> None:
    images = part(
        ImageDataset(torch.zeros(5, 1, 1, 2, dtype=torch.uint8), torch.zeros(5, dtype=torch.int64), (0.0,), (1.0,))
    )
    judge = TaskContext("testing", "images", images)
    module = nn.Sequential(nn.Flatten(), *net())
    settings = EvalSettings(model="m", loss="nll", dataset="images", batch_size=3)
    with ThreadPoolExecutor(1) as pool, seed_generators(1):
        assert pool.submit(evaluate, module, judge, settings).result(timeout=60).num_examples == len(images)


@pytest.mark.parametrize("words", [(2**32, 1), (2**40 + 5, 5), (2**63, 2**62)])
def test_all_64_bits_of_a_seed_reach_numpy_and_python(words: tuple[int, int]) -> None:
    drawn = []
    for seed in words:
        with seed_generators(seed):
            drawn.append((np.random.rand(), random.random()))
    assert drawn[0][0] != drawn[1][0] and drawn[0][1] != drawn[1][1]


def test_states_come_back_after_an_exception_and_from_within_another_block() -> None:
    before = states()
    with pytest.raises(TaskCancelled), seed_generators(1):
        first = random.random()
        with seed_generators(2):
            random.random()
        second = random.random()
        raise TaskCancelled("told to stop")
    assert states() == before
    own = random.Random(1)
    assert (first, second) == (own.random(), own.random())


def test_a_model_that_draws_from_numpy_is_drawn_from_its_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    def make() -> nn.Module:
        module = nn.Linear(1, 1)
        nn.init.constant_(module.weight, np.random.rand())
        return module

    monkeypatch.setitem(_pieces, ("model", "drawn"), make)
    one, same, other = (float(build_model("drawn", seed).state_dict()["weight"]) for seed in (1, 1, 2))
    assert one == same != other
