import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fedws.core.errors import UsageError
from fedws.data import idx
from tests.helpers.support import idx_bytes, write_idx

VALUES = np.arange(24).reshape(2, 3, 4)


def test_reads_raw_and_packed(tmp_path: Path) -> None:
    raw, packed = tmp_path / "raw", tmp_path / "packed.gz"
    raw.write_bytes(idx_bytes(VALUES))
    packed.write_bytes(gzip.compress(idx_bytes(VALUES)))
    for path in (raw, packed):
        found = idx.read_array(path, 3)
        assert found.dtype == np.uint8 and np.array_equal(found, VALUES)


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda data: b"", "is empty"),
        (lambda data: data[:9], "is truncated"),
        (lambda data: data[:-1], "contains 23 values, expected 24"),
        (lambda data: data + b"x", "contains 25 values, expected 24"),
        (lambda data: b"\0\0\x0d" + data[3:], "is not an idx file"),
        (lambda data: b"<html>" + data[6:], "is not an idx file"),
        (lambda data: data[:4] + b"\xff" * 12 + data[16:], "contains 24 values, expected "),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_names_the_file_that_is_spoilt(
    tmp_path: Path, spoil: Callable[[bytes], bytes], problem: str, packed: bool
) -> None:
    path = tmp_path / ("some-file.gz" if packed else "some-file")
    data = spoil(idx_bytes(VALUES))
    path.write_bytes(gzip.compress(data) if packed else data)
    with pytest.raises(UsageError) as caught:
        idx.read_array(path, 3)
    assert str(caught.value).startswith(f"{path} {problem}") and "\n" not in str(caught.value)


@pytest.mark.parametrize("cut", [0, 5, 20, -1])
def test_names_the_packed_file_that_is_spoilt(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "some-file.gz"
    path.write_bytes(gzip.compress(idx_bytes(VALUES))[:cut])
    with pytest.raises(UsageError, match=r"some-file\.gz is (corrupt|empty)"):
        idx.read_array(path, 3)


def test_names_the_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read .*nothing: No such file"):
        idx.read_array(tmp_path / "nothing", 3)
    with pytest.raises(UsageError, match=r"cannot read .*: Is a directory"):
        idx.read_array(tmp_path, 3)


def test_images_and_labels_belong_together(tmp_path: Path) -> None:
    folder = tmp_path / "raw"
    assert not idx.files_exist(folder, train=True)
    write_idx(folder)
    assert idx.files_exist(folder, train=True)
    pixels, labels = idx.read_images(folder, train=False)
    assert pixels.shape == (20, 1, 28, 28) and labels.shape == (20,)
    (folder / "t10k-labels-idx1-ubyte").write_bytes(idx_bytes(np.arange(19)))
    with pytest.raises(UsageError, match=r"has 20 images, but .* has 19 labels"):
        idx.read_images(folder, train=False)
    (folder / "t10k-labels-idx1-ubyte").unlink()
    assert not idx.files_exist(folder, train=False)
