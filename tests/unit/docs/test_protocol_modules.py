"""MistNet and the data set digits, computed with numpy as docs/topics/protocol.md describes them.

These are findings 13 and 14 of an independent worker.
"""

import json
from hashlib import sha256

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from fedws.core import registry
from fedws.core.tensors import hash_tensors
from fedws.data.datasets.digits import Digits
from fedws.split_learning.model_split import find_split_points, resolve_split_point, split_model
from tests.helpers.protocol_page import WORDS, section, table
from tests.helpers.support import REPOSITORY

Array = np.ndarray
INPUTS = {"mlp": (1, 28, 28), "mnist_cnn": (1, 28, 28), "cifar_cnn": (3, 32, 32)}
MODULES = table(section("Modules and split points"), "model")


def rows_of(model: str) -> list[dict[str, str]]:
    return [row for row in MODULES if row["model"] == model]


@pytest.mark.parametrize("model", INPUTS)
def test_the_modules_of_a_model_are_its_split_points(model: str) -> None:
    """Finding 13."""
    module = registry.build_piece("model", model).eval()
    assert [row["module"] for row in rows_of(model)] == find_split_points(module)
    for row in rows_of(model):
        extractor, _ = split_model(module, row["module"])
        with torch.inference_mode():
            features = extractor.eval()(torch.zeros(2, *INPUTS[model]))
        assert list(features.shape[1:]) == json.loads(row["shape of the features of one sample"])


def test_a_model_without_split_points_and_numbers_as_split_points() -> None:
    """Finding 13."""
    assert find_split_points(registry.build_piece("model", "linear")) == []
    assert "`linear` has no split point." in WORDS
    for model in INPUTS:
        module = registry.build_piece("model", model)
        names = [row["module"] for row in rows_of(model) if row["module"] != "features"]
        assert [resolve_split_point(module, str(number)) for number in range(len(names))] == names
    assert "`2` is `pool1` in `mnist_cnn`, `fc2` in `mlp` and `features.2` in `cifar_cnn`" in WORDS
    assert registry.find_piece("model", "mnist_cnn").split_at == "pool1"
    assert "MistNet splits `mnist_cnn` after `pool1` by default" in WORDS


def convolve(images: Array, weights: Array, bias: Array) -> Array:
    """Cross-correlation without padding: images [n, in, rows, columns], weights [out, in, row, column]."""
    windows = np.lib.stride_tricks.sliding_window_view(images, weights.shape[2:], axis=(2, 3))
    found: Array = np.einsum("ncyxij,ocij->noyx", windows, weights) + bias[:, None, None]
    return found


def extract(images: Array, tensors: dict[str, Array], split_at: str) -> Array:
    """Run the modules of mnist_cnn up to one, as the table of the page names them."""
    values, flat = images, False
    for row in rows_of("mnist_cnn"):
        name = row["module"]
        weights, bias = tensors.get(f"{name}.weight"), tensors.get(f"{name}.bias")
        if row["operation"] == "convolution":
            assert weights is not None and bias is not None
            values = convolve(values, weights, bias)
        elif row["operation"] == "dense":
            assert weights is not None and bias is not None
            values, flat = (values if flat else values.reshape(len(values), -1)) @ weights.T + bias, True
        elif row["operation"] == "ReLU":
            values = np.maximum(values, 0)
        else:
            assert row["operation"] == "maximum over 2 x 2"
            n, channels, rows, columns = values.shape
            values = values.reshape(n, channels, rows // 2, 2, columns // 2, 2).max((3, 5))
        if name == split_at:
            return values
    raise AssertionError(split_at)


@pytest.mark.parametrize("split_at", [row["module"] for row in rows_of("mnist_cnn")])
def test_the_features_of_mnist_cnn_by_hand(split_at: str) -> None:
    """Finding 13: the output of the named module is what leaves the worker, encoded."""
    torch.manual_seed(1)
    module = registry.build_piece("model", "mnist_cnn").eval()
    images = torch.randn(3, 1, 28, 28)
    extractor, head = split_model(module, split_at)
    with torch.inference_mode():
        features = extractor.eval()(images)
    tensors = {name: tensor.double().numpy() for name, tensor in extractor.state_dict().items()}
    by_hand = extract(images.double().numpy(), tensors, split_at)
    np.testing.assert_allclose(by_hand, features.numpy(), atol=1e-4)
    assert not tensors.keys() & head.state_dict().keys()
    clear = registry.build_piece("encoding", "bits_without_noise").encode(features, None)
    bits = np.packbits(features.numpy().reshape(3, -1) > 0, axis=1)
    assert np.array_equal(clear.numpy(), bits)


def test_the_record_of_the_default_split_point() -> None:
    """Finding 13."""
    (row,) = (row for row in rows_of("mnist_cnn") if row["module"] == "pool1")
    size = int(np.prod(json.loads(row["shape of the features of one sample"])))
    text = f"a record has {size:,} features. The encoding `bits` turns them into {-(-size // 8)} bytes."
    assert text in WORDS


def test_the_digest_of_an_extractor_by_hand() -> None:
    """Finding 13."""
    extractor, _ = split_model(registry.build_piece("model", "mnist_cnn"), "pool1")
    state = extractor.state_dict()
    digest = sha256()
    for name in sorted(state):
        shape = "[" + ", ".join(map(str, state[name].shape)) + "]"
        text = f"{len(name)}:{name}:float32:{shape}:"
        digest.update(text.encode() + state[name].numpy().tobytes())
    assert digest.hexdigest() == hash_tensors(state)
    assert "the text is `10:conv1.bias:float32:[20]:`" in WORDS and len("conv1.bias") == 10


def scale_up(images: Array) -> Array:
    """Scale images [n, 8, 8] to [n, 28, 28] by the formula of the page."""
    for axis in (1, 2):
        x = np.maximum(0, (np.arange(28) + 0.5) * 8 / 28 - 0.5)
        k = np.floor(x).astype(int)
        shape = [1, 1, 1]
        shape[axis] = 28
        f = (x - k).reshape(shape)
        images = (1 - f) * images.take(k, axis) + f * images.take(np.minimum(k + 1, 7), axis)
    return images


def test_digits_by_hand() -> None:
    """Finding 14."""
    bunch = load_digits()
    assert (bunch.images.min(), bunch.images.max(), len(bunch.images)) == (0, 16, 1797)
    exact = scale_up(bunch.images * 255 / 16)
    earlier = np.array([(bunch.target[:index] == label).sum() for index, label in enumerate(bunch.target)])
    is_test = earlier % 5 == 4
    for train, count in ((True, 1442), (False, 355)):
        data = Digits(REPOSITORY, train)
        expected = exact[is_test != train]
        assert len(data) == len(expected) == count
        assert data.targets.tolist() == bunch.target[is_test != train].tolist()
        pixels = data.pixels.squeeze(1).numpy()
        is_half = np.abs(expected % 1 - 0.5) < 1e-3  # float32 and float64 may round a half differently
        assert np.array_equal(np.rint(expected)[~is_half], pixels[~is_half])
        assert np.abs(expected - pixels).max() < 0.502
        inputs, _ = data.batch(torch.arange(count))
        np.testing.assert_allclose(inputs.squeeze(1).numpy(), (pixels / 255 - 0.3051) / 0.3248, atol=1e-5)
    assert "with values from 0 to 16" in WORDS
    assert "These are 355 test samples. The other 1,442 are training samples." in WORDS
    assert "Output index i, from 0 to 27, lies at `x = max(0, (i + 0.5) * 8 / 28 - 0.5)` in the source." in WORDS
