"""Store of the features and labels that workers uploaded, on the coordinator's disk, with one file per chunk.

Features stay encoded and are mapped into memory. Training decodes one batch at a time, so memory use does not grow with
the size of the store.
"""

import re
from itertools import count
from pathlib import Path

import safetensors.torch
import torch

from fedws.core import private_files
from fedws.core.atomic_files import atomic_write, fsync_dir
from fedws.core.errors import RunFailed, UsageError
from fedws.core.tensors import Tensors

FEATURES_KEY, LABELS_KEY = "features", "labels"
_CHUNK_FILE_NAME = re.compile(r"(\d+)-(\d+)\.safetensors")


class FeatureStore:
    """A folder of chunks, each named by the worker's number in the plan and its own number; for one writing process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save_chunk(self, worker_index: int, chunk_index: int, tensors: Tensors) -> None:
        """Store a chunk durably, and replace an existing chunk with the same numbers.

        The chunk is on the disk when the method returns. Raises RunFailed if the chunk cannot be written; the chunks
        stored before stay unchanged.
        """
        path = self.folder / f"{worker_index}-{chunk_index}.safetensors"
        try:
            if not self.folder.is_dir():
                private_files.create_dir(self.folder, parents=True)
                fsync_dir(self.folder.parent)
            atomic_write(path, safetensors.torch.save(dict(tensors)))
        except OSError as error:
            raise RunFailed(f"cannot write features to {path}: {error.strerror or error}") from None

    def count_chunks(self) -> dict[int, int]:
        """Return the number of each worker's chunks that are stored without a gap, by the worker's number."""
        numbers: dict[int, set[int]] = {}
        for worker, chunk, _ in self._list_chunks():
            numbers.setdefault(worker, set()).add(chunk)
        return {worker: next(n for n in count() if n not in found) for worker, found in numbers.items()}

    def load_features(self) -> "StoredFeatures":
        """Return all features that are stored.

        Raises UsageError if a chunk cannot be read.
        """
        try:
            return StoredFeatures([safetensors.torch.load_file(path) for _, _, path in self._list_chunks()])
        except (OSError, safetensors.SafetensorError) as error:
            raise UsageError(f"cannot read the features in {self.folder}: {error}") from None

    def _list_chunks(self) -> list[tuple[int, int, Path]]:
        """Return the worker's number, the chunk's number and the file of each chunk, sorted in this order."""
        paths = self.folder.iterdir() if self.folder.is_dir() else ()
        named = ((_CHUNK_FILE_NAME.fullmatch(path.name), path) for path in paths)
        return sorted((int(match[1]), int(match[2]), path) for match, path in named if match)


class StoredFeatures:
    """A data set of all stored chunks: encoded features, uint8 [k, bytes], and labels [k, ...]."""

    def __init__(self, chunks: list[dict[str, torch.Tensor]]) -> None:
        self._chunks = chunks
        self._ends = torch.tensor([len(chunk[LABELS_KEY]) for chunk in chunks], dtype=torch.int64).cumsum(0)

    def __len__(self) -> int:
        return int(self._ends[-1]) if self._chunks else 0

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        features, labels = self.batch(torch.tensor([index]))
        return features[0], labels[0]

    def batch(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return copies of the encoded features and the labels at ``indices``, int64 [k]."""
        chunk_numbers = torch.searchsorted(self._ends, indices, right=True)
        first = self._chunks[0]
        features = first[FEATURES_KEY].new_empty((len(indices), *first[FEATURES_KEY].shape[1:]))
        labels = first[LABELS_KEY].new_empty((len(indices), *first[LABELS_KEY].shape[1:]))
        for number in chunk_numbers.unique().tolist():
            chunk, selected = self._chunks[number], chunk_numbers == number
            within = indices[selected] - (self._ends[number] - len(chunk[LABELS_KEY]))
            features[selected] = chunk[FEATURES_KEY][within]
            labels[selected] = chunk[LABELS_KEY][within]
        return features, labels
