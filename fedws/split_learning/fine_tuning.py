"""Fine-tuning of an extractor on a node's own samples before it extracts their features."""

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
    """The settings of a request to extract features with an extractor that is first fine-tuned on the node's samples.

    Fine-tuning requires the head, which is sent with the extractors. The head stays unchanged, so that it can read
    the features of the fine-tuned extractor.
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
        """Return the digest of the head."""
        return [self.head]

    def fine_tune(self, extractor: Tensors, head: Tensors, context: task_context.TaskContext, seed: int) -> Tensors:
        """Return the extractor after ``epochs`` epochs of training on the node's samples.

        Raises TaskError if it cannot be trained, and TaskCancelled if the task is cancelled.
        """
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
            raise TaskError(f"cannot fine-tune the extractor of {self.model} on {context.node}: {problem}")
        return trained


class _FrozenHeadModel(nn.Module):
    """An extractor in training, followed by a frozen head whose running statistics stay unchanged, too."""

    def __init__(self, extractor: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.extractor = extractor
        self.head = head.requires_grad_(False).eval()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the output of the whole model."""
        outputs: torch.Tensor = self.head(self.extractor(inputs))
        return outputs

    def train(self, mode: bool = True) -> Self:
        """Set the mode of the extractor, and keep the head in evaluation mode."""
        super().train(mode)
        self.head.eval()
        return self
