"""Trains an extractor on a node's own samples before it is used there."""

from torch import nn

from fedws import learning
from fedws.extraction import Digest, Extraction
from fedws.plan import Count, Training
from fedws.ranges import Positive
from fedws.tensors import Tensors, detached


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

    @property
    def wanted(self) -> list[str]:
        """The digests of the extractors, then the head's."""
        return [*self.extractors, self.head]

    def adapted(self, extractor: Tensors, head: Tensors, workspace: learning.Workspace, seed: int) -> Tensors:
        """The extractor after ``epochs`` on the node's samples. Raises TaskError, and Stopped when told to stop."""
        first, last = self.loaded(extractor), self.loaded(head, head=True)
        settings = Training(
            model=self.model,
            dataset=self.dataset,
            loss=self.loss,
            optimizer=self.optimizer,
            lr=self.lr,
            batch_size=self.train_batch_size,
            batches=2**31,
            epochs=self.epochs,
            cuda=self.cuda,
        )
        learning.train(nn.Sequential(first, last.requires_grad_(False)), workspace, settings, seed)
        return detached(first.state_dict())
