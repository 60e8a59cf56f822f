"""Checkpoints: a run's state on the disk, whole at any moment, so that a run that was killed can go on.

A checkpoint is one safetensors file. Its metadata holds the version and, as JSON, the state and what goes with it; a
tensor is named by its place in there, ``state.model['w']``. Dataclasses are named too, and looked up among the modules
that are imported already; nothing is run to find them.

The checksum stands at the same place in every format: the CRC-32 of the whole file with zeros for the checksum itself,
as 8 hexadecimal digits. Nothing is read from a file before its checksum is right.
"""

import contextlib
import json
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch

from fedws.core import private_files, tensor_file
from fedws.core.atomic_files import PART_SUFFIX, atomic_file, fsync_dir
from fedws.core.errors import RunFailed, UsageError
from fedws.core.tensors import DTYPE_NAMES, DTYPES, view_bytes
from fedws.protocol.messages import Json
from fedws.recording.state_serialization import StatePacker, unpack_state

CHECKPOINT_FORMAT = "2"
_OLDER_FORMATS = ("1",)
_FILE_NAME = re.compile(r"checkpoint-(\d+)\.safetensors")
_CHECKSUM_PLACEHOLDER = b"0" * 8
_CHECKSUM_SLICE = slice(37, 45)
"""Where the checksum stands in a file: behind the header's length and ``{"__metadata__":{"checksum":"``."""
_CHUNK_BYTES = 2**20  # bytes that are summed, then written: they are still in the processor's cache

_DTYPES = {tensor_file.DTYPE_CODES[name]: dtype for name, dtype in DTYPES.items() if name in tensor_file.DTYPE_CODES}


@dataclass(frozen=True)
class Checkpoint:
    """What was saved."""

    version: int
    state: Any
    extra: Json


