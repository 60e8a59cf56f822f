"""Reading of idx files, the format of MNIST and similar data sets, with or without gzip compression.

A file starts with four bytes: two zeros, the type, and the number of dimensions. They are followed by the size of each
dimension as a big-endian uint32, and then by the values. Only unsigned bytes (type 8) are supported, because these data
sets use no other type.
"""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from fedws.core.errors import UsageError


def files_exist(folder: Path, train: bool) -> bool:
    """Return whether the folder contains the images and labels of the training or test set, compressed or not."""
    return all(_find_file(folder, name).is_file() for name in _file_names(train))


def read_images(folder: Path, train: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixels, uint8 [n, 1, height, width], and the labels, uint8 [n], of the training or test set.

    Raises UsageError with the path of a file that is invalid.
    """
    images_path, labels_path = (_find_file(folder, name) for name in _file_names(train))
    pixels, labels = read_array(images_path, 3), read_array(labels_path, 1)
    if len(pixels) != len(labels):
        raise UsageError(f"{images_path} has {len(pixels)} images, but {labels_path} has {len(labels)} labels")
    return pixels[:, np.newaxis], labels


def read_array(path: Path, num_dimensions: int) -> np.ndarray:
    """Return the uint8 array in a file. Raises UsageError if the file is missing, truncated or corrupt."""
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UsageError(f"{path} is corrupt ({error}); delete it to download it again") from None
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from None
    start = 4 + 4 * num_dimensions
    if len(data) < start or data[:4] != bytes([0, 0, 8, num_dimensions]):
        problem = "is truncated" if len(data) < start else "is not an idx file"
        raise UsageError(f"{path} {problem if data else 'is empty'}; delete it to download it again")
    shape = [int(size) for size in np.frombuffer(data, ">u4", num_dimensions, 4)]
    if len(data) != start + math.prod(shape):
        found, expected = len(data) - start, math.prod(shape)
        raise UsageError(f"{path} contains {found} values, expected {expected}; delete it to download it again")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def _file_names(train: bool) -> tuple[str, str]:
    part = "train" if train else "t10k"
    return f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte"


def _find_file(folder: Path, name: str) -> Path:
    """Return the path of the uncompressed file, or of the compressed file if only that one exists."""
    compressed = folder / f"{name}.gz"
    return compressed if compressed.is_file() and not (folder / name).is_file() else folder / name
