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
"""Prefixes of the modules whose losses accept only tensors; a custom loss may accept any type."""


class BatchLoss(NamedTuple):
    """The loss of a batch, with the outputs and targets that it was computed from."""

    loss: torch.Tensor
    """Mean loss over the samples of the batch, a scalar."""
    outputs: Any
    targets: Any


def select_device(cuda: bool) -> torch.device:
    """Return the GPU if ``cuda`` is True and a GPU is available, else the CPU."""
    return torch.device("cuda" if cuda and torch.cuda.is_available() else "cpu")


def select_outputs(model_output: Any) -> Any:
    """Return the part of a model's output that the loss is computed from.

    It is ``logits`` if the output is a dict, dataclass or named tuple with such a tensor, else the whole output.
    """
    logits = find_tensor(model_output, "logits")
    return model_output if logits is None else logits


class Objective:
    """The mean loss of a model over a batch, in the model's current mode (training or evaluation).

    The registered loss is computed from the model's outputs. If they are a dict, dataclass or named tuple with a tensor
    ``logits``, it is computed from ``logits``. If they have a tensor ``loss`` but no ``logits``, ``loss`` is used and
    must be a scalar.
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
        """Number of samples still to check.

        A warning reveals something about the samples, so it must depend on as many as the policy requires.
        """
        self._found_unnormalized = False

    def __call__(self, batch: Batch) -> BatchLoss:
        """Return the loss of a batch.

        Raises TaskError if the loss does not accept the outputs or targets, and PieceFailed if the loss raises.
        """
        with explain_batch_norm_error(batch.num_examples, self._context.node, has_batch_norm=self._has_batch_norm):
            result = self._call_model(move_tensors(batch.inputs, self.device))
        found, targets = select_outputs(result), move_tensors(batch.targets, self.device)
        if not isinstance(found, torch.Tensor) and (own := find_tensor(result, "loss")) is not None:
            if own.dim():
                raise TaskError(
                    f"the model's own loss is {describe_type(own)}; it must be a scalar, such as loss.mean()"
                )
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
    """Raise TaskError if a loss accepts only tensors, and the outputs or targets are not tensors."""
    home = loss.__module__ if hasattr(loss, "__qualname__") else type(loss).__module__
    if not str(home).startswith(_TENSOR_LOSS_MODULES):
        return
    if not isinstance(outputs, torch.Tensor):
        raise TaskError(
            f"loss {name} requires a tensor, but the model returns {describe_type(outputs)}; "
            "return a tensor, or a dict or dataclass with logits or loss"
        )
    if not isinstance(targets, torch.Tensor):
        raise TaskError(f"loss {name} requires a tensor as targets, not {describe_type(targets)}; use a custom loss")


def are_log_probabilities(outputs: torch.Tensor) -> bool:
    """Return True if outputs [n, classes] are log-probabilities, or if they have another shape.

    >>> are_log_probabilities(torch.ones(2, 3)), are_log_probabilities(torch.ones(2, 3).log_softmax(1))
    (False, True)
    """
    if outputs.dim() != 2 or not outputs.is_floating_point():
        return True
    tolerance = max(1e-3, 32 * torch.finfo(outputs.dtype).eps)
    return not bool((outputs.detach().double().logsumexp(1).abs() > tolerance).any())