class Checkpoints:
    """A run's two newest checkpoints, in a directory that the first save makes; for one process at a time."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def save(self, version: int, state: Any, extra: Json) -> None:
        """Write a checkpoint; when this returns it is on the disk, whatever happens to machine or process next.

        ``state`` and ``extra`` are made of frozen dataclasses, mappings with string keys, lists, tuples, tensors on
        the CPU (or on ``meta``: shape and dtype only), strings, numbers, booleans and None. All come back as they are,
        but that every mapping becomes a dict, and every tensor has memory of its own, row by row; what is one tensor in
        several places is one again. Raises TypeError, naming the place, for anything else; RunFailed when the file
        cannot be written, which leaves the checkpoints before as they were.
        """
        path = self.directory / f"checkpoint-{version:06}.safetensors"
        try:
            if not self.directory.is_dir():
                private_files.create_dir(self.directory, parents=True)
                fsync_dir(self.directory.parent)
            before = self._find_files()
            with atomic_file(path) as part:
                _write_file(part, version, state, extra)
            older = sorted(other for other in before if other < version)
            for other in before.keys() - {version, *older[-1:]}:
                before[other].unlink()
        except OSError as error:
            raise RunFailed(f"{path} cannot be written: {error.strerror or error}") from None

    def exist(self) -> bool:
        """Whether there is one, whole or not."""
        return bool(self._find_files())

    def load(self) -> tuple[Checkpoint, str]:
        """The newest whole checkpoint, and a remark, empty unless a newer one had to be passed over.

        The classes of the state must be imported: make the scheduler first. Raises UsageError when there is no
        checkpoint, or when a whole one is not for this code; RunFailed when none is whole or one cannot be read.
        """
        remark = ""
        for number, path in sorted(self._find_files().items(), reverse=True):
            try:
                found = _read_file(path)
            except OSError as error:
                raise RunFailed(f"{path} cannot be read: {error.strerror or error}") from None
            except (LookupError, TypeError, ValueError, RuntimeError) as error:  # its checksum is right all the same
                raise UsageError(f"{path} is no checkpoint of this fedws ({type(error).__name__}: {error})") from None
            if found is not None:
                return found, remark and f"{remark}; going on from {number}"
            remark += f"{remark and ', '}checkpoint {number} is damaged or cut short"
        if remark:
            raise RunFailed(f"there is no whole checkpoint in {self.directory}: {remark}")
        raise UsageError(f"there is no checkpoint in {self.directory}")

    def prune(self) -> None:
        """Remove all checkpoints but the newest, from which a finished run can continue. Raises RunFailed."""
        for _, path in sorted(self._find_files().items())[:-1]:
            try:
                path.unlink()
            except OSError as error:
                raise RunFailed(f"{path} cannot be removed: {error.strerror or error}") from None

    def _find_files(self) -> dict[int, Path]:
        """The checkpoints that are there, by number. What a save that was killed has left is removed."""
        for left in self.directory.glob(f"checkpoint-*{PART_SUFFIX}"):
            with contextlib.suppress(OSError):  # it is in nobody's way
                left.unlink()
        named = ((_FILE_NAME.fullmatch(path.name), path) for path in self.directory.glob("checkpoint-*"))
        return {int(match[1]): path for match, path in named if match}


def _write_file(path: Path, version: int, state: Any, extra: Json) -> None:
    """Write a file and wait until it is on the disk. No tensor is copied, unless its elements lie apart."""
    pack = StatePacker()
    about = {
        "checksum": _CHECKSUM_PLACEHOLDER.decode(),
        "format": CHECKPOINT_FORMAT,
        "version": str(version),
        "state": json.dumps(pack(state, "state")),
        "extra": json.dumps(pack(extra, "extra")),
    }
    storable, dtypes = tensor_file.to_storable(
        pack.tensors, lambda dtype: DTYPE_NAMES[dtype] in tensor_file.DTYPE_CODES
    )
    about |= dtypes
    # Wider elements first, so that each tensor begins at a multiple of its element's size, as readers may expect.
    tensors = dict(sorted(storable.items(), key=lambda item: -item[1].itemsize))
    table, end = {}, 0
    for name, tensor in tensors.items():
        code, offsets = tensor_file.DTYPE_CODES[DTYPE_NAMES[tensor.dtype]], [end, end := end + tensor.nbytes]
        table[name] = {"dtype": code, "shape": list(tensor.shape), "data_offsets": offsets}
    header = json.dumps({"__metadata__": about, **table}, separators=(",", ":")).encode("ascii")
    header += b" " * (-len(header) % 8)
    head = len(header).to_bytes(8, "little") + header
    checksum = zlib.crc32(head)
    with path.open("r+b") as file:
        file.write(head)
        for tensor in tensors.values():
            data = view_bytes(tensor)
            for start in range(0, len(data), _CHUNK_BYTES):
                piece = data[start : start + _CHUNK_BYTES]
                checksum = zlib.crc32(piece, checksum)
                file.write(piece)
        file.seek(_CHECKSUM_SLICE.start)
        file.write(b"%08x" % checksum)


def _read_file(path: Path) -> Checkpoint | None:
    """The checkpoint in a file; None when the file is not whole. Raises UsageError when it is not for this code."""
    with path.open("rb") as file:
        if not _is_intact(file):
            return None
        file.seek(0)
        table = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        about = table.pop("__metadata__")
        if about["format"] != CHECKPOINT_FORMAT:
            age = "an older" if about["format"] in _OLDER_FORMATS else "a newer"
            formats = f"format {about['format']}; this one reads {CHECKPOINT_FORMAT}"
            raise UsageError(f"{path} was written by {age} fedws ({formats})")
        tensors = {}
        for name, entry in table.items():  # their bytes lie in this order
            tensors[name] = torch.empty(entry["shape"], dtype=_DTYPES[entry["dtype"]])
            if file.readinto(view_bytes(tensors[name])) != tensors[name].nbytes:
                return None
    tensors = tensor_file.from_storable(tensors, about)
    state, extra = (unpack_state(json.loads(about[what]), tensors) for what in ("state", "extra"))
    return Checkpoint(int(about["version"]), state, extra)


def _is_intact(file: BinaryIO) -> bool:
    """Whether the checksum is right."""
    first = file.read(_CHECKSUM_SLICE.stop)
    checksum = zlib.crc32(first[: _CHECKSUM_SLICE.start] + _CHECKSUM_PLACEHOLDER)
    while piece := file.read(_CHUNK_BYTES):
        checksum = zlib.crc32(piece, checksum)
    return first[_CHECKSUM_SLICE] == b"%08x" % checksum
