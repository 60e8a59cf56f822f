"""The loss of a model on a batch."""

from typing import Any, NamedTuple

import torch

from fedws.core.error_location import summary
from fedws.core.errors import FedwsError, PieceFailed, TaskError
from fedws.core.registry import Spec
from fedws.core.task_settings import Scoring, Training
from fedws.data.nested_tensors import described, moved, part
from fedws.data.samples import Batch
from fedws.training.base import Loss
from fedws.training.batching import enough, normalises
from fedws.training.model_call import Forward
from fedws.training.task_context import Workspace, piece
from fedws.training.task_warnings import NOT_LOG_PROBABILITIES

_TENSORS_ONLY = ("torch.nn.", "fedws.losses.")
"""Where losses come from that take tensors alone; a user's own loss may take anything."""


class Value(NamedTuple):
    """A loss and what it was computed on."""

    loss: torch.Tensor
    """Mean over the samples of the batch."""
    outputs: Any
    targets: Any


def device(cuda: bool) -> torch.device:
    """Where to compute: the GPU when it is wanted and there is one."""
    return torch.device("cuda" if cuda and torch.cuda.is_available() else "cpu")


def outputs(result: Any) -> Any:
    """Return what a loss is computed on: ``logits`` of a dict, dataclass or named tuple that has them, or all."""
    logits = part(result, "logits")
    return result if logits is None else logits


class Objective:
    """The mean loss of a model over a batch, in the mode the model is in.

    The registered loss is computed on the model's outputs, or on their ``logits`` where they are a dict, dataclass or
    named tuple with such a tensor. Where these have no ``logits`` but a ``loss``, a scalar, that is the loss.
    """

    def __init__(self, module: torch.nn.Module, work: Workspace, settings: Training | Scoring) -> None:
        """Move ``module`` to its device. Raises TaskError for an unknown loss."""
        self.device = device(settings.cuda)
        self._forward = Forward(module.to(self.device))
        self._loss: Loss = piece("loss", settings.loss)
        self._name = settings.loss
        self._work = work
        self._normalises = normalises(module)
        self._unchecked = max(1, work.policy.samples) if Spec.parse(settings.loss).name == "nll" else 0
        """Number of samples still to check: a warning is a number of as many as the policy wants."""
        self._odd = False

    def __call__(self, batch: Batch) -> Value:
        """Return the loss of a batch. Raises TaskError where the loss cannot take the outputs, and PieceFailed."""
        with enough(batch.samples, self._work.node, join=self._normalises):
            result = self._forward(moved(batch.inputs, self.device))
        found, targets = outputs(result), moved(batch.targets, self.device)
        if not isinstance(found, torch.Tensor) and (own := part(result, "loss")) is not None:
            if own.dim():
                raise TaskError(f"the model's own loss is {described(own)}; it must be a scalar, as loss.mean()")
            return Value(own, None, targets)
        suit(self._loss, self._name, found, targets)
        if self._unchecked > 0:
            self._unchecked -= batch.samples
            self._odd = self._odd or not log_probabilities(found)
            if self._odd and self._unchecked <= 0:
                self._work.warn(NOT_LOG_PROBABILITIES)
        try:
            return Value(self._loss(found, targets), found, targets)
        except FedwsError:
            raise
        except Exception as error:
            raise PieceFailed(f"loss {self._name}: {summary(error)}") from error


def suit(loss: Any, name: str, found: Any, targets: Any) -> None:
    """Raise TaskError where a loss takes tensors alone and outputs or targets are something else."""
    home = loss.__module__ if hasattr(loss, "__qualname__") else type(loss).__module__
    if not str(home).startswith(_TENSORS_ONLY):
        return
    if not isinstance(found, torch.Tensor):
        raise TaskError(
            f"loss {name} takes a tensor, and the model gives {described(found)}; "
            "give a tensor, or a dict or dataclass with logits or loss"
        )
    if not isinstance(targets, torch.Tensor):
        raise TaskError(f"loss {name} takes a tensor as targets, not {described(targets)}; use a loss of your own")


def log_probabilities(found: torch.Tensor) -> bool:
    """Return whether outputs [n, classes] are log-probabilities; other shapes are not examined.

    >>> log_probabilities(torch.ones(2, 3)), log_probabilities(torch.ones(2, 3).log_softmax(1))
    (False, True)
    """
    if found.dim() != 2 or not found.is_floating_point():
        return True
    tolerance = max(1e-3, 32 * torch.finfo(found.dtype).eps)
    return not bool((found.detach().double().logsumexp(1).abs() > tolerance).any())
