"""The registry, which finds the pieces of fedws by kind and name, such as algorithms, tasks, models and data sets.

A piece has three possible sources:

* a file in the package of its kind, whose file name is the name of the piece,
* an installed entry point of the group ``fedws.KIND``,
* a local file that the owner of the node loads with ``--plugin``, and that calls ``register``.

A name from a peer is only looked up here. It can select a piece that this node already has, but cannot load code.

A *factory* creates the piece. Its positional arguments come from the run, and the protocol of each kind documents them.
Its keyword-only arguments are the options of the piece, with types and defaults. The user sets them with
``NAME:value,key=value``.
"""

import contextlib
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal, TypeVar, get_args

from pydantic import BaseModel

from fedws.core.error_text import find_user_location, summarize_error
from fedws.core.errors import FedwsError, PieceFailed, TaskError, UnknownName, UsageError
from fedws.core.spec import Spec, parse_options

PIECE_KINDS = {
    "algorithm": "algorithms",
    "task": "algorithms",
    "aggregator": "updates.aggregators",
    "sampler": "scheduling.samplers",
    "transport": "network.transports",
    "model": "models",
    "dataset": "data.datasets",
    "partition": "data.partitions",
    "loss": "training.losses",
    "optimizer": "training.optimizers",
    "slowdown": "simulation.slowdowns",
    "encoding": "split_learning.encodings",
    "store": "object_store.backends",
    "wrapper": "split_learning.wrappers",
    "sink": "recording.sinks",
}
"""All kinds of pieces, with the package under ``fedws`` that contains the shipped pieces, as a dotted name."""

ReleaseKind = Literal["update", "features", "metrics"]
RELEASE_KINDS: tuple[ReleaseKind, ...] = get_args(ReleaseKind)
"""Kinds of data that the results of a task can release."""


@dataclass(frozen=True)
class TaskTraits:
    """The declared properties of a task, by which the owner's policy decides before the task computes anything."""

    releases: ReleaseKind = "update"
    """Kind of data that the results of the task release.

    ``update``: tensors that are computed from many samples, such as a model or a gradient. ``features``: one record for
    each sample, or tensors that prepare such records. ``metrics``: no tensors.
    """
    settings: type[BaseModel] | None = None
    """Class that validates the settings of a request, such as ``TrainSettings``.

    It determines the minimum number of samples that a request uses.
    """
    explicit: bool = False
    """True if the policy must list the task by its full name; a pattern is not enough."""


DEFAULT_TASK_TRAITS = TaskTraits()
"""Traits of a task that declares none, which therefore counts as a task that releases updates."""

_pieces: dict[tuple[str, str], Any] = {}
T = TypeVar("T")


def register(
    kind: str,
    name: str,
    *,
    releases: ReleaseKind | None = None,
    settings: type[BaseModel] | None = None,
    explicit: bool = False,
) -> Callable[[T], T]:
    """Register the decorated factory, task or transport under ``name``.

    The name of a task is ``FILE.TASK``, such as ``fedavg.fit``. The name of any other shipped piece is its file name.
    ``releases``, ``settings`` and ``explicit`` are the ``TaskTraits`` of a task.

    Raises UnknownName for an unknown kind. Raises UsageError for a name that is already registered, for a task without
    ``releases``, and for any other piece with ``releases``.
    """
    if kind not in PIECE_KINDS:
        raise UnknownName("kind of piece", kind, PIECE_KINDS)
    if (kind == "task") != (releases is not None):
        problem = (
            f"a task requires releases=; choose from {', '.join(RELEASE_KINDS)}"
            if kind == "task"
            else "only a task accepts releases="
        )
        raise UsageError(f"register({kind!r}, {name!r}): {problem}")

    def add(piece: T) -> T:
        if releases is not None:
            task_traits(releases, settings=settings, explicit=explicit)(piece)
        known = _pieces.get((kind, name))
        shipped = _file_stem(name) in _list_shipped(kind) and _module_name(kind, name) != getattr(
            piece, "__module__", None
        )
        if shipped or (known is not None and _get_origin(known) != _get_origin(piece)):
            raise UsageError(f"{kind} {name!r} is already registered; choose another name")
        _pieces[kind, name] = piece
        return piece

    return add


