"""Trains an extractor on a node's own samples before it is used there."""

from typing import Any, Self

import torch
from pydantic import SerializerFunctionWrapHandler, model_serializer
from torch import nn

from fedws.core.errors import TaskError
from fedws.core.task_settings import UNLIMITED, Count, Training, sent
from fedws.core.tensors import Tensors, detached, unfit
from fedws.core.validation import Positive
from fedws.split_learning.extraction import Digest, Extraction
from fedws.training import local, task_context


class Adaptation(Extraction):
    """What an order says to extract with an extractor that is first adapted to the node's samples.

    The head is needed for that, and comes with the extractors. It is not changed, so that what the extractor makes
    stays what the head reads.
    """

    head: Digest
    epochs: Count
    loss: str
    optimizer: str
    lr: Positive
    train_batch_size: Count
    drop_last: bool = False

    @model_serializer(mode="wrap")
    def _sent(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return sent(dump(self))

    @property
    def further(self) -> list[str]:
        """The head's digest."""
        return [self.head]

    def adapted(self, extractor: Tensors, head: Tensors, workspace: task_context.Workspace, seed: int) -> Tensors:
        """The extractor after ``epochs`` on the node's samples. Raises TaskError, and Stopped when told to stop."""
        module = _Before(self.loaded(extractor, workspace), self.loaded(head, workspace, head=True))
        self.fits(module.extractor, workspace)
        settings = Training(
            model=self.model,
            dataset=self.dataset,
            loss=self.loss,
            optimizer=self.optimizer,
            lr=self.lr,
            batch_size=self.train_batch_size,
            batches=UNLIMITED,
            epochs=self.epochs,
            drop_last=self.drop_last,
            cuda=self.cuda,
        )
        local.train(module, workspace, settings, seed)
        found = detached(module.extractor.state_dict())
        if problem := unfit(found):
            raise TaskError(f"the extractor of {self.model} cannot be adapted on {workspace.node}: {problem}")
        return found


class _Before(nn.Module):
    """An extractor that is trained before a head that stays as it is, also its running means."""

    def __init__(self, extractor: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.extractor = extractor
        self.head = head.requires_grad_(False).eval()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """As the whole model."""
        outputs: torch.Tensor = self.head(self.extractor(inputs))
        return outputs

    def train(self, mode: bool = True) -> Self:
        """The head does what it will do when it is used."""
        super().train(mode)
        self.head.eval()
        return self
