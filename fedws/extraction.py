"""Runs the first half of a model over a node's samples, forward only, and encodes what comes."""

from collections.abc import Iterator
from typing import Annotated

import torch
from pydantic import Field

from fedws import labels, learning
from fedws.coded import Coded
from fedws.cuts import split
from fedws.errors import TaskError, UsageError
from fedws.noise import Noise
from fedws.plan import Count
from fedws.samples import batches
from fedws.tensors import Tensors, difference, digest


class Cut(Coded):
    """Where a model is cut, and how what it gives there leaves."""

    model: str
    cut: str
    classes: Annotated[int, Field(ge=2, le=2**20)]

    def halves(self) -> tuple[torch.nn.Module, torch.nn.Module]:
        """Extractor and head, with weights that mean nothing yet. Raises UnknownName and UsageError."""
        return split(learning.initial(self.model, seed=0), self.cut)


class Extraction(Cut):
    """What an order to extract says."""

    dataset: str
    extractor: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """Its digest; the tensors come with the order only when the node has asked for them."""
    batch_size: Count = 128
    cuda: bool = False

    def loaded(self, tensors: Tensors) -> torch.nn.Module:
        """The extractor with those weights. Raises TaskError when they are not those that are meant."""
        if digest(tensors) != self.extractor:
            raise TaskError("the extractor is not the one that was pretrained: its digest is another")
        try:
            extractor, _ = self.halves()
        except UsageError as error:
            raise TaskError(str(error)) from None
        problem = difference(tensors, extractor.state_dict())
        if problem:
            raise TaskError(f"the extractor of {self.model}, cut at {self.cut}, is another one here: {problem}")
        extractor.load_state_dict(dict(tensors))
        return extractor


@torch.inference_mode()
def encoded(
    extractor: torch.nn.Module, settings: Extraction, workspace: learning.Workspace, shape: list[int]
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Features, uint8 [k, bytes], and labels, int64 [k], of a batch of samples at a time, as they may leave.

    ``shape`` is filled with that of a record's features. Raises TaskError when samples do not fit, Stopped when told to
    stop.
    """
    place, encoding, noise = learning.device(settings.cuda), settings.encoder(), Noise()
    extractor.to(place).eval()
    for inputs, targets in batches(workspace.data, torch.arange(len(workspace.data)), settings.batch_size):
        if workspace.stop.is_set():
            raise learning.Stopped("told to stop")
        try:
            features = extractor(inputs.to(place)).cpu()
        except RuntimeError:  # whose text may tell of the data
            sizes = f"{list(inputs.shape[1:])} on {workspace.node}"
            raise TaskError(f"samples of {sizes} do not fit the extractor of {settings.model}") from None
        shape[:] = features.shape[1:]
        features = features.nan_to_num()  # that a sample's overflow should not be told from the answer
        if int(targets.min()) < 0 or int(targets.max()) >= settings.classes:
            raise TaskError(f"{workspace.node} holds labels beyond the {settings.classes} of {settings.model}")
        noised = labels.randomise(targets, settings.classes, settings.label_epsilon, noise)
        yield encoding.encode(features, noise), noised
