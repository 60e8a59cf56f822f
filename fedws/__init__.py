"""Federated learning across named devices over websockets.

The names below are the public ones; everything else may change. They are imported when first used, so that
``import fedws`` and ``fedws --help`` do not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedws.coordinator.run import Result as Result
    from fedws.coordinator.run import run as run
    from fedws.coordinator.run import run_sync as run_sync
    from fedws.core.errors import FedwsError as FedwsError
    from fedws.core.errors import RequestError as RequestError
    from fedws.core.errors import RunFailed as RunFailed
    from fedws.core.errors import TaskError as TaskError
    from fedws.core.errors import TaskFailed as TaskFailed
    from fedws.core.errors import UsageError as UsageError
    from fedws.core.plan import Plan as Plan
    from fedws.core.plugins import load_plugin as load_plugin
    from fedws.core.registry import register as register
    from fedws.core.registry import releasing as releasing
    from fedws.core.task_settings import Scoring as Scoring
    from fedws.core.task_settings import Training as Training
    from fedws.core.tensors import Tensors as Tensors
    from fedws.data.base import Dataset as Dataset
    from fedws.data.loading import load as load
    from fedws.data.samples import Images as Images
    from fedws.network.base import Limits as Limits
    from fedws.node.dial_out import joining as joining
    from fedws.node.evaluator import create_evaluator as create_evaluator
    from fedws.node.server import serving as serving
    from fedws.node.worker import Worker as Worker
    from fedws.object_store.base import shelf as shelf
    from fedws.privacy.audit_log import Audit as Audit
    from fedws.privacy.policy import Policy as Policy
    from fedws.protocol.evaluation_result import Score as Score
    from fedws.protocol.messages import Failure as Failure
    from fedws.protocol.messages import Order as Order
    from fedws.protocol.messages import Report as Report
    from fedws.scheduling.base import Ask as Ask
    from fedws.security.credentials import Security as Security
    from fedws.security.network_key import network_key as network_key
    from fedws.security.tls import Tls as Tls
    from fedws.training.evaluation import score as score
    from fedws.training.local import train as train
    from fedws.training.task_context import Workspace as Workspace

_HOME = {
    "Ask": "scheduling.base",
    "Audit": "privacy.audit_log",
    "Dataset": "data.base",
    "Failure": "protocol.messages",
    "FedwsError": "core.errors",
    "Images": "data.samples",
    "Limits": "network.base",
    "Order": "protocol.messages",
    "Plan": "core.plan",
    "Policy": "privacy.policy",
    "Report": "protocol.messages",
    "RequestError": "core.errors",
    "Result": "coordinator.run",
    "RunFailed": "core.errors",
    "Score": "protocol.evaluation_result",
    "Scoring": "core.task_settings",
    "Security": "security.credentials",
    "TaskError": "core.errors",
    "TaskFailed": "core.errors",
    "Tensors": "core.tensors",
    "Tls": "security.tls",
    "Training": "core.task_settings",
    "UsageError": "core.errors",
    "Worker": "node.worker",
    "Workspace": "training.task_context",
    "create_evaluator": "node.evaluator",
    "joining": "node.dial_out",
    "load": "data.loading",
    "load_plugin": "core.plugins",
    "network_key": "security.network_key",
    "register": "core.registry",
    "releasing": "core.registry",
    "run": "coordinator.run",
    "run_sync": "coordinator.run",
    "score": "training.evaluation",
    "serving": "node.server",
    "shelf": "object_store.base",
    "train": "training.local",
}

__all__ = sorted(_HOME)
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'fedws' has no attribute {name!r}")
    value = getattr(import_module(f"fedws.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
