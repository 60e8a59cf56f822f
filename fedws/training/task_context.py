"""What a task may use on its node."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast, overload

import torch
from pydantic import BaseModel, ValidationError

from fedws.core import registry
from fedws.core.errors import TaskError
from fedws.core.plan import explain
from fedws.core.task_settings import Scoring, batches
from fedws.core.tensors import Tensors, difference
from fedws.data.base import Dataset
from fedws.privacy.policy import Policy
from fedws.privacy.spending import Features
from fedws.protocol.messages import Json, Order, Report
from fedws.training.client_state import Keepsake
from fedws.training.model_outline import complete, outline, values

Settings = TypeVar("Settings", bound=BaseModel)
Resource = TypeVar("Resource")


class _Samples:
    """Descriptor of ``data``, which sets ``read`` when it is read: from then on an error may depend on the samples."""

    @overload
    def __get__(self, work: None, owner: object) -> "_Samples": ...

    @overload
    def __get__(self, work: "Workspace", owner: object) -> Dataset: ...

    def __get__(self, work: "Workspace | None", owner: object) -> "Dataset | _Samples":
        if work is None:
            raise AttributeError  # so that the field has no default
        work.read.set()
        found: Dataset = work.__dict__["data"]
        return found

    def __set__(self, work: "Workspace", data: Dataset) -> None:
        work.__dict__["data"] = data


@dataclass(frozen=True)
class Workspace:
    """What a task may use on its node."""

    node: str
    dataset: str
    """The name under which this node's data set is registered."""
    data: _Samples = _Samples()
    """The node's samples. Once a task has got them, the coordinator gets the text of no error but RequestError."""
    stop: threading.Event = field(default_factory=threading.Event)
    threads: int = 1
    """How many threads may score batches at once."""
    keepsake: Keepsake = field(default_factory=Keepsake)
    """What tasks have kept of this run; they use :meth:`recall` and :meth:`keep`."""
    state: Path | None = None
    """Folder for what a task keeps on the disk from run to run; None for none."""
    resources: dict[Callable[[Path | None], object], object] = field(default_factory=dict)
    """What tasks keep open between requests; they use :meth:`resource`."""
    policy: Policy = field(default_factory=Policy)
    leaving: dict[str, tuple[Features, Callable[[], None]]] = field(default_factory=dict)
    """What features the answer to an order holds, by the order's id; tasks use :meth:`announce`."""
    warnings: list[str] = field(default_factory=list)
    """Codes of the warnings that the next report carries, see :mod:`fedws.training.task_warnings`; tasks use
    :meth:`warn`."""
    read: threading.Event = field(default_factory=threading.Event)
    """Set once a task gets the samples, or what it kept of them, for the order that it carries out."""

    @property
    def held(self) -> int:
        """Number of samples, which ``welcome`` states."""
        return len(self.__dict__["data"])

    def settings(self, order: Order, kind: type[Settings]) -> Settings:
        """The order's settings, checked. Raises TaskError."""
        try:
            settings = kind.model_validate(order.settings)
        except ValidationError as error:
            raise TaskError(f"settings: {explain(error)}") from None
        wanted = getattr(settings, "dataset", self.dataset)
        if wanted != self.dataset:
            raise TaskError(f"{self.node} holds {self.dataset}, not {wanted}")
        for size in batches(settings):
            self.policy.batched(size, self.held)
        return settings

    def outline(self, spec: str) -> torch.nn.Module:
        """Return the registered model of that name without values, see :func:`fedws.training.model_outline.outline`.

        Raises TaskError, also for one with more parameters than the policy allows.
        """
        with registry.task_errors():
            found = outline(spec)
        self.policy.sized(spec, values(found))
        return found

    def module(self, spec: str, tensors: Tensors) -> torch.nn.Module:
        """Return the registered model of that name, on the CPU, with a copy of ``tensors``. Raises TaskError.

        It is built only when names, dtypes and shapes of ``tensors`` are its own.
        """
        problem = difference(tensors, self.outline(spec).state_dict())
        if problem:
            raise TaskError(f"model {spec} is another one on {self.node}: {problem}")
        with registry.task_errors():
            module = complete(spec)  # its own weights are for nothing, but drawing them is seen by other nodes
        module.load_state_dict(dict(tensors))
        return module

    def scored(self, settings: Scoring, tensors: Tensors) -> torch.nn.Module:
        """Return the model to score, in the wrapper that the settings name. Raises TaskError."""
        module = self.module(settings.model, tensors)
        if not settings.wrapper:
            return module
        with registry.task_errors():
            wrapped: torch.nn.Module = registry.build(
                "wrapper", registry.Spec(settings.wrapper, None, settings.wrapper_options), module
            )
        return wrapped

    def recall(self, order: Order) -> Tensors | None:
        """The state that ``order`` starts from, as kept when the order of round ``order.base`` was answered.

        None when it starts from none. Raises TaskError when the state is not here any more.
        """
        found = self.keepsake.recall(order)
        if found is not None:
            self.read.set()
        return found

    def resource(self, opened: Callable[[Path | None], Resource]) -> Resource:
        """Return what ``opened`` made of the folder :attr:`state` when this was first called with it."""
        if opened not in self.resources:
            self.resources[opened] = opened(self.state)
        return cast(Resource, self.resources[opened])

    def keep(self, order: Order, tensors: Tensors) -> None:
        """Keep ``tensors`` as this node's state after ``order``; a task with state does so before each report."""
        self.keepsake.keep(order, tensors)

    def announce(self, order: Order, features: Features, then: Callable[[], None]) -> None:
        """Say that the answer to ``order`` will hold features, before they are computed; ``then``, when it leaves.

        Raises TaskError with the reason when the node's owner does not allow them.
        """
        self.policy.allow(features)
        self.leaving[order.id] = features, then

    def warn(self, code: str) -> None:
        """Let the next report carry the warning of that code."""
        if code not in self.warnings:
            self.warnings.append(code)

    def report(self, order: Order, metrics: Json, tensors: Tensors | None = None) -> Report:
        """The good answer to ``order``, from this node and its samples; it takes the warnings with it."""
        if self.warnings:
            metrics = {**metrics, "warnings": list(self.warnings)}
            self.warnings.clear()
        return Report(
            order=order.id,
            worker=self.node,
            round=order.round,
            samples=self.held,
            metrics=metrics,
            tensors=tensors or {},
        )


def piece(kind: str, spec: str, *given: Any) -> Any:
    """Return what :func:`fedws.core.registry.build` makes. Raises TaskError."""
    with registry.task_errors():
        return registry.build(kind, spec, *given)
