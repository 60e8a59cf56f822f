"""Federated averaging: McMahan, Moore, Ramage, Hampson, Agüera y Arcas, "Communication-Efficient Learning of

Deep Networks from Decentralized Data" (AISTATS 2017), Algorithm 1, with every worker in every round (C = 1).
"""

from dataclasses import KW_ONLY, asdict, dataclass

from fedws.core.plan import Training
from fedws.core.registry import register
from fedws.core.task_settings import Count
from fedws.core.tensors import Tensors, detached
from fedws.protocol.messages import Order, Report
from fedws.scheduling.base import Ask
from fedws.training.local import train
from fedws.training.task_context import Workspace

# ------------------------------------------------------------------ on the worker: ClientUpdate(k, w)


@register("task", "fedavg.fit", releases="update", settings=Training)
def fit(order: Order, workspace: Workspace) -> Report:
    """Train the order's model on local data; the report holds the trained model, buffers included."""
    settings = workspace.settings(order, Training)
    module = workspace.module(settings.model, order.tensors)
    trained = train(module, workspace, settings, order.seed)
    return workspace.report(order, asdict(trained), detached(module.state_dict()))


# ------------------------------------------------------------------ on the coordinator


@register("strategy", "fedavg")
@dataclass(frozen=True)
class FedAvg:
    """``w_{t+1} = sum_k (n_k / n) w_k``, with the aggregator's mean; its weights are equal unless ``--weighted``."""

    training: Training
    _: KW_ONLY
    epochs: Count | None = None
    """Local epochs (E of the paper), all batches of each unless ``--federate_after_n_batches`` is given.

    None: as ``--epochs``.
    """

    def order(self, model: Tensors, worker: str, round: int) -> Ask:
        """Train ``model`` with this round's learning rate."""
        return Ask("fedavg.fit", self.training.at(round).whole(self.epochs).model_dump(), model)

    def step(self, model: Tensors, aggregated: Tensors, round: int) -> Tensors:
        """The mean is the next model."""
        return aggregated

    def worker_model(self, model: Tensors, report: Report) -> Tensors:
        """What the worker trained."""
        return report.tensors
