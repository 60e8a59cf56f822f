"""The loss of a model on a batch."""

from typing import Any, NamedTuple

import torch

from fedws.core.error_text import summarize_error
from fedws.core.errors import FedwsError, PieceFailed, TaskError
from fedws.core.spec import Spec
from fedws.core.task_settings import EvalSettings, TrainSettings
from fedws.data.nested_tensors import describe_type, find_tensor, move_tensors
from fedws.data.samples import Batch
from fedws.training.base import Loss
from fedws.training.batching import explain_batch_norm_error, trains_batch_norm
from fedws.training.model_call import ModelCaller
from fedws.training.task_context import TaskContext, build_task_piece
from fedws.training.task_warnings import NOT_LOG_PROBABILITIES

_TENSOR_LOSS_MODULES = ("torch.nn.", "fedws.training.losses.")
"""Where losses come from that take tensors alone; a user's own loss may take anything."""


class BatchLoss(NamedTuple):
    """A loss and what it was computed on."""

    loss: torch.Tensor
    """Mean over the samples of the batch."""
    outputs: Any
    targets: Any


def select_device(cuda: bool) -> torch.device:
    """Where to compute: the GPU when it is wanted and there is one."""
    return torch.device("cuda" if cuda and torch.cuda.is_available() else "cpu")


def select_outputs(model_output: Any) -> Any:
    """Return what a loss is computed on: ``logits`` of a dict, dataclass or named tuple that has them, or all."""
    logits = find_tensor(model_output, "logits")
    return model_output if logits is None else logits


class Objective:
    """The mean loss of a model over a batch, in the mode the model is in.

    The registered loss is computed on the model's outputs, or on their ``logits`` where they are a dict, dataclass or
    named tuple with such a tensor. Where these have no ``logits`` but a ``loss``, a scalar, that is the loss.
    """

    def __init__(self, module: torch.nn.Module, context: TaskContext, settings: TrainSettings | EvalSettings) -> None:
        """Move ``module`` to its device. Raises TaskError for an unknown loss."""
        self.device = select_device(settings.cuda)
        self._call_model = ModelCaller(module.to(self.device))
        self._loss: Loss = build_task_piece("loss", settings.loss)
        self._loss_name = settings.loss
        self._context = context
        self._has_batch_norm = trains_batch_norm(module)
        self._num_unchecked = max(1, context.policy.min_samples) if Spec.parse(settings.loss).name == "nll" else 0
        """Number of samples still to check: a warning is a number of as many as the policy wants."""
        self._found_unnormalized = False

    def __call__(self, batch: Batch) -> BatchLoss:
        """Return the loss of a batch. Raises TaskError where the loss cannot take the outputs, and PieceFailed."""
        with explain_batch_norm_error(batch.num_examples, self._context.node, has_batch_norm=self._has_batch_norm):
            result = self._call_model(move_tensors(batch.inputs, self.device))
        found, targets = select_outputs(result), move_tensors(batch.targets, self.device)
        if not isinstance(found, torch.Tensor) and (own := find_tensor(result, "loss")) is not None:
            if own.dim():
                raise TaskError(f"the model's own loss is {describe_type(own)}; it must be a scalar, as loss.mean()")
            return BatchLoss(own, None, targets)
        check_loss_inputs(self._loss, self._loss_name, found, targets)
        if self._num_unchecked > 0:
            self._num_unchecked -= batch.num_examples
            self._found_unnormalized = self._found_unnormalized or not are_log_probabilities(found)
            if self._found_unnormalized and self._num_unchecked <= 0:
                self._context.warn(NOT_LOG_PROBABILITIES)
        try:
            return BatchLoss(self._loss(found, targets), found, targets)
        except FedwsError:
            raise
        except Exception as error:
            raise PieceFailed(f"loss {self._loss_name}: {summarize_error(error)}") from error


def check_loss_inputs(loss: Any, name: str, outputs: Any, targets: Any) -> None:
    """Raise TaskError where a loss takes tensors alone and outputs or targets are something else."""
    home = loss.__module__ if hasattr(loss, "__qualname__") else type(loss).__module__
    if not str(home).startswith(_TENSOR_LOSS_MODULES):
        return
    if not isinstance(outputs, torch.Tensor):
        raise TaskError(
            f"loss {name} takes a tensor, and the model gives {describe_type(outputs)}; "
            "give a tensor, or a dict or dataclass with logits or loss"
        )
    if not isinstance(targets, torch.Tensor):
        raise TaskError(f"loss {name} takes a tensor as targets, not {describe_type(targets)}; use a loss of your own")


def are_log_probabilities(outputs: torch.Tensor) -> bool:
    """Return whether outputs [n, classes] are log-probabilities; other shapes are not examined.

    >>> are_log_probabilities(torch.ones(2, 3)), are_log_probabilities(torch.ones(2, 3).log_softmax(1))
    (False, True)
    """
    if outputs.dim() != 2 or not outputs.is_floating_point():
        return True
    tolerance = max(1e-3, 32 * torch.finfo(outputs.dtype).eps)
    return not bool((outputs.detach().double().logsumexp(1).abs() > tolerance).any())
