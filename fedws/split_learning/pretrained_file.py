"""A model that was trained on public data, as a file: what extractor and head begin with."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError
from safetensors import SafetensorError

from fedws.core import tensor_file
from fedws.core.errors import UsageError
from fedws.core.tensors import Tensors, difference
from fedws.split_learning import extractor_pool


@dataclass(frozen=True)
class Origin:
    """What a pretrained model is, and what it was trained on."""

    model: str
    dataset: str
    classes: Annotated[int, Field(ge=0)]
    """That it tells apart; 0 for a model that does not."""
    sample: list[int]
    """The shape of one."""
    epochs: int
    label: str = "int64 []"
    """What a label is, as :func:`fedws.data.labels.told` tells it."""
    cut: str = ""
    """Where its extractors end, if it has several."""


@dataclass(frozen=True)
class Pretrained:
    """What is in such a file."""

    model: Tensors
    origin: Origin
    others: Tensors
    """Its other extractors, joined as :func:`fedws.split_learning.extractor_pool.join` does."""


_ORIGIN = TypeAdapter(Origin)


def save(path: Path, found: Pretrained) -> None:
    """Write the file whole or not at all. Raises UsageError when it cannot be written."""
    part = path.with_name(f"{path.name}.part")
    try:
        about = {"fedws": json.dumps(asdict(found.origin))}
        tensor_file.save_file({**found.model, **found.others}, part, about)
        part.replace(path)
    except (OSError, SafetensorError) as error:
        part.unlink(missing_ok=True)
        raise UsageError(f"{path} cannot be written: {error}") from None


def load(path: Path) -> Pretrained:
    """What a file holds. Raises UsageError for one that is none of ours."""
    try:
        tensors, about = tensor_file.read(path)
        origin = _ORIGIN.validate_json(about.get("fedws", ""))
    except OSError as error:
        raise UsageError(f"the pretrained model {path} cannot be read: {error.strerror or error}") from None
    except (SafetensorError, ValidationError):
        raise UsageError(f"{path} is no pretrained model, as 'fedws pretrain' writes them") from None
    return of(tensors, origin)


def several(found: Pretrained, own: Tensors, file: str) -> Tensors:
    """Its other extractors, which must be as the model's ``own``. Raises UsageError where it has none for this cut."""
    others = extractor_pool.parts(found.others)
    problem = "" if others else "it has one extractor"
    if len(others) >= extractor_pool.MOST:
        problem = f"it has more than {extractor_pool.MOST} extractors"
    for one in others:
        problem = problem or difference(one, own)
    if problem:
        at = f", made for the cut {found.origin.cut}" if found.origin.cut else ""
        how = "'fedws pretrain --extractors 3 --cut ...' makes several for a cut"
        raise UsageError(f"--extractor random: {file}{at}: {problem}; {how}")
    return found.others


def of(tensors: Tensors, origin: Origin) -> Pretrained:
    """What is in one dict, with the other extractors behind their numbers."""
    others = {name: tensor for name, tensor in tensors.items() if extractor_pool.joined(name)}
    return Pretrained({name: tensor for name, tensor in tensors.items() if name not in others}, origin, others)


def load_for(path: Path, model: str, like: Tensors) -> Pretrained:
    """As :func:`load`, of a model with tensors as ``like``. Raises UsageError also for another model."""
    found = load(path)
    problem = difference(found.model, like)
    if problem:
        raise UsageError(f"--pretrained {path} is of {found.origin.model}, not of {model}: {problem}")
    return found
