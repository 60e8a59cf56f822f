"""The context of a task: everything that the task may use on its node."""

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
    """A descriptor of ``data``, which sets ``data_accessed`` when a task reads ``data``.

    From then on, the text of an error may depend on the samples.
    """

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
    """The data, policy, state and folder that a task may use on its node."""

    node: str
    """Id of the node."""
    dataset: str
    """Name under which the node's data set is registered."""
    data: _DataField = _DataField()
    """Samples of the node. Once a task reads them, the coordinator gets only the text of a RequestError."""
    stop: threading.Event = field(default_factory=threading.Event)
    """Event that cancels the task; tasks use ``raise_if_cancelled``."""
    threads: int = 1
    """Maximum number of threads that evaluate batches at the same time."""
    client_state: ClientState = field(default_factory=ClientState)
    """State that tasks keep during this run; tasks use ``load_state`` and ``save_state``."""
    state_dir: Path | None = None
    """Folder for data that tasks keep on the disk over several runs; None if the node has no such folder.

    Each resource has its own subfolder.
    """
    resources: dict[str, tuple[Callable[[Path | None], object], object]] = field(default_factory=dict)
    """Resources that tasks keep open between requests, with their factories, by name.

    Tasks use ``open_resource``.
    """
    policy: Policy = field(default_factory=Policy)
    """Policy of the node's owner."""
    pending_releases: dict[str, tuple[FeatureRelease, Callable[[], None]]] = field(default_factory=dict)
    """Features that the answer to a request contains, by the request's id; tasks use ``declare_release``."""
    warnings: list[str] = field(default_factory=list)
    """Codes of the warnings for the next result, see ``fedws.training.task_warnings``; tasks use ``warn``."""
    data_accessed: threading.Event = field(default_factory=threading.Event)
    """Event that is set when a task reads the samples, or state computed from them, for its current request."""

    @property
    def num_examples(self) -> int:
        """Number of samples of the node, which it also sends in ``welcome``."""
        return len(self.__dict__["data"])

    def parse_settings(self, request: TaskRequest, settings_type: type[Settings]) -> Settings:
        """Return the settings of ``request`` as a ``settings_type``.

        Raises TaskError if they are not valid, name another data set, or exceed the batch size of the policy.
        """
        try:
            settings = settings_type.model_validate(request.settings)
        except ValidationError as error:
            raise TaskError(f"settings: {describe_setting_error(error)}") from None
        dataset = getattr(settings, "dataset", self.dataset)
        if dataset != self.dataset:
            raise TaskError(f"{self.node} has data set {self.dataset!r}, not {dataset!r}")
        for size in list_batch_sizes(settings):
            self.policy.check_batch_size(size, self.num_examples)
        return settings

    def build_outline(self, spec: str) -> torch.nn.Module:
        """Return the registered model of ``spec`` without values.

        See ``fedws.training.model_building.build_outline``. Raises TaskError, also if the model has more parameters
        than the policy allows.
        """
        with registry.raise_as_task_error():
            found = build_outline(spec)
        self.policy.check_model_size(spec, count_elements(found))
        return found

    def build_model(self, spec: str, tensors: Tensors) -> torch.nn.Module:
        """Return the registered model of ``spec``, on the CPU, with a copy of ``tensors``.

        The model is built only if the names, dtypes and shapes of ``tensors`` match those of the model. Raises
        TaskError.
        """
        problem = find_mismatch(tensors, self.build_outline(spec).state_dict())
        if problem:
            raise TaskError(f"model {spec!r} differs on {self.node}: {problem}")
        with registry.raise_as_task_error():
            # The weights drawn here are replaced. They are drawn in a seeded block, so that the draw does not change
            # the randomness of other nodes in this process.
            module = build_complete_model(spec)
        module.load_state_dict(dict(tensors))
        return module

    def build_eval_model(self, settings: EvalSettings, tensors: Tensors) -> torch.nn.Module:
        """Return the model to evaluate, in the wrapper that the settings name. Raises TaskError."""
        module = self.build_model(settings.model, tensors)
        if not settings.wrapper:
            return module
        with registry.raise_as_task_error():
            wrapped: torch.nn.Module = registry.build_piece(
                "wrapper", Spec(settings.wrapper, None, settings.wrapper_options), module
            )
        return wrapped

    def load_state(self, request: TaskRequest) -> Tensors | None:
        """Return the state that was saved for round ``request.state_round``, from which ``request`` starts.

        Return None if the request starts without a state. Raises TaskError if the state is lost.
        """
        found = self.client_state.load_state(request)
        if found is not None:
            self.data_accessed.set()
        return found

    def raise_if_cancelled(self) -> None:
        """Raise TaskCancelled if the link is lost or the node ends.

        Long tasks call this method between batches.
        """
        if self.stop.is_set():
            raise TaskCancelled("task cancelled")

    def open_resource(self, name: str, factory: Callable[[Path | None], Resource]) -> Resource:
        """Return the resource ``name``, which the first call creates with ``factory``.

        The argument of ``factory`` is the subfolder ``name`` of ``state_dir``, or None without a folder. No other
        resource uses that subfolder. Raises ValueError if another factory created the resource.
        """
        if name not in self.resources:
            self.resources[name] = factory, factory(None if self.state_dir is None else self.state_dir / name)
        creator, resource = self.resources[name]
        if creator != factory:
            raise ValueError(f"another factory created the resource {name!r}: {creator!r}; choose another name")
        return cast(Resource, resource)

    def save_state(self, request: TaskRequest, tensors: Tensors) -> None:
        """Save ``tensors`` as the node's state after ``request``; a task with state calls this before each result."""
        self.client_state.save_state(request, tensors)

    def declare_release(self, request: TaskRequest, release: FeatureRelease, on_sent: Callable[[], None]) -> None:
        """Declare, before features are computed, that the answer to ``request`` will contain them.

        ``on_sent`` is called when the answer leaves. Raises TaskError with the reason if the policy does not allow the
        features.
        """
        self.policy.check_features(release)
        self.pending_releases[request.request_id] = release, on_sent

    def warn(self, code: str) -> None:
        """Add the warning ``code`` to the next result."""
        if code not in self.warnings:
            self.warnings.append(code)

    def build_result(self, request: TaskRequest, metrics: Json, tensors: Tensors | None = None) -> TaskResult:
        """Return the result for ``request``, with the node's id and number of samples.

        Pending warnings move into its metrics.
        """
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
    """Return the piece that ``fedws.core.registry.build_piece`` builds. Raises TaskError."""
    with registry.raise_as_task_error():
        return registry.build_piece(kind, spec, *args)
