"""Options in docs/topics/protocol.md agree with the code: findings 15 and 16 of an independent worker."""

import pytest
import torch

from fedws.core import registry
from fedws.core.errors import TaskError, UnknownName, UsageError
from fedws.core.spec import Spec
from fedws.split_learning.release_format import ReleaseFormat
from fedws.training.task_context import build_task_piece
from tests.helpers.protocol_page import WORDS, section, table


def nesterov(text: str) -> bool:
    parameters = [torch.nn.Parameter(torch.zeros(1))]
    found = registry.build_piece("optimizer", f"sgd:momentum=0.9,nesterov={text}", parameters, 0.1)
    return bool(found.defaults["nesterov"])


@pytest.mark.parametrize("value", [True, False])
def test_how_a_boolean_option_is_written(value: bool) -> None:
    """Finding 15."""
    words = ("true", "1", "yes", "on", "t", "y") if value else ("false", "0", "no", "off", "f", "n")
    for word in words:
        assert nesterov(word) is nesterov(word.upper()) is value
    text = "A boolean is written `true` or `false`. fedws also accepts `1` and `0`, `yes` and `no`, `on` and `off`, "
    assert text + "`t` and `f`, `y` and `n`, in any case." in WORDS
    with pytest.raises(UsageError, match="nesterov"):
        nesterov("maybe")


@pytest.mark.parametrize("spec", ["sgd:nesterov=true", "sgd:0,nesterov=true"])
def test_nesterov_without_momentum_is_refused(spec: str) -> None:
    """Finding 15."""
    with pytest.raises(TaskError, match="Nesterov momentum requires a momentum"):
        build_task_piece("optimizer", spec, [torch.nn.Parameter(torch.zeros(1))], 0.1)
    assert "A node refuses `nesterov` without a `momentum` above 0." in WORDS


def test_how_options_are_written() -> None:
    """Finding 15."""
    assert Spec.parse(" adam :0.8, weight-decay = 1e-08 ") == Spec("adam", "0.8", {"weight_decay": "1e-08"})
    found = registry.build_piece(
        "optimizer", " adam :0.8, weight-decay = 1e-08 ", [torch.nn.Parameter(torch.zeros(1))], 1
    )
    assert found.defaults["betas"] == (0.8, 0.999) and found.defaults["weight_decay"] == 1e-8
    for rule in (
        "`value` without a key is the first option in the list of the piece below.",
        "In a key, `-` and `_` are the same. Spaces around names and keys, and around a value after `=`, are ignored.",
    ):
        assert rule in WORDS


@pytest.mark.parametrize("missing", ["split_at", "encoding"])
def test_both_options_of_the_wrapper_are_required(missing: str) -> None:
    """Finding 16: neither has a value when it is absent."""
    options = {"split_at": "relu1", "encoding": "bits:epsilon=2.0"}
    rows = {row["option"]: row for row in table(section("`evaluate`"), "option")}
    assert list(rows) == list(options)
    assert {row["when absent"] for row in rows.values()} == {"must be there"}
    model = registry.build_piece("model", "mlp")
    registry.build_piece("wrapper", Spec("encoded_split", None, options), model)
    rest = {key: value for key, value in options.items() if key != missing}
    with pytest.raises(UsageError, match=missing):
        registry.build_piece("wrapper", Spec("encoded_split", None, rest), model)
    with pytest.raises(UnknownName):
        registry.build_piece("wrapper", Spec("encoded_split", None, {**options, "other": "1"}), model)


@pytest.mark.parametrize(("epsilon", "setting"), [(None, "bits"), (3.0, "bits:epsilon=3.0")])
def test_an_encoding_in_a_setting_has_its_options_and_in_a_metric_only_its_name(
    epsilon: float | None, setting: str
) -> None:
    """Finding 16."""
    release_format = ReleaseFormat.create("bits", epsilon, None)
    assert (release_format.encoding, release_format.encoding_name) == (setting, "bits")
    text = " ".join(section("`mistnet.extract`").split())
    assert "conversion of features to bytes, with its options, such as `bits:epsilon=2.0`" in text
    assert "name of the encoding without options" in text
