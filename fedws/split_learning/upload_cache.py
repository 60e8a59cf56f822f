"""What a worker makes of its samples for a run: noised once, kept on its disk until the coordinator has it.

A request that comes again gets the same bits, so a retry spends no privacy; new noise for the same run would. One that
was interrupted goes on where it stopped. When the coordinator has acknowledged them the bits are deleted, and a note
stays that they were sent.
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
from fedws.core.errors import Stopped, TaskError
from fedws.core.files import sync, write
from fedws.core.tensors import NAMES, Tensors, digest
from fedws.protocol.messages import Json
from fedws.protocol.run_claim import Claim
from fedws.split_learning.retention import (
    CACHED,
    DAY,
    EXTRACTOR,
    FACTS,
    FEATURES,
    LABELS,
    LARGEST,
    MOST_ASKED,
    MOST_SENT,
    SENT,
    empty,
    prune,
    prune_cache,
    prune_old,
)

SAFE = 2**23
"""Bytes of features after which what is made is safe on the disk, to go on from there."""


@dataclass(frozen=True)
class Batch:
    """Some records, as they may leave."""

    features: torch.Tensor
    """Encoded: uint8 [k, bytes]."""
    labels: torch.Tensor
    """Of classes, int64 [k]; or any of one shape, int64 or float32 [k, ...]."""
    shape: Sequence[int]
    """Of a record's features before they were encoded."""

    @property
    def each(self) -> Json:
        """What every record has."""
        label = {"label_shape": list(self.labels.shape[1:]), "label_dtype": NAMES[self.labels.dtype]}
        return {"bytes": self.features.shape[1], "shape": list(self.shape), **label}


def kept(asked: Json) -> Json:
    """Return the settings that features depend on. Raises TaskError where they are too long to be kept."""
    size = len(json.dumps(asked).encode())
    if size > MOST_ASKED:
        raise TaskError(f"the settings of features have {size:,} bytes; at most {MOST_ASKED:,} are kept")
    return asked


class Upload:
    """The features and labels of all records of a node, encoded, for one run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.facts: Json = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        """What was ``asked``, how many ``records`` there are, ``bytes`` and ``shape`` of one's features, and
        ``label_shape`` and ``label_dtype``."""
        self.acknowledged = not (folder / FEATURES).exists()

    def part(self, first: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Records from ``first`` on: features uint8 [count, bytes] and labels [count, ...]."""
        features = self._read(FEATURES, "uint8", [self.facts["bytes"]], first, count)
        return features, self._read(LABELS, self.facts["label_dtype"], self.facts["label_shape"], first, count)

    def _read(self, name: str, dtype: str, shape: Sequence[int], first: int, count: int) -> torch.Tensor:
        whole = np.memmap(self._folder / name, dtype, "r", shape=(self.facts["records"], *shape))
        return torch.from_numpy(whole[first : first + count].copy())

    def sent(self, first: int, count: int) -> bool:
        """Whether exactly these records were sent before."""
        return f"{first} {count}" in self._noted()

    def note(self, first: int, count: int) -> None:
        """These records are sent."""
        if not self.sent(first, count) and len(self._noted()) < MOST_SENT:
            with private_files.text(self._folder / SENT, "a", "ascii") as file:
                file.write(f"{first} {count}\n")

    def _noted(self) -> list[str]:
        path = self._folder / SENT
        return path.read_text(encoding="ascii").splitlines() if path.exists() else []

    def acknowledge(self) -> None:
        """The coordinator has all of it: delete the bits, and keep in mind that they were sent."""
        empty(self._folder)
        self.acknowledged = True


