"""What a worker has made of its samples for a run: noised once, kept on its disk until the coordinator has it.

A request that comes again gets the same bits, so a retry spends no privacy; new noise for the same run would. When the
coordinator has acknowledged them the bits are deleted, and a note stays that they were sent.
"""

import hashlib
import json
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import numpy as np
import safetensors.torch
import torch

from fedws.durable import sync, write
from fedws.messages import Json
from fedws.tensors import Tensors, digest

_FACTS, _FEATURES, _LABELS, _SENT = "facts.json", "features", "labels", "sent"


class Upload:
    """The features and labels of all records of a node, encoded, for one run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.facts: Json = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
        """What was said of it when it was made."""
        self.acknowledged = not (folder / _FEATURES).exists()

    def part(self, first: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Records from ``first`` on: features uint8 [count, bytes] and labels int64 [count]."""
        records, size = int(self.facts["records"]), int(self.facts["bytes"])
        features = np.memmap(self._folder / _FEATURES, np.uint8, "r", shape=(records, size))[first : first + count]
        labels = np.memmap(self._folder / _LABELS, np.int64, "r", shape=(records,))[first : first + count]
        return torch.from_numpy(features.copy()), torch.from_numpy(labels.copy())

    def sent(self, first: int, count: int) -> bool:
        """Whether exactly these records were sent before."""
        path = self._folder / _SENT
        return path.exists() and f"{first} {count}" in path.read_text(encoding="ascii").splitlines()

    def note(self, first: int, count: int) -> None:
        """These records are sent."""
        if not self.sent(first, count):
            with (self._folder / _SENT).open("a", encoding="ascii") as file:
                file.write(f"{first} {count}\n")

    def acknowledge(self) -> None:
        """The coordinator has all of it: delete the bits, and keep in mind that they were sent."""
        for name in (_FEATURES, _LABELS):
            (self._folder / name).unlink(missing_ok=True)
        self.acknowledged = True


class Uploads:
    """The uploads of a node, a folder for each run; and the extractors that it was sent, by their digest.

    Without a folder they are in one that lives as long as this object.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._given = folder
        self.run = ""
        """The coordinator's id and the run's; empty for a run without one."""

    def begin(self, run: str) -> None:
        """Serve this run from now on; one without an id can have no uploads, since it could not ask for them again."""
        self.run = run

    def find(self) -> Upload | None:
        """What was made for the run; None when nothing was, or not all of it."""
        folder = self._place()
        return Upload(folder) if (folder / _FACTS).exists() else None

    def make(self, parts: Iterable[tuple[torch.Tensor, torch.Tensor]], facts: Json) -> Upload:
        """Write an upload: features uint8 [k, bytes] and labels int64 [k] a part, and what ``facts`` say of it.

        ``records`` and ``bytes`` (of a record) are added to the facts. Raises OSError; then nothing was made.
        """
        folder, records, size = self._place(), 0, 0
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700, parents=True)
        try:
            with (folder / _FEATURES).open("wb") as features, (folder / _LABELS).open("wb") as labels:
                for packed, targets in parts:
                    features.write(packed.contiguous().numpy().data)
                    labels.write(targets.to(torch.int64).contiguous().numpy().data)
                    records, size = records + len(packed), packed.shape[1]
                for file in (features, labels):
                    file.flush()
                    os.fsync(file.fileno())
            sync(folder.parent)
            write(folder / _FACTS, json.dumps({**facts, "records": records, "bytes": size}).encode())  # it is whole
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return Upload(folder)

    def extractor(self, wanted: str) -> Tensors | None:
        """The cached extractor of that digest; None when there is none."""
        known = {path.name: path for path in self._folder.glob("extractor-*")}  # the digest only selects
        path = known.get(f"extractor-{wanted}")
        try:
            found = safetensors.torch.load(path.read_bytes()) if path is not None else None
        except safetensors.SafetensorError:
            return None
        return found if found is not None and digest(found) == wanted else None

    def keep_extractor(self, tensors: Tensors) -> None:
        """Cache an extractor under its digest. Raises OSError."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write(self._folder / f"extractor-{digest(tensors)}", safetensors.torch.save(dict(tensors)))

    @cached_property
    def _folder(self) -> Path:
        if self._given is not None:
            return self._given
        folder = tempfile.mkdtemp(prefix="fedws-uploads-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return Path(folder)

    def _place(self) -> Path:
        """A run's folder; its name is a hash, since a run's id is a peer's text."""
        return self._folder / hashlib.sha256(self.run.encode()).hexdigest()
