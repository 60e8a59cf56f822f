"""Checkpoints: atomically written files with a run's state, from which a killed run continues.

A checkpoint is one safetensors file. Its metadata holds the version and, as JSON, the state and the extra data. The
name of a tensor is its path in the state or the extra data, such as ``state.model['w']``. Dataclasses are stored by
name and looked up among the modules that are already imported. Loading a checkpoint does not import any module.

Every format stores the checksum at the same position. It is the CRC-32 of the whole file, as 8 hexadecimal digits,
computed with zeros in place of the checksum. The content of a file is used only after its checksum is verified.
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
"""Position of the checksum in a file, after the header's length and ``{"__metadata__":{"checksum":"``."""
_CHUNK_BYTES = 2**20  # small enough to stay in the processor's cache between the checksum and the write

_DTYPES = {tensor_file.DTYPE_CODES[name]: dtype for name, dtype in DTYPES.items() if name in tensor_file.DTYPE_CODES}


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run after one version, as it was saved."""

    version: int
    state: Any
    extra: Json


class Checkpoints:
    """The two newest checkpoints of a run, in a directory that the first save creates.

    Only one process at a time may use the directory.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def save(self, version: int, state: Any, extra: Json) -> None:
        """Write a checkpoint, and return when it is on disk.

        The checkpoint then survives a crash of the process or of the machine.

        ``state`` and ``extra`` may consist of frozen dataclasses, mappings with string keys, lists, tuples, tensors,
        strings, numbers, booleans and None. Tensors must be on the CPU, or on ``meta``, where only shape and dtype are
        stored. A loaded mapping is a dict, and a loaded tensor has contiguous memory of its own. A tensor that occurs
        in several places is stored once, and is again one tensor after loading. Everything else is loaded unchanged.

        Raises TypeError with the path of the value for any other type. Raises RunFailed if the file cannot be written;
        earlier checkpoints then stay unchanged.
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
            raise RunFailed(f"cannot write {path}: {error.strerror or error}") from None

    def exist(self) -> bool:
        """Return True if the directory has a checkpoint, even a damaged one."""
        return bool(self._find_files())

    def load(self) -> tuple[Checkpoint, str]:
        """Return the newest intact checkpoint and a remark.

        The remark names the newer checkpoints that are damaged; otherwise it is empty. The classes of the state must be
        imported, so create the scheduler first. Raises UsageError if the directory has no checkpoint, or if an intact
        one was written by other code. Raises RunFailed if all checkpoints are damaged or a file cannot be read.
        """
        remark = ""
        for number, path in sorted(self._find_files().items(), reverse=True):
            try:
                found = _read_file(path)
            except OSError as error:
                raise RunFailed(f"cannot read {path}: {error.strerror or error}") from None
            except (LookupError, TypeError, ValueError, RuntimeError) as error:  # its checksum is correct
                raise UsageError(
                    f"{path} is not a checkpoint of this fedws ({type(error).__name__}: {error})"
                ) from None
            if found is not None:
                return found, remark and f"{remark}; continuing from checkpoint {number}"
            remark += f"{remark and ', '}checkpoint {number} is damaged or incomplete"
        if remark:
            raise RunFailed(f"no intact checkpoint in {self.directory}: {remark}")
        raise UsageError(f"no checkpoint in {self.directory}")

    def prune(self) -> None:
        """Remove all checkpoints except the newest, from which a finished run can continue.

        Raises RunFailed if a file cannot be removed.
        """
        for _, path in sorted(self._find_files().items())[:-1]:
            try:
                path.unlink()
            except OSError as error:
                raise RunFailed(f"cannot remove {path}: {error.strerror or error}") from None

    def _find_files(self) -> dict[int, Path]:
        """Return the checkpoint files by version, and remove the partial files that a killed save left."""
        for left in self.directory.glob(f"checkpoint-*{PART_SUFFIX}"):
            with contextlib.suppress(OSError):  # a partial file that stays does no harm
                left.unlink()
        named = ((_FILE_NAME.fullmatch(path.name), path) for path in self.directory.glob("checkpoint-*"))
        return {int(match[1]): path for match, path in named if match}


def _write_file(path: Path, version: int, state: Any, extra: Json) -> None:
    """Write a checkpoint into ``path``, which must exist.

    A tensor is copied only if its elements are not contiguous.
    """
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
    # Larger elements first, so that each tensor begins at a multiple of its element's size, as readers may expect.
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
    """Return the checkpoint in a file, or None if the file is damaged or incomplete.

    Raises UsageError if the file has another format, or if a class of the state is unknown or has other fields.
    """
    with path.open("rb") as file:
        if not _is_intact(file):
            return None
        file.seek(0)
        table = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        about = table.pop("__metadata__")
        if about["format"] != CHECKPOINT_FORMAT:
            age = "an older" if about["format"] in _OLDER_FORMATS else "a newer"
            formats = f"format {about['format']}; this one reads {CHECKPOINT_FORMAT}"
            raise UsageError(f"{path} was written by {age} fedws ({formats}); resume it with that version")
        tensors = {}
        for name, entry in table.items():  # the tensors follow in the order of the table
            tensors[name] = torch.empty(entry["shape"], dtype=_DTYPES[entry["dtype"]])
            if file.readinto(view_bytes(tensors[name])) != tensors[name].nbytes:
                return None
    tensors = tensor_file.from_storable(tensors, about)
    state, extra = (unpack_state(json.loads(about[what]), tensors) for what in ("state", "extra"))
    return Checkpoint(int(about["version"]), state, extra)


def _is_intact(file: BinaryIO) -> bool:
    """Return True if the checksum is correct."""
    first = file.read(_CHECKSUM_SLICE.stop)
    checksum = zlib.crc32(first[: _CHECKSUM_SLICE.start] + _CHECKSUM_PLACEHOLDER)
    while piece := file.read(_CHUNK_BYTES):
        checksum = zlib.crc32(piece, checksum)
    return first[_CHECKSUM_SLICE] == b"%08x" % checksum
