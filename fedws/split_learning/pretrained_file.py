"""Files with a model that was pretrained on public data, from which the extractor and the head start."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError
from safetensors import SafetensorError

from fedws.core import tensor_file
from fedws.core.errors import UsageError
from fedws.core.tensors import Tensors, find_mismatch
from fedws.split_learning import extractor_pool


@dataclass(frozen=True)
class PretrainedInfo:
    """The description of a pretrained model and of its training data."""

    model: str
    dataset: str
    num_classes: Annotated[int, Field(ge=0)]
    """Number of classes; 0 for a model that is not a classifier."""
    input_shape: list[int]
    """Shape of one input."""
    epochs: int
    label_format: str = "int64 []"
    """Format of a label, as returned by ``fedws.data.batch_labels.describe_labels``."""
    split_at: str = ""
    """Split point at which the extractors end, if there are several; otherwise empty."""


@dataclass(frozen=True)
class PretrainedModel:
    """The content of a file with a pretrained model."""

    model: Tensors
    info: PretrainedInfo
    extra_extractors: Tensors
    """Other extractors, packed by ``fedws.split_learning.extractor_pool.pack_state_dicts``."""


_INFO_ADAPTER = TypeAdapter(PretrainedInfo)


def save_pretrained(path: Path, pretrained: PretrainedModel) -> None:
    """Write the file completely or not at all.

    Raises UsageError if it cannot be written.
    """
    try:
        about = {"fedws": json.dumps(asdict(pretrained.info))}
        tensor_file.save_tensors({**pretrained.model, **pretrained.extra_extractors}, path, about)
    except (OSError, SafetensorError) as error:
        raise UsageError(f"cannot write {path}: {error}") from None


def load_pretrained(path: Path) -> PretrainedModel:
    """Return the content of a file.

    Raises UsageError if it cannot be read, or does not contain a pretrained model.
    """
    try:
        tensors, about = tensor_file.load_tensors_and_metadata(path)
        origin = _INFO_ADAPTER.validate_json(about.get("fedws", ""))
    except OSError as error:
        raise UsageError(f"cannot read the pretrained model {path}: {error.strerror or error}") from None
    except (SafetensorError, ValidationError):
        raise UsageError(f"{path} is not a pretrained model; create one with 'fedws pretrain'") from None
    return build_pretrained(tensors, origin)


def require_extra_extractors(pretrained: PretrainedModel, extractor: Tensors, file: str) -> Tensors:
    """Return the other extractors, whose tensors must match the model's ``extractor``.

    Raises UsageError if the file has too few or too many extractors, or extractors of another split point.
    """
    extra_extractors = extractor_pool.unpack_state_dicts(pretrained.extra_extractors)
    problem = "" if extra_extractors else "only one extractor"
    if len(extra_extractors) >= extractor_pool.MAX_EXTRACTORS:
        problem = f"more than {extractor_pool.MAX_EXTRACTORS} extractors"
    for extra_extractor in extra_extractors:
        problem = problem or find_mismatch(extra_extractor, extractor)
    if problem:
        at = f", split at {pretrained.info.split_at}" if pretrained.info.split_at else ""
        hint = "create several for a split point with 'fedws pretrain --num-extractors 3 --split-at ...'"
        raise UsageError(f"--extractor random: {file}{at}: {problem}; {hint}")
    return pretrained.extra_extractors


def build_pretrained(tensors: Tensors, info: PretrainedInfo) -> PretrainedModel:
    """Return the pretrained model of one dict that also holds the packed other extractors."""
    extra_extractors = {name: tensor for name, tensor in tensors.items() if extractor_pool.is_packed_name(name)}
    return PretrainedModel(
        {name: tensor for name, tensor in tensors.items() if name not in extra_extractors}, info, extra_extractors
    )


def load_pretrained_for(path: Path, model: str, reference: Tensors) -> PretrainedModel:
    """Return the content of a file with a model whose tensors match ``reference``.

    Raises UsageError as ``load_pretrained`` does, and for another model.
    """
    pretrained = load_pretrained(path)
    problem = find_mismatch(pretrained.model, reference)
    if problem:
        raise UsageError(f"--pretrained {path} contains {pretrained.info.model!r}, not {model!r}: {problem}")
    return pretrained
