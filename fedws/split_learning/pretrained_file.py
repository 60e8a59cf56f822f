"""A model that was trained on public data, as a file: what extractor and head begin with."""

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
    """What a pretrained model is, and what it was trained on."""

    model: str
    dataset: str
    num_classes: Annotated[int, Field(ge=0)]
    """That it tells apart; 0 for a model that does not."""
    input_shape: list[int]
    """The shape of one."""
    epochs: int
    label_format: str = "int64 []"
    """What a label is, as :func:`fedws.data.batch_labels.describe_labels` tells it."""
    split_at: str = ""
    """Where its extractors end, if it has several."""


@dataclass(frozen=True)
class PretrainedModel:
    """What is in such a file."""

    model: Tensors
    info: PretrainedInfo
    extra_extractors: Tensors
    """Its other extractors, joined as :func:`fedws.split_learning.extractor_pool.pack_state_dicts` does."""


_INFO_ADAPTER = TypeAdapter(PretrainedInfo)


def save_pretrained(path: Path, pretrained: PretrainedModel) -> None:
    """Write the file whole or not at all. Raises UsageError when it cannot be written."""
    try:
        about = {"fedws": json.dumps(asdict(pretrained.info))}
        tensor_file.save_tensors({**pretrained.model, **pretrained.extra_extractors}, path, about)
    except (OSError, SafetensorError) as error:
        raise UsageError(f"{path} cannot be written: {error}") from None


def load_pretrained(path: Path) -> PretrainedModel:
    """What a file holds. Raises UsageError for one that is none of ours."""
    try:
        tensors, about = tensor_file.load_tensors_and_metadata(path)
        origin = _INFO_ADAPTER.validate_json(about.get("fedws", ""))
    except OSError as error:
        raise UsageError(f"the pretrained model {path} cannot be read: {error.strerror or error}") from None
    except (SafetensorError, ValidationError):
        raise UsageError(f"{path} is no pretrained model, as 'fedws pretrain' writes them") from None
    return build_pretrained(tensors, origin)


def require_extra_extractors(pretrained: PretrainedModel, extractor: Tensors, file: str) -> Tensors:
    """Its other extractors, which must be as the model's ``extractor``. Raises UsageError where it has none for this
    cut."""
    extra_extractors = extractor_pool.unpack_state_dicts(pretrained.extra_extractors)
    problem = "" if extra_extractors else "it has one extractor"
    if len(extra_extractors) >= extractor_pool.MAX_EXTRACTORS:
        problem = f"it has more than {extractor_pool.MAX_EXTRACTORS} extractors"
    for extra_extractor in extra_extractors:
        problem = problem or find_mismatch(extra_extractor, extractor)
    if problem:
        at = f", made for the cut {pretrained.info.split_at}" if pretrained.info.split_at else ""
        how = "'fedws pretrain --num-extractors 3 --split-at ...' makes several for a cut"
        raise UsageError(f"--extractor random: {file}{at}: {problem}; {how}")
    return pretrained.extra_extractors


def build_pretrained(tensors: Tensors, info: PretrainedInfo) -> PretrainedModel:
    """What is in one dict, with the other extractors behind their numbers."""
    extra_extractors = {name: tensor for name, tensor in tensors.items() if extractor_pool.is_packed_name(name)}
    return PretrainedModel(
        {name: tensor for name, tensor in tensors.items() if name not in extra_extractors}, info, extra_extractors
    )


def load_pretrained_for(path: Path, model: str, reference: Tensors) -> PretrainedModel:
    """As :func:`load_pretrained`, of a model with tensors as ``reference``. Raises UsageError also for another
    model."""
    pretrained = load_pretrained(path)
    problem = find_mismatch(pretrained.model, reference)
    if problem:
        raise UsageError(f"--pretrained {path} is of {pretrained.info.model}, not of {model}: {problem}")
    return pretrained