class Uploads:
    """The uploads of a node, a folder for each run; and the tensors that it was sent for them, by their digest.

    Without a folder they are in one that lives as long as this object.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._given = folder
        self.claim: Claim | None = None
        """Claim of the run; None for a run without an id."""
        self._pruned = -math.inf

    def begin(self, claim: Claim) -> None:
        """Serve the run of this claim. One without an id can have no uploads: it could not request them again."""
        self.claim = claim if claim.run else None
        if self._given is not None and time.monotonic() - self._pruned > DAY:
            prune_old(self._given, self.name)
            self._pruned = time.monotonic()

    # ------------------------------------------------------------------ the run's upload

    def find(self) -> Upload | None:
        """What was made for the run; None when nothing was, or not all of it."""
        return Upload(self._place()) if self._facts().get("whole") else None

    def begun(self, asked: Json, data: Callable[[], str]) -> Tensors | None:
        """Return the extractor of the upload that was begun with these settings; None when none was.

        ``data`` gives what tells its samples from others; it is called only where an upload was begun.
        """
        try:
            found = tensor_file.load((self._place() / EXTRACTOR).read_bytes())
        except (OSError, SafetensorError):
            return None
        facts = self._facts()
        return found if (facts.get("asked"), facts.get("data")) == (asked, data()) else None

    def start(self, asked: Json, extractor: Tensors, data: str) -> None:
        """Begin the run's upload anew; ``data`` is what tells these samples from others.

        What is too old or too much of other runs is deleted now. Raises OSError.
        """
        folder = self._place()
        shutil.rmtree(folder, ignore_errors=True)
        prune(folder.parent)
        private_files.folder(folder.parent, parents=True, exist_ok=True)
        private_files.folder(folder)
        sync(folder.parent)
        write(folder / EXTRACTOR, tensor_file.save(extractor))
        none = {"records": 0, "bytes": 0, "shape": [], "label_shape": [], "label_dtype": "int64"}
        self._keep({"asked": asked, "data": data, "upload": secrets.token_hex(8), **none})

    def make(self, batches: Callable[[int], Iterable[Batch]]) -> Upload:
        """Write the upload that was begun, or go on with it: ``batches`` gives the records from a number on.

        Raises OSError, and TaskError for records that are not all alike. What was written stays when it is stopped;
        after any other error nothing was made.
        """
        folder, facts = self._place(), self._facts()
        try:
            with (
                private_files.binary(folder / FEATURES, "ab") as features,
                private_files.binary(folder / LABELS, "ab") as labels,
            ):
                per_label = np.dtype(facts["label_dtype"]).itemsize * math.prod(facts["label_shape"])
                features.truncate(facts["records"] * facts["bytes"])  # the rest may not have been safe
                labels.truncate(facts["records"] * per_label)

                def save(**more: object) -> None:
                    for file in (features, labels):
                        file.flush()
                        os.fsync(file.fileno())
                    self._keep({**facts, **more})

                safe = facts["records"]
                try:
                    for batch in batches(safe):
                        if facts["records"] and batch.each != {key: facts[key] for key in batch.each}:
                            raise TaskError("features and labels must have the same shape in all samples")
                        features.write(batch.features.contiguous().numpy().data)
                        labels.write(batch.labels.contiguous().numpy().data)
                        facts |= {**batch.each, "records": facts["records"] + len(batch.features)}
                        if features.tell() + labels.tell() > LARGEST:
                            raise TaskError(f"the features have more than {LARGEST:,} bytes; cut the model elsewhere")
                        if (facts["records"] - safe) * facts["bytes"] >= SAFE:
                            save()
                            safe = facts["records"]
                except Stopped:
                    save()
                    raise
                save(whole=True)
        except Stopped:
            raise
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        (folder / EXTRACTOR).unlink(missing_ok=True)
        return Upload(folder)

    def _facts(self) -> Json:
        try:
            facts = json.loads((self._place() / FACTS).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):  # none, or damaged: it is made again, which counts as a new upload
            return {}
        return facts if isinstance(facts, dict) else {}

    def _keep(self, facts: Json) -> None:
        write(self._place() / FACTS, json.dumps(facts).encode())

    @property
    def id(self) -> str:
        """Id of the run's upload, 16 hexadecimal digits: random, and another one whenever the upload is begun anew.

        While none was begun it is a hash of the run's own.
        """
        here = self._given is not None or "_folder" in self.__dict__
        return str((self._facts() if here else {}).get("upload", self.name[:16]))

    @property
    def name(self) -> str:
        """Name of the run's upload, 64 hexadecimal digits."""
        return (self.claim or Claim()).digest

    def _place(self) -> Path:
        return self._folder / self.name

    # ------------------------------------------------------------------ what it was sent for them

    def cached(self, wanted: str) -> Tensors | None:
        """The cached tensors of that digest; None when there are none."""
        known = {path.name: path for path in self._folder.glob(f"{CACHED}*")}  # the digest only selects
        path = known.get(f"{CACHED}{wanted}")
        try:
            found = tensor_file.load(path.read_bytes()) if path is not None else None
        except SafetensorError:
            return None
        if path is None or found is None or digest(found) != wanted:
            return None
        os.utime(path)
        return found

    def cache(self, tensors: Tensors) -> None:
        """Cache tensors under their digest. Raises OSError."""
        private_files.folder(self._folder, parents=True, exist_ok=True)
        write(self._folder / f"{CACHED}{digest(tensors)}", tensor_file.save(tensors))
        prune_cache(self._folder)

    # ------------------------------------------------------------------ where it is

    @cached_property
    def _folder(self) -> Path:
        if self._given is not None:
            return self._given
        folder = tempfile.mkdtemp(prefix="fedws-uploads-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return Path(folder)
