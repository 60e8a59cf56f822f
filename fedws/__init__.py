"""Federated learning across named devices over websockets.

The names below are the public ones; everything else may change. They are imported when first used, so that
``import fedws`` and ``fedws --help`` do not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedws.audit import Audit as Audit
    from fedws.coordinator.run import Result as Result
    from fedws.coordinator.run import run as run
    from fedws.coordinator.run import run_sync as run_sync
    from fedws.dialout import joining as joining
    from fedws.errors import FedwsError as FedwsError
    from fedws.errors import RequestError as RequestError
    from fedws.errors import RunFailed as RunFailed
    from fedws.errors import TaskError as TaskError
    from fedws.errors import TaskFailed as TaskFailed
    from fedws.errors import UsageError as UsageError
    from fedws.evaluation import Score as Score
    from fedws.evaluation import score as score
    from fedws.interfaces import Ask as Ask
    from fedws.interfaces import Dataset as Dataset
    from fedws.interfaces import Limits as Limits
    from fedws.keys import network_key as network_key
    from fedws.messages import Failure as Failure
    from fedws.messages import Order as Order
    from fedws.messages import Report as Report
    from fedws.plan import Plan as Plan
    from fedws.plugins import load_plugin as load_plugin
    from fedws.policy import Policy as Policy
    from fedws.registry import register as register
    from fedws.registry import releasing as releasing
    from fedws.samples import Images as Images
    from fedws.security import Security as Security
    from fedws.service import serving as serving
    from fedws.settings import Scoring as Scoring
    from fedws.settings import Training as Training
    from fedws.store import shelf as shelf
    from fedws.tensors import Tensors as Tensors
    from fedws.tls import Tls as Tls
    from fedws.training import train as train
    from fedws.worker import Worker as Worker
    from fedws.workspace import Workspace as Workspace

_HOME = {
    "Ask": "interfaces",
    "Audit": "audit",
    "Dataset": "interfaces",
    "Failure": "messages",
    "FedwsError": "errors",
    "Images": "samples",
    "Limits": "interfaces",
    "Order": "messages",
    "Plan": "plan",
    "Policy": "policy",
    "Report": "messages",
    "RequestError": "errors",
    "Result": "coordinator.run",
    "RunFailed": "errors",
    "Score": "evaluation",
    "Scoring": "settings",
    "Security": "security",
    "TaskError": "errors",
    "TaskFailed": "errors",
    "Tensors": "tensors",
    "Tls": "tls",
    "Training": "settings",
    "UsageError": "errors",
    "Worker": "worker",
    "Workspace": "workspace",
    "joining": "dialout",
    "load_plugin": "plugins",
    "network_key": "keys",
    "register": "registry",
    "releasing": "registry",
    "run": "coordinator.run",
    "run_sync": "coordinator.run",
    "score": "evaluation",
    "serving": "service",
    "shelf": "store",
    "train": "training",
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
