"""MistNet's settings, and what a run of it begins with."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from fedws.core import registry
from fedws.core.errors import UsageError
from fedws.core.task_settings import TrainSettings
from fedws.core.tensors import Tensors, copy_to_cpu, hash_tensors
from fedws.split_learning import pretrained_file, pretraining
from fedws.split_learning.extractor_pool import pack_state_dicts, unpack_state_dicts
from fedws.split_learning.release_format import ReleaseFormat
from fedws.training import model_building
from tests.helpers.federation import registered
from tests.helpers.mistnet_requests import strategy, weights


@pytest.fixture(autouse=True, scope="module")
def _pieces() -> Iterator[None]:
    with registered():
        yield


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"split_at": "nowhere"}, "unknown split point in PointsNet; choose from inner, relu"),
        ({"split_at": "outer"}, "no weights after it in PointsNet; choose from inner, relu"),
        ({"epsilon": "0"}, "epsilon: .* greater than 0"),
        ({"epsilon": "-1"}, "epsilon: .* greater than 0"),
        ({"epsilon": "nan"}, "epsilon: .*"),
        ({"epsilon": "inf"}, "epsilon: .*"),
        ({"epsilon": "much"}, "epsilon: .*, not 'much'"),
        ({"label_epsilon": "0"}, "label_epsilon: .* greater than 0"),
        ({"encoding": "morse"}, "unknown encoding 'morse'"),
        ({"encoding": "floats", "epsilon": "2"}, "unknown option of encoding floats 'epsilon'"),
        ({"labels": "none"}, "labels: .*'randomised' or 'clear'"),
        ({"public_dataset": "nothing"}, "unknown dataset 'nothing'"),
    ],
)
def test_a_setting_that_cannot_be_is_named(options: dict[str, str], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        strategy(**options)


def test_losses_that_labels_with_noise_do_not_go_with_are_refused() -> None:
    with pytest.raises(UsageError, match="--loss mse: randomised labels require nll or cross_entropy; to send clear"):
        registry.build_piece(
            "algorithm", "mistnet:split_at=relu", TrainSettings(model="points_net", dataset="points", loss="mse")
        )


def test_an_encodings_options_and_its_epsilon_go_together() -> None:
    made = ReleaseFormat.create("laplace:bound=3", 1.0, None)
    assert made.build_encoding().epsilon == 1.0 and made.encoding_name == "laplace" and "bound=3" in made.encoding


def test_epsilon_is_a_number_however_it_is_written() -> None:
    """Another implementation read a text of 100 as the number of the layer."""
    for text in ("100", "100.0", "1e2"):
        assert strategy(epsilon=text).release_format.build_release((11,)).epsilon == 100.0


def test_what_is_spent_is_told_whole() -> None:
    spent = strategy().release_format.build_release((20, 12, 12))
    assert (spent.num_features, spent.epsilon, spent.label_epsilon, spent.record_epsilon) == (2880, 2.0, 4.0, 5764.0)
    assert math.isclose(
        strategy(encoding="oue", epsilon=1).release_format.build_release((8,)).record_epsilon or 0, 12.0
    )
    assert strategy(encoding="bits_without_noise").release_format.build_release((8,)).record_epsilon is None
    assert strategy(labels="clear").release_format.build_release((8,)).record_epsilon is None


# --------------------------------------------------------------------------- what it begins with


def file(folder: Path, num_classes: int = 10, split_at: str = "", others: Tensors | None = None) -> Path:
    """A pretrained model, as ``fedws pretrain`` writes it."""
    origin = pretrained_file.PretrainedInfo("points_net", "points", num_classes, [4], 1, split_at=split_at)
    pretrained_file.save_pretrained(
        folder / "made", pretrained_file.build_pretrained({**weights(), **(others or {})}, origin)
    )
    return folder / "made"


def test_it_begins_with_what_was_pretrained(tmp_path: Path) -> None:
    others = pretraining.build_extractors("points_net", "relu", 2)
    made = file(tmp_path, split_at="relu", others=others)
    initial = copy_to_cpu(model_building.build_model("points_net", 9).state_dict())
    several = strategy(pretrained_path=made, extractor="random").init(initial)
    assert (hash_tensors(several.model), hash_tensors(several.extra_extractors)) == (
        hash_tensors(weights()),
        hash_tensors(others),
    )
    assert (several.num_classes, list(several.input_shape)) == (10, [4])
    assert strategy(pretrained_path=made).init(initial).extra_extractors == {}, "one for all is the model's own"
    plain = strategy().init(initial)
    assert (plain.model, plain.extra_extractors, plain.input_shape) == (initial, {}, ())
    drawn = strategy(extractor="random", num_extractors=4).init(initial)
    assert len(unpack_state_dicts(drawn.extra_extractors)) == 3 and not drawn.input_shape


@pytest.mark.parametrize(
    ("made", "options", "why"),
    [
        (
            {},
            {"extractor": "random"},
            "made: only one extractor; create several for a split point with 'fedws pretrain --num-extractors 3",
        ),
        (
            {
                "split_at": "outer",
                "others": pack_state_dicts([{"inner.weight": torch.zeros(1), "inner.bias": torch.zeros(1)}]),
            },
            {"extractor": "random"},
            "made, split at outer: inner.weight has shape ",
        ),
        (
            {"split_at": "relu", "others": pack_state_dicts([{"inner.weight": torch.zeros(1)} for _ in range(16)])},
            {"extractor": "random"},
            "made, split at relu: more than 16 extractors; create several ",
        ),
        (
            {"num_classes": 0},
            {},
            "made: the pretraining data has no classes; to send clear labels",
        ),
    ],
)
def test_a_pretrained_file_that_does_not_serve_is_told(
    made: dict[str, Any], options: dict[str, Any], why: str, tmp_path: Path
) -> None:
    chosen = strategy(pretrained_path=file(tmp_path, **made), **options)
    with pytest.raises(UsageError, match=why):
        chosen.init(weights())
