"""What a node's owner allows: who may ask, for what, how often, and what may leave."""

import tomllib
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from fedws.core.durations import format_duration
from fedws.core.errors import RetryLater, TaskError, UsageError
from fedws.core.registry import DEFAULT_TASK_TRAITS, ReleaseKind, TaskTraits
from fedws.core.validation import describe_setting_error
from fedws.privacy.feature_release import FeatureRelease
from fedws.privacy.min_samples import min_distinct_samples
from fedws.privacy.usage_counts import COUNTING_PERIOD
from fedws.protocol.messages import TaskRequest, TaskResult

PositiveFloat = Annotated[float, Field(gt=0)]
NamePatterns = Annotated[
    tuple[str, ...], Field(strict=False), BeforeValidator(lambda given: (given,) if isinstance(given, str) else given)
]


def _check_model_patterns(patterns: tuple[str, ...]) -> tuple[str, ...]:
    for pattern in patterns:
        if ":" in pattern or "," in pattern:
            raise ValueError(f"{pattern!r} has options; a model is allowed by its name, with any options")
    return patterns


class Policy(BaseModel):
    """The keys of ``policy.toml``; without a file, these values. Patterns are names in which ``*`` stands for any text.

    In any case only registered tasks and models can be asked for, and no task that ships sends a raw sample.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    coordinators: NamePatterns | None = None
    """Ids of coordinators, as in their certificates: needs mutual TLS. None: whoever knows the network key."""
    tasks: NamePatterns = ("*",)
    models: Annotated[NamePatterns, AfterValidator(_check_model_patterns)] = ("*",)
    max_epochs: Annotated[int, Field(ge=1)] | None = None
    """At most so many passes over the data in one request."""
    max_parameters: Annotated[int, Field(ge=1)] = 100_000_000
    """Most elements of a model's parameters and buffers together."""
    max_batch_size: Annotated[int, Field(ge=1)] = 1024
    """Most samples in a batch that a model is trained on."""
    max_answers_per_day: Annotated[int, Field(ge=1)] | None = None
    """Answers of this node that depend on its samples, in 24 hours, over all runs; one a round, if all goes well.

    Updates, evaluations and failures of tasks that had read samples are counted one by one, since the coordinator
    numbers the rounds. Features are sent in many answers but noised once a run, so those of a run count once.
    """
    max_uploads: Annotated[int, Field(ge=1)] = 1
    """Uploads of features, each of one run and with noise of its own, that may leave for one coordinator, ever.

    They are counted for each data set. Coordinators are told apart by their certificates, else all are one.
    """
    min_samples: Annotated[int, Field(ge=0)] = 1
    """At least so many samples behind every number that leaves."""
    allow_updates: bool = True
    """Whether plain tensors, as a trained model, may leave."""
    encodings: NamePatterns = ("bits", "sue", "oue")
    """Encodings in which features may leave. By default those of one noisy bit; any other must be named."""
    max_epsilon: PositiveFloat = 8.0
    """At most so much for each feature value, where the encoding has noise; one without is named in ``encodings``."""
    max_delta: Annotated[float, Field(ge=0, lt=1)] = 1e-5
    """At most so much for all values of a record."""
    labels: Literal["randomised", "clear"] = "randomised"
    """Whether labels that leave with features must have been randomised."""
    max_label_epsilon: PositiveFloat = 8.0
    """At most so much for each randomised label."""

    def check_request(
        self,
        request: TaskRequest,
        num_examples: int,
        answer_ages: Mapping[str, float],
        traits: TaskTraits = DEFAULT_TASK_TRAITS,
        *,
        num_uploads: int = 0,
    ) -> None:
        """Check a request before anything is computed. Raises TaskError with the reason, as RetryLater.

        ``num_examples`` is the number of samples. ``answer_ages`` is what counts for the day's limit (see
        :meth:`fedws.privacy.audit_log.AuditLog.answer_ages`), and ``num_uploads`` the number of uploads that left: both
        without this run's own.
        """
        self._check_names(request, traits)
        epochs = request.settings.get("epochs", 1)
        if self.max_epochs is not None and not (isinstance(epochs, int) and epochs <= self.max_epochs):
            raise TaskError(f"the policy here allows {self.max_epochs} epochs a request, not {str(epochs)[:64]}")
        if num_examples < self.min_samples:
            raise TaskError(
                f"the policy here requires {self.min_samples} samples behind a number; there are {num_examples}"
            )
        if not self.allow_updates and traits.releases == "update":
            raise TaskError("the policy here lets no model updates leave")
        if self.min_samples > 1:
            self._check_min_samples(request, num_examples, traits)
        self.check_usage(answer_ages, traits, num_uploads=num_uploads)

    def check_usage(self, answer_ages: Mapping[str, float], traits: TaskTraits, *, num_uploads: int = 0) -> None:
        """Check what has left against the limits in number, as :meth:`check_request`. Raises TaskError, as
        RetryLater."""
        if traits.releases == "features" and num_uploads >= self.max_uploads:
            what = f"the uploads that the policy here allows for a coordinator, {self.max_uploads}, have left"
            why = "one more has new noise on the same samples, and could be averaged with them"
            raise TaskError(f"{what}: {why}; to allow it, set max_uploads = {num_uploads + 1} in the node's --policy")
        self._check_daily_limit(answer_ages)

    def _check_names(self, request: TaskRequest, traits: TaskTraits) -> None:
        model = _text_or_empty(request.settings.get("model"))
        if not _matches_any(self.tasks, request.task):
            raise TaskError(f"the policy here does not allow the task {request.task[:64]}")
        if traits.explicit and request.task not in self.tasks:
            name = request.task[:64]
            what = f"the policy here does not name the task {name}, which no pattern allows"
            raise TaskError(f'{what}; to allow it, set tasks = ["*", "{name}"] in the node\'s --policy')
        if self.models != ("*",) and not _matches_any(self.models, model.partition(":")[0].partition(",")[0].strip()):
            raise TaskError(f"the policy here does not allow the model {model[:64] or 'of a request that names none'}")

    def _check_min_samples(self, request: TaskRequest, num_examples: int, traits: TaskTraits) -> None:
        """Raise TaskError where a number could be of fewer samples than ``min_samples``."""
        what = f"the policy here requires {self.min_samples} samples behind a number"
        if traits.releases == "features":
            raise TaskError(f"{what}; a record of features is of one sample")
        fewest = (
            min_distinct_samples(request.settings, num_examples, traits.settings)
            if traits.releases == "update"
            else num_examples
        )
        if fewest < self.min_samples:
            how = "use a larger --batch-size, or more batches"
            raise TaskError(f"{what}; those of this request may be of {fewest}: {how}")

    def check_model_size(self, model: str, num_values: int) -> None:
        """Check a model's number of parameters and buffers' elements before it is built. Raises TaskError."""
        if num_values > self.max_parameters:
            allowed = f"the policy here allows {self.max_parameters:,} parameters of a model"
            what = f"{allowed}, and {model[:64]} has {num_values:,}"
            raise TaskError(f"{what}; the node's owner can allow more: max_parameters in its policy")

    def check_batch_size(self, batch_size: int, num_examples: int) -> None:
        """Check the size of a training's batches on ``num_examples`` samples before any is made. Raises TaskError."""
        largest = min(batch_size, num_examples)
        if largest > self.max_batch_size:
            what = f"the policy here allows {self.max_batch_size:,} samples in a batch, not {largest:,}"
            raise TaskError(
                f"{what}; use a smaller --batch-size, or let the node's owner set max_batch_size in its policy"
            )

    def _check_daily_limit(self, answer_ages: Mapping[str, float]) -> None:
        most = self.max_answers_per_day
        if most is not None and len(answer_ages) >= most:
            oldest = sorted(answer_ages.values(), reverse=True)  # so many of them must be older than a day
            wait = max(0.0, COUNTING_PERIOD.total_seconds() - oldest[len(answer_ages) - most])
            what = f"the answers a day that the policy here allows, {most}, are used up"
            raise RetryLater(f"{what}; the next one is allowed in {format_duration(wait)}", wait)

    def check_features(self, feature_release: FeatureRelease) -> None:
        """Check features before they are computed. Raises TaskError with the reason."""
        if not _matches_any(self.encodings, feature_release.encoding):
            allowed = ", ".join(self.encodings) or "none"
            what = f"features encoded as {feature_release.encoding[:64]}; its key encodings: {allowed}"
            raise TaskError(f"the policy here does not allow {what}")
        if feature_release.label_epsilon is None and self.labels != "clear":
            raise TaskError("the policy here lets no clear labels leave; its key labels: randomised")
        for what, most, wanted in (
            ("epsilon", self.max_epsilon, feature_release.epsilon),
            ("label_epsilon", self.max_label_epsilon, feature_release.label_epsilon),
            ("delta", self.max_delta, feature_release.num_features * feature_release.delta),
        ):
            if wanted is not None and wanted > most:
                raise TaskError(f"the policy here allows {what} up to {most:g}, not {wanted:g}")
        if self.min_samples > 1:
            what = f"the policy here requires {self.min_samples} samples behind a number"
            raise TaskError(f"{what}; a record of features is of one sample")

    def check_result(
        self, result: TaskResult, feature_release: FeatureRelease | None = None, releases: ReleaseKind = "update"
    ) -> None:
        """Check a result before it leaves, as a second defence; ``feature_release`` are what it holds.

        Raises TaskError, also when the result holds what its task is not registered to release.
        """
        if result.tensors and (releases == "metrics" or (releases == "features" and feature_release is None)):
            raise TaskError(f"the task is registered to release {releases}, and its result holds other tensors")
        if feature_release is not None and releases != "features":
            raise TaskError(f"the task is registered to release {releases}, and its result holds features")
        if result.tensors and feature_release is None and not self.allow_updates:
            raise TaskError("the policy here lets no plain tensors leave")
        behind = result.metrics.get("num_examples", result.num_examples)
        if self.min_samples > 1 and not (isinstance(behind, int) and behind >= self.min_samples):
            raise TaskError(f"the policy here requires {self.min_samples} samples behind a number; there were {behind}")

    def allows_coordinator(self, coordinator: str) -> bool:
        """Whether the coordinator of that id, which its certificate shows, may ask at all."""
        return self.coordinators is None or (coordinator != "" and _matches_any(self.coordinators, coordinator))


def load_policy(path: Path) -> Policy:
    """The policy in a file. Raises UsageError."""
    try:
        return Policy.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise UsageError(f"--policy {path}: {error.strerror or error}") from None
    except ValidationError as error:
        raise UsageError(f"--policy {path}: {describe_setting_error(error)}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"--policy {path}: {error}") from None


def _matches_any(patterns: tuple[str, ...], name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _text_or_empty(value: Any) -> str:
    return value if isinstance(value, str) else ""
