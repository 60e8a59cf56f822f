import gzip
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from fedws.core.errors import UsageError
from fedws.data.datasets.cifar10 import Cifar10
from fedws.data.datasets.digits import Digits
from fedws.data.datasets.fashion_mnist import FashionMnist
from fedws.data.datasets.mnist import Mnist
from fedws.data.samples import ImageDataset
from tests.helpers.support import idx_bytes, write_idx


def moments(data: ImageDataset) -> list[float]:
    """Means, then standard deviations, of the channels' pixels / 255."""
    levels = torch.arange(256, dtype=torch.float64) / 255
    means, stds = [], []
    for channel in data.pixels.unbind(1):
        counts = channel.flatten().bincount(minlength=256) / channel.numel()
        means.append(float((counts * levels).sum()))
        stds.append(float((counts * levels**2).sum() - means[-1] ** 2) ** 0.5)
    return means + stds


def test_mnist_is_the_real_one(mnist_root: Path) -> None:
    from torchvision import datasets

    train, test = Mnist(mnist_root, True), Mnist(mnist_root, False)
    for ours, theirs in (
        (train, datasets.MNIST(str(mnist_root))),
        (test, datasets.MNIST(str(mnist_root), train=False)),
    ):
        assert torch.equal(ours.pixels[:, 0], theirs.data) and torch.equal(ours.targets, theirs.targets)
    assert train.targets.bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert test.targets.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert moments(train) == pytest.approx([0.1307, 0.3081], abs=5e-5)


def test_mnist_is_read_without_torchvision(mnist_root: Path) -> None:
    code = (
        "import sys; from fedws.data import loading as holding; holding.load_dataset('mnist', sys.argv[1], True);"
        "assert not {'torchvision', 'sklearn'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(mnist_root)], check=True, timeout=60)


def test_mnist_is_read_packed_as_unpacked(tmp_path: Path) -> None:
    write_idx(tmp_path / "MNIST" / "raw")
    unpacked = Mnist(tmp_path, True)
    for file in (tmp_path / "MNIST" / "raw").iterdir():
        file.with_name(f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    packed = Mnist(tmp_path, True)
    assert torch.equal(packed.pixels, unpacked.pixels) and torch.equal(packed.targets, unpacked.targets)


def test_a_spoilt_file_is_named(tmp_path: Path) -> None:
    write_idx(tmp_path / "MNIST" / "raw")
    file = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(UsageError, match=r"train-images-idx3-ubyte contains 984 values, expected 31360; delete it"):
        Mnist(tmp_path, True)


@pytest.mark.parametrize("kind", ["MNIST", "FashionMNIST", "CIFAR10"])
def test_missing_files_are_downloaded_by_torchvision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    import torchvision.datasets

    asked = []

    def download(root: str, download: bool) -> None:
        asked.append((root, download))
        write_idx(Path(root) / kind / "raw")

    monkeypatch.setattr(torchvision.datasets, kind, download)
    factory = {"MNIST": Mnist, "FashionMNIST": FashionMnist, "CIFAR10": Cifar10}[kind]
    if kind == "CIFAR10":
        with pytest.raises(UsageError, match=r"CIFAR10 .*is incomplete"):
            factory(tmp_path, True)
    else:
        assert len(factory(tmp_path, True)) == 40
    assert [flag for _, flag in asked] == [True]


def test_fashion_mnist_is_read_from_its_own_folder(tmp_path: Path) -> None:
    write_idx(tmp_path / "FashionMNIST" / "raw", train=30, test=10)
    train, test = FashionMnist(tmp_path, True), FashionMnist(tmp_path, False)
    assert len(train) == 30 and test.targets.tolist() == list(range(10))
    with_pixel = (float(train.pixels[3, 0, 5, 6]) / 255 - 0.2860) / 0.3530
    assert float(train[3][0][0, 5, 6]) == pytest.approx(with_pixel, abs=1e-6)


def test_cifar10_is_the_real_one(cifar_root: Path) -> None:
    from torchvision import datasets, transforms

    train, test = Cifar10(cifar_root, True), Cifar10(cifar_root, False)
    assert train.pixels.shape == (50000, 3, 32, 32) and train.targets.bincount().tolist() == [5000] * 10
    assert test.pixels.shape == (10000, 3, 32, 32)
    mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
    assert moments(train) == pytest.approx([*mean, *std], abs=5e-5)
    like = transforms.Compose([transforms.ToTensor(), transforms.Normalize(mean, std)])
    with warnings.catch_warnings(action="ignore"):  # numpy's, of the old pickles
        theirs = datasets.CIFAR10(str(cifar_root), train=False, transform=like)
    assert test.targets.tolist() == theirs.targets
    for index in (0, 9, 9999):
        assert torch.equal(test[index][0], theirs[index][0])


def test_a_spoilt_cifar10_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in ("batches.meta", "test_batch", *(f"data_batch_{number}" for number in range(1, 6))):
        (folder / name).write_bytes(b"")
    with pytest.raises(UsageError, match="cifar-10-batches-py is corrupt or incomplete; delete it"):
        Cifar10(tmp_path, True)


def test_digits_are_split_the_same_way_always(tmp_path: Path) -> None:
    train, test = Digits(tmp_path, True), Digits(tmp_path, False)
    assert train.targets.bincount().tolist() == [143, 146, 142, 147, 145, 146, 145, 144, 140, 144]
    assert test.targets.bincount().tolist() == [35, 36, 35, 36, 36, 36, 36, 35, 34, 36]
    assert moments(train) == pytest.approx([0.3051, 0.3248], abs=5e-5)
    assert train.pixels.shape[1:] == (1, 28, 28) and int(train.pixels.max()) == 255 and int(train.pixels.min()) == 0
    seen = {image.numpy().tobytes() for image in train.pixels}
    assert sum(image.numpy().tobytes() in seen for image in test.pixels) == 0
    assert list(tmp_path.iterdir()) == []  # nothing is written


def test_an_empty_file_of_images_is_no_data_set(tmp_path: Path) -> None:
    from fedws.data import loading

    write_idx(tmp_path / "MNIST" / "raw")
    for name, shape in (("images-idx3", (0, 28, 28)), ("labels-idx1", (0,))):
        (tmp_path / "MNIST" / "raw" / f"train-{name}-ubyte").write_bytes(idx_bytes(np.zeros(shape)))
    with pytest.raises(UsageError, match="dataset mnist is empty"):
        loading.load_dataset("mnist", str(tmp_path), train=True)