def task_traits(
    releases: ReleaseKind, *, settings: type[BaseModel] | None = None, explicit: bool = False
) -> Callable[[T], T]:
    """Set the ``TaskTraits`` of the decorated task, which is not registered, such as an evaluator's task.

    Raises UsageError for an unknown kind of release.
    """
    if releases not in RELEASE_KINDS:
        raise UsageError(f"unknown kind of release {releases!r}; choose from {', '.join(RELEASE_KINDS)}")

    def mark(task: T) -> T:
        task.traits = TaskTraits(releases, settings, explicit)  # type: ignore[attr-defined]
        return task

    return mark


def get_task_traits(task: object) -> TaskTraits:
    """Return the traits of a task, or ``DEFAULT_TASK_TRAITS`` if it declares none."""
    found: TaskTraits = getattr(task, "traits", DEFAULT_TASK_TRAITS)
    return found


def find_piece(kind: str, name: str) -> Any:
    """Return a piece by its name, and import it if necessary.

    Raises UnknownName, and UsageError if an entry point cannot be loaded.
    """
    if (kind, name) not in _pieces:
        if _file_stem(name) in _list_shipped(kind):
            importlib.import_module(_module_name(kind, name))
        elif name in _load_entry_points(kind):
            entry = _load_entry_points(kind)[name]
            try:
                _pieces[kind, name] = entry.load()
            except Exception as error:
                raise UsageError(f"{kind} {name}: cannot load {entry.value}: {summarize_error(error)}") from error
    if (kind, name) not in _pieces:
        raise UnknownName(kind, name, list_pieces(kind), suggest_plugin=kind != "task")
    return _pieces[kind, name]


def list_pieces(kind: str) -> list[str]:
    """Return the sorted names of all pieces of a kind: shipped, installed and registered by plugins."""
    if kind == "task":  # one file can register several tasks, so the files must be imported
        for stem in _list_shipped(kind):
            importlib.import_module(_module_name(kind, stem))
        shipped: list[str] = []
    else:
        shipped = _list_shipped(kind)
    return sorted({*shipped, *_load_entry_points(kind), *(name for other, name in _pieces if other == kind)})


def is_shipped(kind: str, spec: str) -> bool:
    """Return whether the piece ships with fedws; any other piece is the user's own."""
    return _file_stem(Spec.parse(spec).name) in _list_shipped(kind)


def build_piece(kind: str, spec: str | Spec, *args: Any) -> Any:
    """Create a piece from its spec ``NAME[:value][,key=value...]`` and the positional arguments of its kind.

    Raises UnknownName for an unknown piece or option. Raises UsageError if the piece rejects the value of an option,
    and PieceFailed if the code of the piece fails.
    """
    parsed = Spec.parse(spec) if isinstance(spec, str) else spec
    factory = find_piece(kind, parsed.name)
    options = parse_options(kind, factory, parsed)
    try:
        return factory(*args, **options)
    except FedwsError:
        raise
    except Exception as error:
        text = spec if isinstance(spec, str) else parsed.name
        if isinstance(error, ValueError | TypeError) and not find_user_location(
            error
        ):  # a shipped piece rejects an option
            raise UsageError(f"{kind} {text}: {error}") from error
        raise PieceFailed(f"{kind} {text}: {summarize_error(error)}") from error


@contextlib.contextmanager
def raise_as_task_error() -> Iterator[None]:
    """Convert each error of fedws in a block to TaskError, whose text is sent to the coordinator.

    PieceFailed is not converted, because its text comes from the user's code and may reveal private data.
    """
    try:
        yield
    except (TaskError, PieceFailed):
        raise
    except FedwsError as error:
        raise TaskError(str(error)) from error


def _file_stem(name: str) -> str:
    return name.partition(".")[0]


def _module_name(kind: str, name: str) -> str:
    return f"fedws.{PIECE_KINDS[kind]}.{_file_stem(name)}"


def _get_origin(piece: Any) -> tuple[str, str]:
    """Return the source file, or else the module, and the qualified name of a piece.

    The result is the same if one file is imported both as a module and as a plugin, or if a notebook cell runs twice.
    """
    try:
        source = inspect.getsourcefile(inspect.unwrap(piece)) or ""
    except (TypeError, OSError):  # typed in at a prompt or in a notebook
        source = getattr(piece, "__module__", "")
    return source, getattr(piece, "__qualname__", type(piece).__qualname__)


@cache
def _list_shipped(kind: str) -> list[str]:
    package = importlib.import_module(f"fedws.{PIECE_KINDS[kind]}")
    return [module.name for module in pkgutil.iter_modules(package.__path__)]


@cache
def _load_entry_points(kind: str) -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=f"fedws.{kind}")}
