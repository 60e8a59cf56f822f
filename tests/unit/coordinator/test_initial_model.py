"""The weights that a run starts from: read whole from a file, or refused in one line."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from fedws.coordinator import initial_model
from fedws.core import tensor_file
from fedws.core.errors import UsageError

LIKE = {"w": torch.zeros(2, 3), "n": torch.zeros((), dtype=torch.int64)}
GOOD = {"w": torch.arange(6.0).reshape(2, 3), "n": torch.tensor(7)}


def saved(path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    safetensors.torch.save_file(tensors, path)
    return path


def refused(path: Path) -> str:
    with pytest.raises(UsageError) as caught:
        initial_model.load_initial_model(path, LIKE, "net")
    text = str(caught.value)
    assert text.isprintable() and text.startswith("--initial-model") and str(path) in text
    return text.removeprefix(f"--initial-model {path} ")


def test_weights_are_read_and_the_file_is_not_needed_any_more(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.safetensors", GOOD)
    found = initial_model.load_initial_model(path, LIKE, "net")
    path.write_bytes(bytes(path.stat().st_size))
    path.unlink()
    assert found.keys() == GOOD.keys() and all(torch.equal(found[name], value) for name, value in GOOD.items())


OTHER: dict[str, tuple[dict[str, torch.Tensor], str]] = {
    "missing": ({"w": GOOD["w"]}, "n is missing"),
    "more": ({**GOOD, "a\nb": torch.ones(1)}, "unexpected tensor 'a\\nb'"),
    "shape": ({**GOOD, "w": torch.ones(3, 2)}, "w has shape [3, 2], expected [2, 3]"),
    "dtype": ({**GOOD, "w": GOOD["w"].double()}, "w is float64, expected float32"),
}


@pytest.mark.parametrize("name", OTHER)
def test_another_model_is_refused_with_the_first_difference(tmp_path: Path, name: str) -> None:
    tensors, problem = OTHER[name]
    text = refused(saved(tmp_path / "m.safetensors", tensors))
    assert text == f"does not fit the model net: {problem}; set --model to the model of this file"


@pytest.mark.parametrize(("value", "text"), [(float("nan"), "NaN"), (float("-inf"), "Inf")])
def test_values_that_cannot_be_trained_from_are_refused(tmp_path: Path, value: float, text: str) -> None:
    path = saved(tmp_path / "m.safetensors", {**GOOD, "w": torch.full((2, 3), value)})
    assert refused(path).startswith(f"cannot be used: w contains {text}; ")


def torch_save(path: Path) -> None:
    torch.save(GOOD, path)


SPOILT: dict[str, Any] = {
    "pickle": lambda path: path.write_bytes(pickle.dumps({"w": 1})),
    "torch.save": torch_save,
    "text": lambda path: path.write_text("weights"),
    "empty": lambda path: path.write_bytes(b""),
    "cut short": lambda path: path.write_bytes(saved(path, GOOD).read_bytes()[:-1]),
}


@pytest.mark.parametrize("name", SPOILT)
def test_another_file_is_refused(tmp_path: Path, name: str) -> None:
    SPOILT[name](tmp_path / "m.pt")
    assert refused(tmp_path / "m.pt") == (
        "is not a safetensors file; give a file of weights such as model.safetensors of a run"
    )


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    prefix = f"--initial-model: cannot read {tmp_path}"
    reason = "No such file or directory; give a file of weights"
    assert refused(tmp_path / "none").startswith(f"{prefix}/none: {reason}")
    assert refused(tmp_path).startswith(f"{prefix}: Is a directory; ")


def test_weights_of_a_dtype_that_the_format_lacks_are_read_as_a_run_writes_them(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    tensor_file.save_tensors({"w": torch.tensor([1 + 2j], dtype=torch.complex128)}, path)
    found = initial_model.load_initial_model(path, {"w": torch.zeros(1, dtype=torch.complex128)}, "net")
    assert found["w"].dtype == torch.complex128 and found["w"].tolist() == [1 + 2j]
