"""Federated averaging: McMahan, Moore, Ramage, Hampson, Agüera y Arcas, "Communication-Efficient Learning of

Deep Networks from Decentralized Data" (AISTATS 2017), Algorithm 1, with every worker in every round (C = 1).
"""

from dataclasses import KW_ONLY, asdict, dataclass

from fedws.core.registry import register
from fedws.core.task_settings import TrainSettings
from fedws.core.tensors import Tensors, copy_to_cpu
from fedws.core.validation import Count
from fedws.protocol.messages import TaskRequest, TaskResult
from fedws.scheduling.base import TaskSpec
from fedws.training.local_training import train
from fedws.training.task_context import TaskContext

# ------------------------------------------------------------------ on the worker: ClientUpdate(k, w)


@register("task", "fedavg.fit", releases="update", settings=TrainSettings)
def fit(request: TaskRequest, context: TaskContext) -> TaskResult:
    """Train the request's model on local data; the result holds the trained model, buffers included."""
    settings = context.parse_settings(request, TrainSettings)
    module = context.build_model(settings.model, request.tensors)
    trained = train(module, context, settings, request.seed)
    return context.build_result(request, asdict(trained), copy_to_cpu(module.state_dict()))


# ------------------------------------------------------------------ on the coordinator


@register("algorithm", "fedavg")
@dataclass(frozen=True)
class FedAvg:
    """``w_{t+1} = sum_k (n_k / n) w_k``, with the aggregator's mean; its weights are equal unless
    ``--weight-by-samples``."""

    training: TrainSettings
    _: KW_ONLY
    epochs: Count | None = None
    """Local epochs (E of the paper), all batches of each unless ``--max_local_batches`` is given.

    None: as ``--epochs``.
    """

    def configure(self, model: Tensors, worker: str, round_number: int) -> TaskSpec:
        """Train ``model`` with this round's learning rate."""
        return TaskSpec(
            "fedavg.fit", self.training.for_round(round_number).with_epochs(self.epochs).model_dump(), model
        )

    def server_update(self, model: Tensors, aggregate: Tensors, round_number: int) -> Tensors:
        """The mean is the next model."""
        return aggregate

    def worker_model(self, model: Tensors, result: TaskResult) -> Tensors:
        """What the worker trained."""
        return result.tensors
