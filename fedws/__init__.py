"""Federated learning across named devices over websockets.

The names in ``__all__`` are public; all other names may change. Each public name is imported at its first use, so that
``import fedws`` and ``fedws --help`` do not load torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedws.coordinator.run import RunResult as RunResult
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
    from fedws.core.registry import task_traits as task_traits
    from fedws.core.task_settings import EvalSettings as EvalSettings
    from fedws.core.task_settings import TrainSettings as TrainSettings
    from fedws.core.tensors import Tensors as Tensors
    from fedws.core.untrusted_text import PRINTABLE_FILTER as PRINTABLE_FILTER
    from fedws.data.base import Dataset as Dataset
    from fedws.data.loading import load_dataset as load_dataset
    from fedws.data.samples import ImageDataset as ImageDataset
    from fedws.network.base import Limits as Limits
    from fedws.node.dial_out import join_run as join_run
    from fedws.node.evaluator import create_evaluator as create_evaluator
    from fedws.node.server import serve as serve
    from fedws.node.worker import Worker as Worker
    from fedws.object_store.base import open_store as open_store
    from fedws.privacy.audit_log import AuditLog as AuditLog
    from fedws.privacy.policy import Policy as Policy
    from fedws.protocol.evaluation_result import EvalResult as EvalResult
    from fedws.protocol.messages import TaskFailure as TaskFailure
    from fedws.protocol.messages import TaskRequest as TaskRequest
    from fedws.protocol.messages import TaskResult as TaskResult
    from fedws.scheduling.base import TaskSpec as TaskSpec
    from fedws.security.credentials import Credentials as Credentials
    from fedws.security.network_key import load_network_key as load_network_key
    from fedws.security.tls import TlsConfig as TlsConfig
    from fedws.training.evaluation import evaluate as evaluate
    from fedws.training.local_training import train as train
    from fedws.training.task_context import TaskContext as TaskContext
    from fedws.updates.metrics import MAX_TABLE_CELLS as MAX_TABLE_CELLS

_EXPORTS = {
    "TaskSpec": "scheduling.base",
    "AuditLog": "privacy.audit_log",
    "Dataset": "data.base",
    "TaskFailure": "protocol.messages",
    "FedwsError": "core.errors",
    "ImageDataset": "data.samples",
    "Limits": "network.base",
    "MAX_TABLE_CELLS": "updates.metrics",
    "TaskRequest": "protocol.messages",
    "PRINTABLE_FILTER": "core.untrusted_text",
    "Plan": "core.plan",
    "Policy": "privacy.policy",
    "TaskResult": "protocol.messages",
    "RequestError": "core.errors",
    "RunResult": "coordinator.run",
    "RunFailed": "core.errors",
    "EvalResult": "protocol.evaluation_result",
    "EvalSettings": "core.task_settings",
    "Credentials": "security.credentials",
    "TaskError": "core.errors",
    "TaskFailed": "core.errors",
    "Tensors": "core.tensors",
    "TlsConfig": "security.tls",
    "TrainSettings": "core.task_settings",
    "UsageError": "core.errors",
    "Worker": "node.worker",
    "TaskContext": "training.task_context",
    "create_evaluator": "node.evaluator",
    "join_run": "node.dial_out",
    "load_dataset": "data.loading",
    "load_plugin": "core.plugins",
    "load_network_key": "security.network_key",
    "register": "core.registry",
    "task_traits": "core.registry",
    "run": "coordinator.run",
    "run_sync": "coordinator.run",
    "evaluate": "training.evaluation",
    "serve": "node.server",
    "open_store": "object_store.base",
    "train": "training.local_training",
}

__all__ = sorted(_EXPORTS)
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'fedws' has no attribute {name!r}")
    value = getattr(import_module(f"fedws.{_EXPORTS[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_EXPORTS])
