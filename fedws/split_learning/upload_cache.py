"""Features that a worker extracted for a run, stored on its disk until the coordinator has acknowledged them.

Noise is drawn once. A repeated request gets the same bits, so a retry does not spend privacy, as new noise for the same
run would. An interrupted extraction continues where it stopped. After the acknowledgement the bits are deleted, and a
note that they were sent is kept.
"""

import json
import math
import os
import secrets
import shutil
import tempfile
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError

from fedws.core import private_files, tensor_file
from fedws.core.atomic_files import atomic_write, fsync_dir
from fedws.core.errors import TaskCancelled, TaskError
from fedws.core.tensors import DTYPE_NAMES, Tensors, hash_tensors
from fedws.protocol.messages import Json
from fedws.protocol.run_claim import RunClaim
from fedws.split_learning.retention import (
    CACHE_PREFIX,
    DAY_SECONDS,
    EXTRACTOR_FILE,
    FEATURES_FILE,
    LABELS_FILE,
    MANIFEST_FILE,
    MAX_SENT_NOTES,
    MAX_SETTINGS_BYTES,
    MAX_UPLOAD_BYTES,
    SENT_FILE,
    delete_payload,
    prune_cache,
    prune_expired,
    prune_uploads,
)
from fedws.training.task_context import TaskContext

FSYNC_INTERVAL_BYTES = 2**23
"""Interval in bytes of features at which the upload is synced to the disk, to continue from there."""


@dataclass(frozen=True)
class EncodedBatch:
    """Some records as they are sent to the coordinator."""

    features: torch.Tensor
    """Encoded features, uint8 [k, bytes]."""
    labels: torch.Tensor
    """Labels: classes, int64 [k]; or any of one shape, int64 or float32 [k, ...]."""
    feature_shape: Sequence[int]
    """Shape of a record's features before encoding."""

    @property
    def record_format(self) -> Json:
        """Return the format, which is the same for all records."""
        label = {"label_shape": list(self.labels.shape[1:]), "label_dtype": DTYPE_NAMES[self.labels.dtype]}
        return {"feature_bytes": self.features.shape[1], "feature_shape": list(self.feature_shape), **label}


def check_settings_size(settings: Json) -> Json:
    """Return the settings on which features depend, or raise TaskError if they are too long to be stored."""
    size = len(json.dumps(settings).encode())
    if size > MAX_SETTINGS_BYTES:
        raise TaskError(f"feature settings of {size:,} bytes exceed the limit of {MAX_SETTINGS_BYTES:,} bytes")
    return settings


class CachedUpload:
    """The encoded features and labels of all records of a node for one run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.manifest: Json = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
        """Manifest with the ``settings`` of the request, ``num_records``, and the format of a record:
        ``feature_bytes``, ``feature_shape``, ``label_shape`` and ``label_dtype``."""
        self.acknowledged = not (folder / FEATURES_FILE).exists()

    def read_records(self, first: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return records from ``first`` on: features uint8 [count, bytes] and labels [count, ...]."""
        features = self._read(FEATURES_FILE, "uint8", [self.manifest["feature_bytes"]], first, count)
        return features, self._read(
            LABELS_FILE, self.manifest["label_dtype"], self.manifest["label_shape"], first, count
        )

    def _read(self, name: str, dtype: str, shape: Sequence[int], first: int, count: int) -> torch.Tensor:
        records = np.memmap(self._folder / name, dtype, "r", shape=(self.manifest["num_records"], *shape))
        return torch.from_numpy(records[first : first + count].copy())

    def was_sent(self, first: int, count: int) -> bool:
        """Return True if exactly these records were sent before."""
        return f"{first} {count}" in self._read_sent_notes()

    def mark_sent(self, first: int, count: int) -> None:
        """Record that these records were sent."""
        if not self.was_sent(first, count) and len(self._read_sent_notes()) < MAX_SENT_NOTES:
            with private_files.open_text(self._folder / SENT_FILE, "a", "ascii") as file:
                file.write(f"{first} {count}\n")

    def _read_sent_notes(self) -> list[str]:
        path = self._folder / SENT_FILE
        return path.read_text(encoding="ascii").splitlines() if path.exists() else []

    def acknowledge(self) -> None:
        """Delete the records, which the coordinator has stored, and keep the note that they were sent."""
        delete_payload(self._folder)
        self.acknowledged = True


