"""What workers have sent of their samples, on the coordinator's disk: encoded features and labels, a file a chunk.

Features stay as they came, packed, and are mapped into memory; whoever trains unpacks a batch at a time. So the memory
that this takes does not grow with what is stored.
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
    """Chunks in a folder, by the worker's number in the plan and the chunk's own; for one process that writes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save_chunk(self, worker_index: int, chunk_index: int, tensors: Tensors) -> None:
        """Store a chunk; when this returns it is on the disk. One that is there already is replaced.

        Raises RunFailed when it cannot be written; what was stored before stays as it was.
        """
        path = self.folder / f"{worker_index}-{chunk_index}.safetensors"
        try:
            if not self.folder.is_dir():
                private_files.create_dir(self.folder, parents=True)
                fsync_dir(self.folder.parent)
            atomic_write(path, safetensors.torch.save(dict(tensors)))
        except OSError as error:
            raise RunFailed(f"the features of a worker cannot be stored in {path}: {error.strerror or error}") from None

    def count_chunks(self) -> dict[int, int]:
        """How many chunks of each worker are stored, without a gap, by the worker's number."""
        numbers: dict[int, set[int]] = {}
        for worker, chunk, _ in self._list_chunks():
            numbers.setdefault(worker, set()).add(chunk)
        return {worker: next(n for n in count() if n not in found) for worker, found in numbers.items()}

    def load_features(self) -> "StoredFeatures":
        """All that is stored by now. Raises UsageError when something of it cannot be read."""
        try:
            return StoredFeatures([safetensors.torch.load_file(path) for _, _, path in self._list_chunks()])
        except (OSError, safetensors.SafetensorError) as error:
            raise UsageError(f"the features in {self.folder} cannot be read: {error}") from None

    def _list_chunks(self) -> list[tuple[int, int, Path]]:
        """Worker, number and file of each chunk, in this order."""
        paths = self.folder.iterdir() if self.folder.is_dir() else ()
        named = ((_CHUNK_FILE_NAME.fullmatch(path.name), path) for path in paths)
        return sorted((int(match[1]), int(match[2]), path) for match, path in named if match)


class StoredFeatures:
    """Stored chunks as one data set: ``batch`` gives encoded features, uint8 [k, bytes], and labels [k, ...]."""

    def __init__(self, chunks: list[dict[str, torch.Tensor]]) -> None:
        self._chunks = chunks
        self._ends = torch.tensor([len(chunk[LABELS_KEY]) for chunk in chunks], dtype=torch.int64).cumsum(0)

    def __len__(self) -> int:
        return int(self._ends[-1]) if self._chunks else 0

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        features, labels = self.batch(torch.tensor([index]))
        return features[0], labels[0]

    def batch(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The records at ``indices``, int64 [k], copied out of the files."""
        whose = torch.searchsorted(self._ends, indices, right=True)
        one = self._chunks[0]
        features = one[FEATURES_KEY].new_empty((len(indices), *one[FEATURES_KEY].shape[1:]))
        labels = one[LABELS_KEY].new_empty((len(indices), *one[LABELS_KEY].shape[1:]))
        for number in whose.unique().tolist():
            chunk, mine = self._chunks[number], whose == number
            within = indices[mine] - (self._ends[number] - len(chunk[LABELS_KEY]))
            features[mine] = chunk[FEATURES_KEY][within]
            labels[mine] = chunk[LABELS_KEY][within]
        return features, labels
