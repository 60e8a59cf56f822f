"""Trains an extractor on a node's own samples before it is used there."""

from typing import Any, Self

import torch
from pydantic import SerializerFunctionWrapHandler, model_serializer
from torch import nn

from fedws.core.errors import TaskError
from fedws.core.task_settings import UNLIMITED_BATCHES, TrainSettings, omit_unset_drop_last
from fedws.core.tensors import Tensors, copy_to_cpu, find_nonfinite
from fedws.core.validation import Count, Positive
from fedws.protocol.messages import Digest
from fedws.split_learning.extraction import ExtractSettings
from fedws.training import local_training, task_context


class FineTuneSettings(ExtractSettings):
    """What a request says to extract with an extractor that is first adapted to the node's samples.

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
    def _serialize(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return omit_unset_drop_last(dump(self))

    @property
    def extra_digests(self) -> list[str]:
        """The head's digest."""
        return [self.head]

    def fine_tune(self, extractor: Tensors, head: Tensors, context: task_context.TaskContext, seed: int) -> Tensors:
        """The extractor after ``epochs`` on the node's samples. Raises TaskError, and TaskCancelled."""
        module = _FrozenHeadModel(self.build_half(extractor, context), self.build_half(head, context, head=True))
        self.check_samples(module.extractor, context)
        settings = TrainSettings(
            model=self.model,
            dataset=self.dataset,
            loss=self.loss,
            optimizer=self.optimizer,
            lr=self.lr,
            batch_size=self.train_batch_size,
            max_local_batches=UNLIMITED_BATCHES,
            epochs=self.epochs,
            drop_last=self.drop_last,
            cuda=self.cuda,
        )
        local_training.train(module, context, settings, seed)
        trained = copy_to_cpu(module.extractor.state_dict())
        if problem := find_nonfinite(trained):
            raise TaskError(f"the extractor of {self.model} cannot be adapted on {context.node}: {problem}")
        return trained


class _FrozenHeadModel(nn.Module):
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
