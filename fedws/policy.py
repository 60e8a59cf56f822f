"""What a node's owner allows: who may ask, for what, how often, and what may leave."""

import tomllib
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from fedws.errors import TaskError, UsageError
from fedws.messages import Order, Report
from fedws.plan import explain

Patterns = Annotated[tuple[str, ...], Field(strict=False)]


def _names(patterns: tuple[str, ...]) -> tuple[str, ...]:
    for pattern in patterns:
        if ":" in pattern or "," in pattern:
            raise ValueError(f"{pattern!r} has options; a model is allowed by its name, with any options")
    return patterns


class Policy(BaseModel):
    """The keys of ``policy.toml``; without a file, these values. Patterns are names in which ``*`` stands for any text.

    In any case only registered tasks and models can be asked for, and no task that ships sends a raw sample.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    coordinators: Patterns | None = None
    """Ids of coordinators, as in their certificates: needs mutual TLS. None: whoever knows the network key."""
    tasks: Patterns = ("*",)
    models: Annotated[Patterns, AfterValidator(_names)] = ("*",)
    epochs: Annotated[int, Field(ge=1)] | None = None
    """At most so many passes over the data in one order."""
    rounds_per_day: Annotated[int, Field(ge=1)] | None = None
    """Answers with tensors of this node that may leave in 24 hours, over all runs; one a round, if all goes well.

    They are counted one by one, since it is the coordinator that numbers the rounds.
    """
    samples: Annotated[int, Field(ge=1)] = 1
    """At least so many samples behind every number that leaves."""
    updates: bool = True
    """Whether plain tensors, as a trained model, may leave."""

    def before(self, order: Order, held: int, rounds: int) -> None:
        """Hold an order against it; ``rounds`` have left in the last day. Raises TaskError with the reason."""
        model, epochs = _text(order.settings.get("model")), order.settings.get("epochs", 1)
        if not _any(self.tasks, order.task):
            raise TaskError(f"the policy here does not allow the task {order.task[:64]}")
        if self.models != ("*",) and not _any(self.models, model.partition(":")[0].partition(",")[0].strip()):
            raise TaskError(f"the policy here does not allow the model {model[:64] or 'of an order that names none'}")
        if self.epochs is not None and not (isinstance(epochs, int) and epochs <= self.epochs):
            raise TaskError(f"the policy here allows {self.epochs} epochs in an order, not {str(epochs)[:64]}")
        if held < self.samples:
            raise TaskError(f"the policy here wants {self.samples} samples behind a number; there are {held}")
        if not self.updates and order.task.endswith(".fit"):
            raise TaskError("the policy here lets no model updates leave")
        if self.rounds_per_day is not None and rounds >= self.rounds_per_day:
            raise TaskError(f"the policy here allows {self.rounds_per_day} rounds a day, and they are used up")

    def after(self, report: Report) -> None:
        """Hold a report against it, before it leaves. Raises TaskError with the reason."""
        if report.tensors and not self.updates:
            raise TaskError("the policy here lets no plain tensors leave")
        behind = report.metrics.get("samples", report.samples)
        if self.samples > 1 and not (isinstance(behind, int) and behind >= self.samples):
            raise TaskError(f"the policy here wants {self.samples} samples behind a number; there were {behind}")

    def admits(self, coordinator: str) -> bool:
        """Whether the coordinator of that id, which its certificate shows, may ask at all."""
        return self.coordinators is None or (coordinator != "" and _any(self.coordinators, coordinator))


def load(path: Path) -> Policy:
    """The policy in a file. Raises UsageError."""
    try:
        return Policy.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise UsageError(f"--policy {path}: {error.strerror or error}") from None
    except ValidationError as error:
        raise UsageError(f"--policy {path}: {explain(error)}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"--policy {path}: {error}") from None


def _any(patterns: tuple[str, ...], name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
