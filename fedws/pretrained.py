"""A model that was trained on public data, as a file: what extractor and head begin with."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import safetensors.torch
from pydantic import Field, TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open

from fedws.errors import UsageError
from fedws.tensors import Tensors, difference


@dataclass(frozen=True)
class Origin:
    """What a pretrained model is, and what it was trained on."""

    model: str
    dataset: str
    classes: Annotated[int, Field(ge=2)]
    sample: list[int]
    """The shape of one."""
    epochs: int


_ORIGIN = TypeAdapter(Origin)


def save(path: Path, tensors: Tensors, origin: Origin) -> None:
    """Write the file whole or not at all. Raises UsageError when it cannot be written."""
    part = path.with_name(f"{path.name}.part")
    try:
        safetensors.torch.save_file(dict(tensors), part, {"fedws": json.dumps(asdict(origin))})
        part.replace(path)
    except (OSError, SafetensorError) as error:
        part.unlink(missing_ok=True)
        raise UsageError(f"{path} cannot be written: {error}") from None


def load(path: Path) -> tuple[Tensors, Origin]:
    """The model, and what it is. Raises UsageError for a file that is none of ours."""
    try:
        with safe_open(path, framework="pt") as file:
            origin = _ORIGIN.validate_json((file.metadata() or {}).get("fedws", ""))
            return {name: file.get_tensor(name) for name in file.keys()}, origin  # noqa: SIM118  # it is no mapping
    except OSError as error:
        raise UsageError(f"the pretrained model {path} cannot be read: {error.strerror or error}") from None
    except (SafetensorError, ValidationError):
        raise UsageError(f"{path} is no pretrained model, as 'fedws pretrain' writes them") from None


def load_for(path: Path, model: str, like: Tensors) -> tuple[Tensors, Origin]:
    """As :func:`load`, of a model with tensors as ``like``. Raises UsageError also for another model."""
    found, origin = load(path)
    problem = difference(found, like)
    if problem:
        raise UsageError(f"--pretrained {path} is of {origin.model}, not of {model}: {problem}")
    return found, origin
