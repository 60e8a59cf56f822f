"""Pretrained models as files: what was saved comes back, and a file that is none is told in one line."""

from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

from fedws.core.errors import UsageError
from fedws.core.tensors import hash_tensors
from fedws.split_learning.pretrained_file import (
    PretrainedInfo,
    build_pretrained,
    load_pretrained,
    load_pretrained_for,
    save_pretrained,
)

MODEL = {"w": torch.arange(4.0), "n": torch.tensor(3)}
ORIGIN = PretrainedInfo("mlp", "digits", 10, [1, 28, 28], 20)


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    save_pretrained(tmp_path / "a", build_pretrained(MODEL, ORIGIN))
    found = load_pretrained(tmp_path / "a")
    assert hash_tensors(found.model) == hash_tensors(MODEL) and found.info == ORIGIN and not found.extra_extractors
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert load_pretrained_for(tmp_path / "a", "mlp", MODEL).info == ORIGIN


def test_further_extractors_are_kept_apart_from_the_model(tmp_path: Path) -> None:
    others, origin = {"0:w": torch.ones(4), "1:w": torch.zeros(4)}, replace(ORIGIN, split_at="pool")
    save_pretrained(tmp_path / "a", build_pretrained({**MODEL, **others}, origin))
    found = load_pretrained_for(tmp_path / "a", "mlp", MODEL)
    assert hash_tensors(found.model) == hash_tensors(MODEL) and hash_tensors(found.extra_extractors) == hash_tensors(
        others
    )
    assert found.info.split_at == "pool"


def test_another_model_is_told_by_its_difference(tmp_path: Path) -> None:
    save_pretrained(tmp_path / "a", build_pretrained(MODEL, ORIGIN))
    with pytest.raises(UsageError, match=r"--pretrained .*a contains 'mlp', not 'linear': w has shape \[4\], expected"):
        load_pretrained_for(tmp_path / "a", "linear", {**MODEL, "w": torch.zeros(5)})


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {"fedws": "{}"},
        {"fedws": "no json"},
        {"fedws": '{"model": "mlp", "dataset": "d", "num_classes": -1, "input_shape": [1], "epochs": 1}'},
        {"other": "x"},
    ],
)
def test_a_file_of_something_else_is_one_line(metadata: dict[str, str] | None, tmp_path: Path) -> None:
    safetensors.torch.save_file(MODEL, tmp_path / "a", metadata)
    with pytest.raises(UsageError, match=r"a is not a pretrained model; create one with 'fedws pretrain'$"):
        load_pretrained(tmp_path / "a")


@pytest.mark.parametrize("content", [b"", b"x" * 100])
def test_a_file_that_is_no_safetensors_is_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(UsageError, match="is not a pretrained model"):
        load_pretrained(tmp_path / "a")


def test_a_place_that_cannot_be_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read the pretrained model .*: "):
        load_pretrained(tmp_path / "none")
    with pytest.raises(UsageError, match="cannot write "):
        save_pretrained(tmp_path / "none" / "a", build_pretrained(MODEL, ORIGIN))