class UploadCache:
    """The uploads of a node, with a folder for each run, and a cache of the tensors that it received for them.

    Without ``folder``, the uploads are in a temporary folder that exists as long as this object.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._persistent_folder = folder
        self.claim: RunClaim | None = None
        """Claim of the run; None for a run without an ID."""
        self._pruned = -math.inf

    def start_run(self, claim: RunClaim) -> None:
        """Select the run of this claim; a run without an ID has no uploads, since it could not request them again."""
        self.claim = claim if claim.run else None
        if self._persistent_folder is not None and time.monotonic() - self._pruned > DAY_SECONDS:
            prune_expired(self._persistent_folder, self.run_name)
            self._pruned = time.monotonic()

    # ------------------------------------------------------------------ the run's upload

    def find_completed(self) -> CachedUpload | None:
        """Return the complete upload of the run, or None."""
        return CachedUpload(self._run_folder()) if self._load_manifest().get("complete") else None

    def load_resumable(self, settings: Json, data_fingerprint: Callable[[], str]) -> Tensors | None:
        """Return the extractor of the upload that was started with these settings, or None.

        ``data_fingerprint`` returns the fingerprint of the samples. It is called only if an upload was started.
        """
        try:
            extractor = tensor_file.decode_tensors((self._run_folder() / EXTRACTOR_FILE).read_bytes())
        except (OSError, SafetensorError):
            return None
        manifest = self._load_manifest()
        return (
            extractor
            if (manifest.get("settings"), manifest.get("data_fingerprint")) == (settings, data_fingerprint())
            else None
        )

    def create_upload(self, settings: Json, extractor: Tensors, data_fingerprint: str) -> None:
        """Start a new upload for the run; ``data_fingerprint`` identifies the samples.

        Expired and excess data of other runs are deleted. Raises OSError.
        """
        folder = self._run_folder()
        shutil.rmtree(folder, ignore_errors=True)
        prune_uploads(folder.parent)
        self._create_folder()
        private_files.create_dir(folder)
        fsync_dir(folder.parent)
        atomic_write(folder / EXTRACTOR_FILE, tensor_file.encode_tensors(extractor))
        empty = {"num_records": 0, "feature_bytes": 0, "feature_shape": [], "label_shape": [], "label_dtype": "int64"}
        self._save_manifest(
            {"settings": settings, "data_fingerprint": data_fingerprint, "upload_id": secrets.token_hex(8), **empty}
        )

    def write_upload(self, batches: Callable[[int], Iterable[EncodedBatch]]) -> CachedUpload:
        """Write the upload that was started, or continue it; ``batches`` returns the records from a number on.

        Raises OSError, and TaskError for records that differ in format. The records written so far are kept if the
        task is cancelled. After any other error the upload is deleted.
        """
        folder, manifest = self._run_folder(), self._load_manifest()
        try:
            with (
                private_files.open_binary(folder / FEATURES_FILE, "ab") as features,
                private_files.open_binary(folder / LABELS_FILE, "ab") as labels,
            ):
                per_label = np.dtype(manifest["label_dtype"]).itemsize * math.prod(manifest["label_shape"])
                # records after the last sync may be incomplete
                num_bytes = features.truncate(manifest["num_records"] * manifest["feature_bytes"])
                num_bytes += labels.truncate(manifest["num_records"] * per_label)

                def save(**more: object) -> None:
                    for file in (features, labels):
                        file.flush()
                        os.fsync(file.fileno())
                    self._save_manifest({**manifest, **more})

                safe = manifest["num_records"]
                try:
                    for batch in batches(safe):
                        if manifest["num_records"] and batch.record_format != {
                            key: manifest[key] for key in batch.record_format
                        }:
                            raise TaskError("features and labels must have the same shape in all samples")
                        features.write(batch.features.contiguous().numpy().data)
                        labels.write(batch.labels.contiguous().numpy().data)
                        num_bytes += batch.features.nbytes + batch.labels.nbytes
                        num_records = manifest["num_records"] + len(batch.features)
                        manifest |= {**batch.record_format, "num_records": num_records}
                        if num_bytes > MAX_UPLOAD_BYTES:
                            raise TaskError(
                                f"features exceed the limit of {MAX_UPLOAD_BYTES:,} bytes; choose another --split-at"
                            )
                        if (manifest["num_records"] - safe) * manifest["feature_bytes"] >= FSYNC_INTERVAL_BYTES:
                            save()
                            safe = manifest["num_records"]
                except TaskCancelled:
                    save()
                    raise
                save(complete=True)
        except TaskCancelled:
            raise
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        (folder / EXTRACTOR_FILE).unlink(missing_ok=True)
        return CachedUpload(folder)

    def _load_manifest(self) -> Json:
        try:
            manifest = json.loads((self._run_folder() / MANIFEST_FILE).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):  # not found or damaged: the next upload counts as a new one
            return {}
        return manifest if isinstance(manifest, dict) else {}

    def _save_manifest(self, manifest: Json) -> None:
        atomic_write(self._run_folder() / MANIFEST_FILE, json.dumps(manifest).encode())

    @property
    def upload_id(self) -> str:
        """Return the ID of the run's upload: 16 random hexadecimal digits, new for each upload that is started.

        Before the first upload, it is the start of ``run_name``.
        """
        here = self._persistent_folder is not None or "_folder" in self.__dict__
        return str((self._load_manifest() if here else {}).get("upload_id", self.run_name[:16]))

    @property
    def run_name(self) -> str:
        """Return the name of the run's upload, 64 hexadecimal digits."""
        return (self.claim or RunClaim()).digest

    def _run_folder(self) -> Path:
        return self._folder / self.run_name

    # ------------------------------------------------------------------ the cache of received tensors

    def load_cached(self, content_digest: str) -> Tensors | None:
        """Return the cached tensors with that digest, or None."""
        cached = {path.name: path for path in self._folder.glob(f"{CACHE_PREFIX}*")}  # a digest cannot form a path
        path = cached.get(f"{CACHE_PREFIX}{content_digest}")
        try:
            tensors = tensor_file.decode_tensors(path.read_bytes()) if path is not None else None
        except SafetensorError:
            return None
        if path is None or tensors is None or hash_tensors(tensors) != content_digest:
            return None
        os.utime(path)
        return tensors

    def save_cached(self, tensors: Tensors) -> None:
        """Cache tensors under their digest, or raise OSError."""
        self._create_folder()
        atomic_write(self._folder / f"{CACHE_PREFIX}{hash_tensors(tensors)}", tensor_file.encode_tensors(tensors))
        prune_cache(self._folder)

    # ------------------------------------------------------------------ folders

    @cached_property
    def _folder(self) -> Path:
        if self._persistent_folder is not None:
            return self._persistent_folder
        folder = tempfile.mkdtemp(prefix="fedws-uploads-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return Path(folder)

    def _create_folder(self) -> None:
        """Create the folder and the node's state directory around it, or raise OSError."""
        private_files.create_dir(self._folder.parent, parents=True, exist_ok=True)
        private_files.create_dir(self._folder, exist_ok=True)


def open_uploads(context: TaskContext) -> UploadCache:
    """Return the uploads of a node, which are in the folder ``uploads`` of its state directory."""
    return context.open_resource("uploads", UploadCache)
