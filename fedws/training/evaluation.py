"""The evaluation of a model on the data of one node."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import torch

from fedws.core.errors import TaskError
from fedws.core.seeds import seed_generators
from fedws.core.task_settings import EvalSettings
from fedws.data import batch_labels
from fedws.data.samples import is_deterministic, iter_batches
from fedws.protocol.evaluation_result import EvalResult
from fedws.training.batching import split_into_batches
from fedws.training.objective import Objective
from fedws.training.task_context import TaskContext

Observer = Callable[[Any, Any], None]
"""Callback with the outputs and targets of a batch, such as a custom metric."""
_SEED = 0
"""Seed of every evaluation; the random state is the same for all, so that their results can be compared."""


def evaluate(
    module: torch.nn.Module, context: TaskContext, settings: EvalSettings, on_batch: Observer | None = None
) -> EvalResult:
    """Evaluate ``module`` on all of the node's data.

    The ``loss`` of the result is the mean over samples and does not depend on the batch size.
    ``fedws.training.objective.Objective`` describes the loss. Outputs of shape [n, classes] with integer targets
    of shape [n] are those of a classifier, and the prediction is the class of the largest output.

    ``context.threads`` threads take batches in turn. Unlike torch's own threads, they need no barrier. Sums are in the
    order of the batches. ``on_batch`` is called with the outputs and targets of every batch, one batch at a time and in
    any order. A data set that draws at random makes the same draws in every evaluation.

    Raises TaskError for an unknown loss or a node without samples, and TaskCancelled.
    """
    objective = Objective(module.eval(), context, settings)
    if not context.num_examples:
        raise TaskError(f"{context.node} has no samples")
    source = enumerate(
        iter_batches(context.data, split_into_batches(torch.arange(len(context.data)), settings.batch_size))
    )
    lock = threading.Lock()
    # Seeded blocks exclude each other. An evaluation with one would wait for the workers that train in this process.
    drawing = nullcontext if is_deterministic(context.data) else seed_generators
    done: dict[int, tuple[torch.Tensor, int, torch.Tensor | None]] = {}
    read: list[bool] = []

    @torch.inference_mode()
    def drain() -> None:
        while True:
            with lock, drawing(_SEED + len(read)):  # a data set may not support concurrent readers
                found = next(source, None)
                read.append(found is not None)
            if found is None:
                return
            number, batch = found
            context.raise_if_cancelled()
            loss, outputs, targets = objective(batch)
            if on_batch is not None:
                with lock:
                    on_batch(outputs, targets)
            done[number] = (
                loss.cpu().double() * batch.num_examples,
                batch.num_examples,
                _count_predictions(outputs, targets),
            )

    with ThreadPoolExecutor(context.threads) as pool:
        for result in [pool.submit(drain) for _ in range(context.threads)]:
            result.result()
    losses, counts, confusions = zip(*(done[number] for number in sorted(done)), strict=True)
    num_examples, loss = sum(counts), float(sum(losses)) / sum(counts)
    if any(confusion is None for confusion in confusions):
        return EvalResult(num_examples, loss)
    num_correct, *label_counts = sum(confusions).tolist()
    few = any(0 < cell < context.policy.min_samples for cell in label_counts)
    return EvalResult(num_examples, loss, num_correct, None if few else label_counts)


def _count_predictions(outputs: Any, targets: Any) -> torch.Tensor | None:
    """Return the number of correct predictions, then the number of predictions of each class, int64 [1 + classes].

    Return None if the outputs are not those of a classifier.
    """
    if not batch_labels.count_output_classes(outputs, targets):
        return None
    predicted = outputs.argmax(dim=1)
    correct = (predicted == targets).sum().reshape(1)
    return torch.cat([correct, torch.bincount(predicted, minlength=outputs.shape[1])]).cpu()
