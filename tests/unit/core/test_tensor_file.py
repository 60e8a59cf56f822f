"""Files of tensors of every dtype: what was saved comes back, and the library reads what it can hold."""

import json
import math
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError

from fedws.core import tensor_file
from fedws.core.tensors import DTYPES, Tensors, hash_tensors
from fedws.protocol.run_claim import RunClaim
from fedws.recording.run_log import write_model
from fedws.split_learning import pretrained_file
from fedws.split_learning.pretrained_file import PretrainedInfo
from fedws.split_learning.upload_cache import UploadCache

OLD = {"F16", "BF16", "F32", "F64", "I8", "I16", "I32", "I64", "U8", "U16", "U32", "U64", "BOOL", "F8_E4M3", "F8_E5M2"}
"""What the oldest safetensors that fedws takes, 0.5, can hold."""
EVERY: Tensors = {name: torch.tensor([[0, 1], [1, 0], [1, 1]]).to(dtype) for name, dtype in DTYPES.items()}


@pytest.fixture(params=["this safetensors", "safetensors 0.5"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the library hold what it holds, or less."""
    if request.param == "safetensors 0.5":
        few = {DTYPES[name] for name, code in tensor_file.DTYPE_CODES.items() if code in OLD and name in DTYPES}
        monkeypatch.setattr(tensor_file.to_storable, "__defaults__", (few.__contains__,))


@pytest.mark.usefixtures("library")
def test_every_dtype_comes_back_from_a_file_and_from_bytes(tmp_path: Path) -> None:
    tensor_file.save_tensors(EVERY, tmp_path / "a", {"about": "me"})
    found, metadata = tensor_file.load_tensors_and_metadata(tmp_path / "a")
    assert (
        hash_tensors(found)
        == hash_tensors(EVERY)
        == hash_tensors(tensor_file.decode_tensors(tensor_file.encode_tensors(EVERY)))
    )
    assert hash_tensors(tensor_file.load_tensors(tmp_path / "a")) == hash_tensors(EVERY) and metadata["about"] == "me"


@pytest.mark.parametrize("name", DTYPES)
@settings(deadline=None, max_examples=20)
@given(data=st.binary(max_size=6))
def test_any_bits_come_back(name: str, data: bytes) -> None:
    bits = torch.tensor(list(data * DTYPES[name].itemsize), dtype=torch.uint8)
    tensors = {"w": (bits & 1 if name == "bool" else bits).view(DTYPES[name]), "scalar": EVERY[name][0, 0]}
    assert hash_tensors(tensor_file.decode_tensors(tensor_file.encode_tensors(tensors))) == hash_tensors(tensors)


@pytest.mark.usefixtures("library")
def test_the_library_reads_all_of_it_some_as_other_dtypes(tmp_path: Path) -> None:
    write_model(tmp_path / "model", {**EVERY, "transposed": EVERY["complex128"].t()})
    found = safetensors.torch.load_file(tmp_path / "model")
    with safetensors.safe_open(tmp_path / "model", "pt") as file:
        others = json.loads(file.metadata()["fedws.dtypes"])
    assert {"complex32", "complex128"} <= others.keys()
    assert others.keys().isdisjoint({name for name, code in tensor_file.DTYPE_CODES.items() if code in OLD})
    for name in EVERY:
        assert (found[name].dtype == DTYPES[name]) == (name not in others), name
    assert found["complex128"].tolist() == [[[0, 0], [1, 0]], [[1, 0], [0, 0]], [[1, 0], [1, 0]]]
    assert found["transposed"].dtype == torch.float64 and found["transposed"].shape == (2, 3, 2)


def test_a_file_without_such_tensors_is_what_the_library_writes(tmp_path: Path) -> None:
    plain = {name: EVERY[name] for name in ("float32", "bfloat16", "int64", "bool")}
    tensor_file.save_tensors(plain, tmp_path / "a")
    safetensors.torch.save_file(plain, tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert tensor_file.encode_tensors(plain) == safetensors.torch.save(plain)


@pytest.mark.parametrize(
    "metadata",
    ["no json", "[]", '{"none": "complex128"}', '{"w": "none"}', '{"w": "complex128"}', '{"w": "complex64"}'],
)
def test_metadata_that_do_not_fit_are_an_error_of_the_library(metadata: str, tmp_path: Path) -> None:
    safetensors.torch.save_file({"w": torch.zeros(3)}, tmp_path / "a", {"fedws.dtypes": metadata})
    with pytest.raises(SafetensorError, match=r"^fedws.dtypes does not match the tensors: "):
        tensor_file.load_tensors(tmp_path / "a")


def test_pretrained_models_and_cached_extractors_are_of_every_dtype(tmp_path: Path) -> None:
    pretrained_file.save_pretrained(
        tmp_path / "a", pretrained_file.build_pretrained(EVERY, PretrainedInfo("m", "digits", 10, [1], 1))
    )
    assert hash_tensors(pretrained_file.load_pretrained(tmp_path / "a").model) == hash_tensors(EVERY)
    uploads = UploadCache(tmp_path / "uploads")
    uploads.start_run(RunClaim("run"))
    uploads.save_cached(EVERY)
    cached = uploads.load_cached(hash_tensors(EVERY))
    assert cached is not None and hash_tensors(cached) == hash_tensors(EVERY)
    uploads.create_upload({}, EVERY, "data")
    begun = uploads.load_resumable({}, lambda: "data")
    assert begun is not None and hash_tensors(begun) == hash_tensors(EVERY)


def test_a_complex_number_is_its_real_part_and_then_its_imaginary_part() -> None:
    tensors = {"w": torch.tensor([1 + 2j, complex(math.inf, -0.0)], dtype=torch.complex128)}
    stored, metadata = tensor_file.to_storable(tensors)
    assert stored["w"].tolist() == [[1, 2], [math.inf, 0]] and math.copysign(1, float(stored["w"][1, 1])) == -1
    assert metadata == {"fedws.dtypes": '{"w": "complex128"}'}
