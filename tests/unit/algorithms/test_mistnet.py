"""MistNet's settings, and what a run of it begins with."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from fedws.core import registry
from fedws.core.errors import UsageError
from fedws.core.plan import Training
from fedws.core.tensors import Tensors, detached, digest
from fedws.split_learning import pretrained_file, pretraining
from fedws.split_learning.extractor_pool import join, parts
from fedws.split_learning.release_format import Coded
from fedws.training import building
from tests.helpers.federation import registered
from tests.helpers.mistnet_requests import strategy, weights


@pytest.fixture(autouse=True, scope="module")
def _pieces() -> Iterator[None]:
    with registered():
        yield


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
    with pytest.raises(UsageError, match="--loss mse: randomised labels want nll or cross_entropy; labels can"):
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


# --------------------------------------------------------------------------- what it begins with


def file(folder: Path, classes: int = 10, cut: str = "", others: Tensors | None = None) -> Path:
    """A pretrained model, as ``fedws pretrain`` writes it."""
    origin = pretrained_file.Origin("points_net", "points", classes, [4], 1, cut=cut)
    pretrained_file.save(folder / "made", pretrained_file.of({**weights(), **(others or {})}, origin))
    return folder / "made"


def test_it_begins_with_what_was_pretrained(tmp_path: Path) -> None:
    others = pretraining.beginnings("points_net", "relu", 2)
    made = file(tmp_path, cut="relu", others=others)
    initial = detached(building.initial("points_net", 9).state_dict())
    several = strategy(pretrained=made, extractor="random").begin(initial)
    assert (digest(several.model), digest(several.others)) == (digest(weights()), digest(others))
    assert (several.classes, list(several.sample)) == (10, [4])
    assert strategy(pretrained=made).begin(initial).others == {}, "one for all is the model's own"
    plain = strategy().begin(initial)
    assert (plain.model, plain.others, plain.sample) == (initial, {}, ())
    drawn = strategy(extractor="random", extractors=4).begin(initial)
    assert len(parts(drawn.others)) == 3 and not drawn.sample


@pytest.mark.parametrize(
    ("made", "options", "why"),
    [
        ({}, {"extractor": "random"}, "made: it has one extractor; 'fedws pretrain --extractors 3 --cut ...' makes"),
        (
            {
                "cut": "outer",
                "others": join([{"inner.weight": torch.zeros(1), "inner.bias": torch.zeros(1)}]),
            },
            {"extractor": "random"},
            "made, made for the cut outer: inner.weight has shape ",
        ),
        (
            {"cut": "relu", "others": join([{"inner.weight": torch.zeros(1)} for _ in range(16)])},
            {"extractor": "random"},
            "made, made for the cut relu: it has more than 16 extractors; 'fedws pretrain ",
        ),
        ({"classes": 0}, {}, "made tells no classes apart; labels can be sent as they are, where the policies"),
    ],
)
def test_a_pretrained_file_that_does_not_serve_is_told(
    made: dict[str, Any], options: dict[str, Any], why: str, tmp_path: Path
) -> None:
    chosen = strategy(pretrained=file(tmp_path, **made), **options)
    with pytest.raises(UsageError, match=why):
        chosen.begin(weights())
