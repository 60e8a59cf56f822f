"""Reads idx files, the format of MNIST and its kin, packed with gzip or not.

Four bytes of magic (two zeros, the type, the number of dimensions), one big-endian uint32 per dimension, then the
values. Only unsigned bytes (type 8) are read, which is all that these data sets use.
"""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from fedws.core.errors import UsageError


def files_exist(folder: Path, train: bool) -> bool:
    """Whether the images and the labels of a part are in the folder, packed or not."""
    return all(_find_file(folder, name).is_file() for name in _file_names(train))


def read_images(folder: Path, train: bool) -> tuple[np.ndarray, np.ndarray]:
    """Pixels, uint8 [n, 1, height, width], and labels, uint8 [n]. Raises UsageError, naming the file."""
    of_images, of_labels = (_find_file(folder, name) for name in _file_names(train))
    pixels, labels = read_array(of_images, 3), read_array(of_labels, 1)
    if len(pixels) != len(labels):
        raise UsageError(f"{of_images} has {len(pixels)} images, but {of_labels} has {len(labels)} labels")
    return pixels[:, np.newaxis], labels


def read_array(path: Path, num_dimensions: int) -> np.ndarray:
    """The array in a file, uint8. Raises UsageError, naming the file, when it is not there, cut short or corrupt."""
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UsageError(f"{path} is corrupt ({error}); remove it to have it downloaded again") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from None
    start = 4 + 4 * num_dimensions
    if len(data) < start or data[:4] != bytes([0, 0, 8, num_dimensions]):
        what = "is cut short" if len(data) < start else "is no idx file"
        raise UsageError(f"{path} {what if data else 'is empty'}; remove it to have it downloaded again")
    shape = [int(size) for size in np.frombuffer(data, ">u4", num_dimensions, 4)]
    if len(data) != start + math.prod(shape):
        found, wanted = len(data) - start, math.prod(shape)
        raise UsageError(f"{path} holds {found} values, not {wanted}; remove it to have it downloaded again")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def _file_names(train: bool) -> tuple[str, str]:
    part = "train" if train else "t10k"
    return f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte"


def _find_file(folder: Path, name: str) -> Path:
    """The unpacked file, or the packed one where only that is there."""
    packed = folder / f"{name}.gz"
    return packed if packed.is_file() and not (folder / name).is_file() else folder / name
