"""What a node's owner allows: who may ask, for what, how often, and what may leave."""

import tomllib
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from fedws.core.durations import duration
from fedws.core.errors import TaskError, TryLater, UsageError
from fedws.core.plan import explain
from fedws.core.registry import UNSTATED, Released, Traits
from fedws.privacy.min_samples import least
from fedws.privacy.spending import Features
from fedws.protocol.messages import Order, Report

DAY = 24 * 3600.0
"""Seconds for which an answer counts."""
Limit = Annotated[float, Field(gt=0)]
Patterns = Annotated[
    tuple[str, ...], Field(strict=False), BeforeValidator(lambda given: (given,) if isinstance(given, str) else given)
]


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
    parameters: Annotated[int, Field(ge=1)] = 100_000_000
    """Most elements of a model's parameters and buffers together."""
    batch_size: Annotated[int, Field(ge=1)] = 1024
    """Most samples in a batch that a model is trained on."""
    rounds_per_day: Annotated[int, Field(ge=1)] | None = None
    """Answers of this node that depend on its samples, in 24 hours, over all runs; one a round, if all goes well.

    Updates, scores and failures of tasks that had read samples are counted one by one, since it is the coordinator that
    numbers the rounds. Features are sent in many answers but noised once a run, so those of a run count once.
    """
    uploads: Annotated[int, Field(ge=1)] = 1
    """Uploads of features, each of one run and with noise of its own, that may leave for one coordinator, ever.

    They are counted for each data set. Coordinators are told apart by their certificates, else all are one.
    """
    samples: Annotated[int, Field(ge=0)] = 1
    """At least so many samples behind every number that leaves."""
    updates: bool = True
    """Whether plain tensors, as a trained model, may leave."""
    features: Patterns = ("bits", "sue", "oue")
    """Encodings in which features may leave. By default those of one noisy bit; any other must be named."""
    epsilon: Limit = 8.0
    """At most so much for each feature value, where the encoding has noise; one without is named in ``features``."""
    delta: Annotated[float, Field(ge=0, lt=1)] = 1e-5
    """At most so much for all values of a record."""
    labels: Literal["randomised", "clear"] = "randomised"
    """Whether labels that leave with features must have been randomised."""
    label_epsilon: Limit = 8.0
    """At most so much for each randomised label."""

    def before(
        self, order: Order, held: int, left: Mapping[str, float], task: Traits = UNSTATED, *, uploads: int = 0
    ) -> None:
        """Check an order before anything is computed. Raises TaskError with the reason, as TryLater.

        ``held`` is the number of samples. ``left`` is what counts for the day's limit (see
        :meth:`fedws.privacy.audit_log.Audit.left`), and ``uploads`` the number of uploads that left: both without this
        run's own.
        """
        self._name(order, task)
        epochs = order.settings.get("epochs", 1)
        if self.epochs is not None and not (isinstance(epochs, int) and epochs <= self.epochs):
            raise TaskError(f"the policy here allows {self.epochs} epochs a request, not {str(epochs)[:64]}")
        if held < self.samples:
            raise TaskError(f"the policy here requires {self.samples} samples behind a number; there are {held}")
        if not self.updates and task.releases == "update":
            raise TaskError("the policy here lets no model updates leave")
        if self.samples > 1:
            self._fewest(order, held, task)
        self.counted(left, task, uploads=uploads)

    def counted(self, left: Mapping[str, float], task: Traits, *, uploads: int = 0) -> None:
        """Check what has left against the limits in number, as :meth:`before`. Raises TaskError, as TryLater."""
        if task.releases == "features" and uploads >= self.uploads:
            what = f"the uploads that the policy here allows for a coordinator, {self.uploads}, have left"
            why = "one more has new noise on the same samples, and could be averaged with them"
            raise TaskError(f"{what}: {why}; to allow it, set uploads = {uploads + 1} in the node's --policy")
        self._count(left)

    def _name(self, order: Order, task: Traits) -> None:
        model = _text(order.settings.get("model"))
        if not _any(self.tasks, order.task):
            raise TaskError(f"the policy here does not allow the task {order.task[:64]}")
        if task.explicit and order.task not in self.tasks:
            name = order.task[:64]
            what = f"the policy here does not name the task {name}, which no pattern allows"
            raise TaskError(f'{what}; to allow it, set tasks = ["*", "{name}"] in the node\'s --policy')
        if self.models != ("*",) and not _any(self.models, model.partition(":")[0].partition(",")[0].strip()):
            raise TaskError(f"the policy here does not allow the model {model[:64] or 'of an order that names none'}")

    def _fewest(self, order: Order, held: int, task: Traits) -> None:
        """Raise TaskError where a number could be of fewer samples than ``samples``."""
        what = f"the policy here requires {self.samples} samples behind a number"
        if task.releases == "features":
            raise TaskError(f"{what}; a record of features is of one sample")
        fewest = least(order.settings, held, task.settings) if task.releases == "update" else held
        if fewest < self.samples:
            how = "use a larger --batch-size, or more batches"
            raise TaskError(f"{what}; those of this order may be of {fewest}: {how}")

    def sized(self, model: str, values: int) -> None:
        """Check a model's number of parameters and buffers' elements before it is built. Raises TaskError."""
        if values > self.parameters:
            what = f"the policy here allows {self.parameters:,} parameters of a model, and {model[:64]} has {values:,}"
            raise TaskError(f"{what}; the node's owner can allow more: parameters in its policy")

    def batched(self, size: int, held: int) -> None:
        """Check the size of a training's batches on ``held`` samples before any is made. Raises TaskError."""
        largest = min(size, held)
        if largest > self.batch_size:
            what = f"the policy here allows {self.batch_size:,} samples in a batch, not {largest:,}"
            raise TaskError(f"{what}; use a smaller --batch-size, or let the node's owner set batch_size in its policy")

    def _count(self, left: Mapping[str, float]) -> None:
        most = self.rounds_per_day
        if most is not None and len(left) >= most:
            oldest = sorted(left.values(), reverse=True)  # so many of them must be older than a day
            wait = max(0.0, DAY - oldest[len(left) - most])
            what = f"the rounds a day that the policy here allows, {most}, are used up"
            raise TryLater(f"{what}; the next one is allowed in {duration(wait)}", wait)

    def allow(self, features: Features) -> None:
        """Hold features against it, before they are computed. Raises TaskError with the reason."""
        if not _any(self.features, features.encoding):
            allowed = ", ".join(self.features) or "none"
            what = f"features encoded as {features.encoding[:64]}; its key features: {allowed}"
            raise TaskError(f"the policy here does not allow {what}")
        if features.label_epsilon is None and self.labels != "clear":
            raise TaskError("the policy here lets no clear labels leave; its key labels: randomised")
        for what, most, wanted in (
            ("epsilon", self.epsilon, features.epsilon),
            ("label_epsilon", self.label_epsilon, features.label_epsilon),
            ("delta", self.delta, features.values * features.delta),
        ):
            if wanted is not None and wanted > most:
                raise TaskError(f"the policy here allows {what} up to {most:g}, not {wanted:g}")
        if self.samples > 1:
            what = f"the policy here requires {self.samples} samples behind a number"
            raise TaskError(f"{what}; a record of features is of one sample")

    def after(self, report: Report, features: Features | None = None, releases: Released = "update") -> None:
        """Check a report before it leaves, as a second defence; ``features`` are what it holds.

        Raises TaskError, also when the report holds what its task is not registered to release.
        """
        if report.tensors and (releases == "metrics" or (releases == "features" and features is None)):
            raise TaskError(f"the task is registered to release {releases}, and its report holds other tensors")
        if features is not None and releases != "features":
            raise TaskError(f"the task is registered to release {releases}, and its report holds features")
        if report.tensors and features is None and not self.updates:
            raise TaskError("the policy here lets no plain tensors leave")
        behind = report.metrics.get("samples", report.samples)
        if self.samples > 1 and not (isinstance(behind, int) and behind >= self.samples):
            raise TaskError(f"the policy here requires {self.samples} samples behind a number; there were {behind}")

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
