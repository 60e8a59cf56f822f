"""Finds the pieces of fedws by name: algorithms, tasks, models, data sets and the rest.

A piece is one of three: a file that ships in the kind's folder (the file's name is the piece's name), an
installed entry point of the group ``fedws.KIND``, or something registered by a local file that this node's owner
named with ``--plugin``. Nothing is enumerated by hand. A name that comes from a peer is only ever looked up here;
it can select what this side already has, never load anything else.

A piece is made by a *factory*. It takes what the run gives it as positional arguments, which the protocol of each kind
lists, and its own options as keyword-only arguments with types and defaults; ``NAME:value,key=value`` gives those.
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
"""Every kind of piece, and the package under ``fedws`` that its shipped files are in, as a dotted name."""

ReleaseKind = Literal["update", "features", "metrics"]
RELEASE_KINDS: tuple[ReleaseKind, ...] = get_args(ReleaseKind)
"""What a task's results may release."""


@dataclass(frozen=True)
class TaskTraits:
    """What a task states of itself; the owner's policy decides by it before the task computes anything."""

    releases: ReleaseKind = "update"
    """Kind of what its results release.

    ``update`` (tensors made from many samples, as a model or a gradient), ``features`` (a record for each sample, and
    what prepares such records) or ``metrics`` (no tensors).
    """
    settings: type[BaseModel] | None = None
    """Class that its settings are checked against, as ``TrainSettings``; from it follows how few samples a request may
    use."""
    explicit: bool = False
    """Whether the policy must name the task, where for others a pattern is enough."""


DEFAULT_TASK_TRAITS = TaskTraits()
"""Traits of a task that states nothing: it is taken for one that releases updates."""

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
    """Decorator: make the decorated factory (or task, or transport) known as ``name``.

    The name of a task is ``FILE.TASK``, as ``fedavg.fit``; any other shipped piece is called as its file. A task is
    registered with what its results release, and the rest of its :class:`TaskTraits`.
    Raises UsageError for an unknown kind, for a name that is taken, and for a task without ``releases``.
    """
    if kind not in PIECE_KINDS:
        raise UnknownName("kind of piece", kind, PIECE_KINDS)
    if (kind == "task") != (releases is not None):
        what = f"needs releases=: one of {', '.join(RELEASE_KINDS)}" if kind == "task" else "releases nothing"
        raise UsageError(f"register({kind!r}, {name!r}): a {kind} {what}")

    def keep(piece: T) -> T:
        if releases is not None:
            task_traits(releases, settings=settings, explicit=explicit)(piece)
        known = _pieces.get((kind, name))
        shipped = _file_stem(name) in _list_shipped(kind) and _module_name(kind, name) != getattr(
            piece, "__module__", None
        )
        if shipped or (known is not None and _get_origin(known) != _get_origin(piece)):
            raise UsageError(f"there is a {kind} called {name} already")
        _pieces[kind, name] = piece
        return piece

    return keep


def task_traits(
    releases: ReleaseKind, *, settings: type[BaseModel] | None = None, explicit: bool = False
) -> Callable[[T], T]:
    """Decorator for a task that is not registered, as an evaluator's: state its :class:`TaskTraits`."""
    if releases not in RELEASE_KINDS:
        raise UsageError(f"a task releases one of {', '.join(RELEASE_KINDS)}, not {releases!r}")

    def mark(task: T) -> T:
        task.traits = TaskTraits(releases, settings, explicit)  # type: ignore[attr-defined]
        return task

    return mark


def get_task_traits(task: object) -> TaskTraits:
    """Return what a task states of itself, or :data:`DEFAULT_TASK_TRAITS`."""
    found: TaskTraits = getattr(task, "traits", DEFAULT_TASK_TRAITS)
    return found


def find_piece(kind: str, name: str) -> Any:
    """The piece of that name, imported if need be. Raises UnknownName, which names the nearest."""
    if (kind, name) not in _pieces:
        if _file_stem(name) in _list_shipped(kind):
            importlib.import_module(_module_name(kind, name))
        elif name in _load_entry_points(kind):
            entry = _load_entry_points(kind)[name]
            try:
                _pieces[kind, name] = entry.load()
            except Exception as error:
                raise UsageError(f"{kind} {name}: {entry.value} cannot be loaded: {summarize_error(error)}") from error
    if (kind, name) not in _pieces:
        raise UnknownName(kind, name, list_pieces(kind), suggest_plugin=kind != "task")
    return _pieces[kind, name]


def list_pieces(kind: str) -> list[str]:
    """The names of all pieces of a kind, sorted: shipped, installed and plugged in."""
    if kind == "task":  # several to a file, so the files must be read
        for stem in _list_shipped(kind):
            importlib.import_module(_module_name(kind, stem))
        shipped: list[str] = []
    else:
        shipped = _list_shipped(kind)
    return sorted({*shipped, *_load_entry_points(kind), *(name for other, name in _pieces if other == kind)})


def is_shipped(kind: str, spec: str) -> bool:
    """Return whether the piece comes with fedws; any other one is the user's own."""
    return _file_stem(Spec.parse(spec).name) in _list_shipped(kind)


def build_piece(kind: str, spec: str | Spec, *args: Any) -> Any:
    """Make a piece from ``NAME[:value][,key=value...]``, or its parts, and what the run gives it.

    Raises UnknownName, UsageError when an option is unknown or has a value that the piece rejects, and PieceFailed when
    the piece's own code fails.
    """
    wanted = Spec.parse(spec) if isinstance(spec, str) else spec
    factory = find_piece(kind, wanted.name)
    chosen = parse_options(kind, factory, wanted)
    try:
        return factory(*args, **chosen)
    except FedwsError:
        raise
    except Exception as error:
        text = spec if isinstance(spec, str) else wanted.name
        if isinstance(error, ValueError | TypeError) and not find_user_location(
            error
        ):  # a shipped piece rejects an option
            raise UsageError(f"{kind} {text}: {error}") from error
        raise PieceFailed(f"{kind} {text}: {summarize_error(error)}") from error


@contextlib.contextmanager
def raise_as_task_error() -> Iterator[None]:
    """Raise TaskError, whose text goes to the coordinator, for a piece of a request that cannot be made.

    PieceFailed passes: its text is of the user's own code, and may tell of the data.
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
    """Where a piece was written; two imports of one file, as module and as plugin, agree, and so do a cell's runs."""
    try:
        place = inspect.getsourcefile(inspect.unwrap(piece)) or ""
    except (TypeError, OSError):  # typed in at a prompt or in a notebook
        place = getattr(piece, "__module__", "")
    return place, getattr(piece, "__qualname__", type(piece).__qualname__)


@cache
def _list_shipped(kind: str) -> list[str]:
    package = importlib.import_module(f"fedws.{PIECE_KINDS[kind]}")
    return [module.name for module in pkgutil.iter_modules(package.__path__)]


@cache
def _load_entry_points(kind: str) -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=f"fedws.{kind}")}
