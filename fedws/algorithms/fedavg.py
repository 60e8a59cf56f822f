"""Federated averaging (FedAvg).

Source: McMahan, Moore, Ramage, Hampson, Agüera y Arcas, "Communication-Efficient Learning of Deep Networks from
Decentralized Data" (AISTATS 2017), Algorithm 1. Every worker takes part in every round (C = 1).
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
    """Train the request's model on local data; the result contains the trained model with its buffers."""
    settings = context.parse_settings(request, TrainSettings)
    module = context.build_model(settings.model, request.tensors)
    trained = train(module, context, settings, request.seed)
    return context.build_result(request, asdict(trained), copy_to_cpu(module.state_dict()))


# ------------------------------------------------------------------ on the coordinator


@register("algorithm", "fedavg")
@dataclass(frozen=True)
class FedAvg:
    """Federated averaging: ``w_{t+1} = sum_k (n_k / n) w_k``.

    The aggregator computes the mean. Its weights are equal unless ``--weight-by-samples`` is given.
    """

    training: TrainSettings
    _: KW_ONLY
    epochs: Count | None = None
    """Number of local epochs (E of the paper); None for the value of ``--epochs``.

    Each epoch uses all batches unless ``--max-local-batches`` is given.
    """

    def configure(self, model: Tensors, worker: str, round_number: int) -> TaskSpec:
        """Return the task that trains ``model`` with this round's learning rate."""
        return TaskSpec(
            "fedavg.fit", self.training.for_round(round_number).with_epochs(self.epochs).model_dump(), model
        )

    def server_update(self, model: Tensors, aggregate: Tensors, round_number: int) -> Tensors:
        """Return the aggregate, which is the mean of the workers' models."""
        return aggregate

    def worker_model(self, model: Tensors, result: TaskResult) -> Tensors:
        """Return the model that the worker trained."""
        return result.tensors
