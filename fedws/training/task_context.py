"""What a task may use on its node."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast, overload

import torch
from pydantic import BaseModel, ValidationError

from fedws.core import registry
from fedws.core.errors import TaskCancelled, TaskError
from fedws.core.spec import Spec
from fedws.core.task_settings import EvalSettings, list_batch_sizes
from fedws.core.tensors import Tensors, find_mismatch
from fedws.core.validation import describe_setting_error
from fedws.data.base import Dataset
from fedws.privacy.feature_release import FeatureRelease
from fedws.privacy.policy import Policy
from fedws.protocol.messages import Json, TaskRequest, TaskResult
from fedws.training.client_state import ClientState
from fedws.training.model_building import build_complete_model, build_outline, count_elements

Settings = TypeVar("Settings", bound=BaseModel)
Resource = TypeVar("Resource")


class _DataField:
    """Descriptor of ``data``, which sets ``read`` when it is read: from then on an error may depend on the samples."""

    @overload
    def __get__(self, context: None, owner: object) -> "_DataField": ...

    @overload
    def __get__(self, context: "TaskContext", owner: object) -> Dataset: ...

    def __get__(self, context: "TaskContext | None", owner: object) -> "Dataset | _DataField":
        if context is None:
            raise AttributeError  # so that the field has no default
        context.data_accessed.set()
        found: Dataset = context.__dict__["data"]
        return found

    def __set__(self, context: "TaskContext", data: Dataset) -> None:
        context.__dict__["data"] = data


@dataclass(frozen=True)
class TaskContext:
    """What a task may use on its node."""

    node: str
    dataset: str
    """The name under which this node's data set is registered."""
    data: _DataField = _DataField()
    """The node's samples. Once a task has got them, the coordinator gets the text of no error but RequestError."""
    stop: threading.Event = field(default_factory=threading.Event)
    threads: int = 1
    """How many threads may score batches at once."""
    client_state: ClientState = field(default_factory=ClientState)
    """What tasks have kept of this run; they use :meth:`load_state` and :meth:`save_state`."""
    state_dir: Path | None = None
    """Folder for what tasks keep on the disk from run to run, each in a subfolder of its own; None for none."""
    resources: dict[str, tuple[Callable[[Path | None], object], object]] = field(default_factory=dict)
    """What tasks keep open between requests, by name, with its factory; they use :meth:`open_resource`."""
    policy: Policy = field(default_factory=Policy)
    pending_releases: dict[str, tuple[FeatureRelease, Callable[[], None]]] = field(default_factory=dict)
    """What features the answer to a request holds, by the request's id; tasks use :meth:`declare_release`."""
    warnings: list[str] = field(default_factory=list)
    """Codes of the warnings that the next result carries, see :mod:`fedws.training.task_warnings`; tasks use
    :meth:`warn`."""
    data_accessed: threading.Event = field(default_factory=threading.Event)
    """Set once a task gets the samples, or what it kept of them, for the request that it carries out."""

    @property
    def num_examples(self) -> int:
        """Number of samples, which ``welcome`` states."""
        return len(self.__dict__["data"])

    def parse_settings(self, request: TaskRequest, settings_type: type[Settings]) -> Settings:
        """The request's settings, checked. Raises TaskError."""
        try:
            settings = settings_type.model_validate(request.settings)
        except ValidationError as error:
            raise TaskError(f"settings: {describe_setting_error(error)}") from None
        dataset = getattr(settings, "dataset", self.dataset)
        if dataset != self.dataset:
            raise TaskError(f"{self.node} holds {self.dataset}, not {dataset}")
        for size in list_batch_sizes(settings):
            self.policy.check_batch_size(size, self.num_examples)
        return settings

    def build_outline(self, spec: str) -> torch.nn.Module:
        """Return the registered model of that name without values, see
        :func:`fedws.training.model_building.build_outline`.

        Raises TaskError, also for one with more parameters than the policy allows.
        """
        with registry.raise_as_task_error():
            found = build_outline(spec)
        self.policy.check_model_size(spec, count_elements(found))
        return found

    def build_model(self, spec: str, tensors: Tensors) -> torch.nn.Module:
        """Return the registered model of that name, on the CPU, with a copy of ``tensors``. Raises TaskError.

        It is built only when names, dtypes and shapes of ``tensors`` are its own.
        """
        problem = find_mismatch(tensors, self.build_outline(spec).state_dict())
        if problem:
            raise TaskError(f"model {spec} is another one on {self.node}: {problem}")
        with registry.raise_as_task_error():
            module = build_complete_model(
                spec
            )  # its own weights are for nothing, but drawing them is seen by other nodes
        module.load_state_dict(dict(tensors))
        return module

    def build_eval_model(self, settings: EvalSettings, tensors: Tensors) -> torch.nn.Module:
        """Return the model to score, in the wrapper that the settings name. Raises TaskError."""
        module = self.build_model(settings.model, tensors)
        if not settings.wrapper:
            return module
        with registry.raise_as_task_error():
            wrapped: torch.nn.Module = registry.build_piece(
                "wrapper", Spec(settings.wrapper, None, settings.wrapper_options), module
            )
        return wrapped

    def load_state(self, request: TaskRequest) -> Tensors | None:
        """The state that ``request`` starts from, as kept when the request of round ``request.state_round`` was
        answered.

        None when it starts from none. Raises TaskError when the state is not here any more.
        """
        found = self.client_state.load_state(request)
        if found is not None:
            self.data_accessed.set()
        return found

    def raise_if_cancelled(self) -> None:
        """Raise TaskCancelled once the link is gone or the node ends; long tasks call it between batches."""
        if self.stop.is_set():
            raise TaskCancelled("told to stop")

    def open_resource(self, name: str, factory: Callable[[Path | None], Resource]) -> Resource:
        """Return what ``factory`` made of the subfolder ``name`` of :attr:`state_dir` when this was first called.

        No other resource uses that subfolder. Raises ValueError if another factory made the resource ``name``.
        """
        if name not in self.resources:
            self.resources[name] = factory, factory(None if self.state_dir is None else self.state_dir / name)
        maker, resource = self.resources[name]
        if maker != factory:
            raise ValueError(f"another factory made the resource {name!r}: {maker!r}; choose another name")
        return cast(Resource, resource)

    def save_state(self, request: TaskRequest, tensors: Tensors) -> None:
        """Keep ``tensors`` as this node's state after ``request``; a task with state does so before each result."""
        self.client_state.save_state(request, tensors)

    def declare_release(self, request: TaskRequest, release: FeatureRelease, on_sent: Callable[[], None]) -> None:
        """Say that the answer to ``request`` will hold features, before they are computed; ``on_sent``, when it leaves.

        Raises TaskError with the reason when the node's owner does not allow them.
        """
        self.policy.check_features(release)
        self.pending_releases[request.request_id] = release, on_sent

    def warn(self, code: str) -> None:
        """Let the next result carry the warning of that code."""
        if code not in self.warnings:
            self.warnings.append(code)

    def build_result(self, request: TaskRequest, metrics: Json, tensors: Tensors | None = None) -> TaskResult:
        """The good answer to ``request``, from this node and its samples; it takes the warnings with it."""
        if self.warnings:
            metrics = {**metrics, "warnings": list(self.warnings)}
            self.warnings.clear()
        return TaskResult(
            request_id=request.request_id,
            worker=self.node,
            round=request.round,
            num_examples=self.num_examples,
            metrics=metrics,
            tensors=tensors or {},
        )


def build_task_piece(kind: str, spec: str, *args: Any) -> Any:
    """Return what :func:`fedws.core.registry.build_piece` makes. Raises TaskError."""
    with registry.raise_as_task_error():
        return registry.build_piece(kind, spec, *args)
