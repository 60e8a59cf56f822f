"""The policy of a node's owner: the coordinators, tasks, amounts and released data that the owner allows."""

import tomllib
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from fedws.core.durations import format_duration
from fedws.core.errors import RetryLater, TaskError, UsageError
from fedws.core.registry import DEFAULT_TASK_TRAITS, ReleaseKind, TaskTraits
from fedws.core.text_files import read_text
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
            raise ValueError(f"model pattern {pattern!r} has options; use the name alone, which allows any options")
    return patterns


class Policy(BaseModel):
    """The rules of a node's owner, with the keys of ``policy.toml``.

    A node without a policy file uses the defaults. In a pattern of names, ``*`` matches any text. Every policy limits
    requests to registered tasks and models, and no task that ships with fedws sends a raw sample.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    coordinators: NamePatterns | None = None
    """Patterns of coordinator ids, which are read from certificates and so require mutual TLS.

    None allows every coordinator that has the network key.
    """
    tasks: NamePatterns = ("*",)
    """Patterns of the allowed tasks."""
    models: Annotated[NamePatterns, AfterValidator(_check_model_patterns)] = ("*",)
    """Patterns of the allowed models, without options."""
    max_epochs: Annotated[int, Field(ge=1)] | None = None
    """Maximum number of passes over the data in one request; None for no limit."""
    max_parameters: Annotated[int, Field(ge=1)] = 100_000_000
    """Maximum number of elements of a model's parameters and buffers together."""
    max_batch_size: Annotated[int, Field(ge=1)] = 1024
    """Maximum number of samples in a training batch."""
    max_answers_per_day: Annotated[int, Field(ge=1)] | None = None
    """Maximum number of answers that depend on this node's samples, in 24 hours over all runs; None for no limit.

    A run without failures has one such answer a round. Updates, evaluations and failures of tasks that read samples
    are counted one by one, since the coordinator numbers the rounds. Features are sent in many answers, but noise is
    added once a run, so the features of a run count once.
    """
    max_uploads: Annotated[int, Field(ge=1)] = 1
    """Maximum number of feature uploads that may ever leave for one coordinator.

    Each upload belongs to one run and has its own noise. Uploads are counted for each data set. Certificates identify
    the coordinators; all coordinators without one count as the same coordinator.
    """
    min_samples: Annotated[int, Field(ge=0)] = 1
    """Minimum number of samples from which each released value is computed."""
    allow_updates: bool = True
    """True if plain tensors, such as a trained model, may leave."""
    encodings: NamePatterns = ("bits", "sue", "oue")
    """Patterns of the encodings in which features may leave; by default those that send noisy bits."""
    max_epsilon: PositiveFloat = 8.0
    """Maximum epsilon for each feature value.

    It does not apply to encodings without noise, which must be listed in ``encodings``.
    """
    max_delta: Annotated[float, Field(ge=0, lt=1)] = 1e-5
    """Maximum delta for all values of a record together."""
    labels: Literal["randomised", "clear"] = "randomised"
    """Form of the labels that leave with features; ``clear`` also allows randomised labels."""
    max_label_epsilon: PositiveFloat = 8.0
    """Maximum epsilon for each randomised label."""

    def check_request(
        self,
        request: TaskRequest,
        num_examples: int,
        answer_ages: Mapping[str, float],
        traits: TaskTraits = DEFAULT_TASK_TRAITS,
        *,
        num_uploads: int = 0,
    ) -> None:
        """Check a request before anything is computed.

        ``num_examples`` is the number of samples of the node. ``answer_ages`` are the ages of the answers that count
        for the daily limit, see ``fedws.privacy.audit_log.AuditLog.answer_ages``. ``num_uploads`` is the number of
        uploads that left. Both exclude the upload of this run. Raises TaskError with the reason; it is RetryLater for
        the daily limit.
        """
        self._check_names(request, traits)
        epochs = request.settings.get("epochs", 1)
        if self.max_epochs is not None and not (isinstance(epochs, int) and epochs <= self.max_epochs):
            raise TaskError(f"policy: {str(epochs)[:64]} epochs requested, at most {self.max_epochs} allowed")
        if num_examples < self.min_samples:
            what = f"policy: each released value requires at least {self.min_samples} samples"
            raise TaskError(f"{what}, this node has {num_examples}")
        if not self.allow_updates and traits.releases == "update":
            raise TaskError("policy: model updates are not allowed")
        if self.min_samples > 1:
            self._check_min_samples(request, num_examples, traits)
        self.check_usage(answer_ages, traits, num_uploads=num_uploads)

    def check_usage(self, answer_ages: Mapping[str, float], traits: TaskTraits, *, num_uploads: int = 0) -> None:
        """Check the number of uploads and answers that left against the limits.

        The arguments are those of ``check_request``. Raises TaskError; it is RetryLater for the daily limit.
        """
        if traits.releases == "features" and num_uploads >= self.max_uploads:
            what = f"policy: the limit of {self.max_uploads} uploads for this coordinator is reached"
            why = "another one has new noise on the same samples, so averaging them weakens the noise"
            raise TaskError(f"{what}: {why}; to allow it, set max_uploads = {num_uploads + 1} in the node's --policy")
        self._check_daily_limit(answer_ages)

    def _check_names(self, request: TaskRequest, traits: TaskTraits) -> None:
        model = _text_or_empty(request.settings.get("model"))
        if not _matches_any(self.tasks, request.task):
            raise TaskError(f"policy: task {request.task[:64]!r} is not allowed")
        if traits.explicit and request.task not in self.tasks:
            name = request.task[:64]
            what = f"policy: task {name!r} is not allowed by patterns, only by its exact name"
            raise TaskError(f'{what}; to allow it, set tasks = ["*", "{name}"] in the node\'s --policy')
        if self.models != ("*",) and not _matches_any(self.models, model.partition(":")[0].partition(",")[0].strip()):
            what = f"model {model[:64]!r}" if model else "a request without a model"
            raise TaskError(f"policy: {what} is not allowed")

    def _check_min_samples(self, request: TaskRequest, num_examples: int, traits: TaskTraits) -> None:
        """Raise TaskError if a released value could be computed from fewer samples than ``min_samples``."""
        what = f"policy: each released value requires at least {self.min_samples} samples"
        if traits.releases == "features":
            raise TaskError(f"{what}, a record of features has one")
        fewest = (
            min_distinct_samples(request.settings, num_examples, traits.settings)
            if traits.releases == "update"
            else num_examples
        )
        if fewest < self.min_samples:
            how = "use a larger --batch-size or more batches"
            raise TaskError(f"{what}, this request may use only {fewest}; {how}")

    def check_model_size(self, model: str, num_values: int) -> None:
        """Check the number of elements of a model's parameters and buffers before it is built. Raises TaskError."""
        if num_values > self.max_parameters:
            what = (
                f"policy: model {model[:64]!r} has {num_values:,} parameters, at most {self.max_parameters:,} allowed"
            )
            raise TaskError(f"{what}; use a smaller model, or raise max_parameters in the node's policy")

    def check_batch_size(self, batch_size: int, num_examples: int) -> None:
        """Check the size of training batches, of ``num_examples`` samples in all, before any is made.

        Raises TaskError.
        """
        largest = min(batch_size, num_examples)
        if largest > self.max_batch_size:
            what = f"policy: batches of {largest:,} samples requested, at most {self.max_batch_size:,} allowed"
            raise TaskError(f"{what}; use a smaller --batch-size, or raise max_batch_size in the node's policy")

    def _check_daily_limit(self, answer_ages: Mapping[str, float]) -> None:
        most = self.max_answers_per_day
        if most is not None and len(answer_ages) >= most:
            oldest = sorted(answer_ages.values(), reverse=True)
            # A new answer is allowed once fewer than ``most`` answers are younger than the period.
            wait = max(0.0, COUNTING_PERIOD.total_seconds() - oldest[len(answer_ages) - most])
            what = f"policy: the limit of {most} answers a day is reached"
            raise RetryLater(f"{what}; the next one is allowed in {format_duration(wait)}", wait)

    def check_features(self, feature_release: FeatureRelease) -> None:
        """Check features before they are computed. Raises TaskError with the reason."""
        if not _matches_any(self.encodings, feature_release.encoding):
            allowed = ", ".join(self.encodings) or "none"
            what = f"policy: features encoded as {feature_release.encoding[:64]!r} are not allowed"
            raise TaskError(f"{what}; encodings of the policy: {allowed}")
        if feature_release.label_epsilon is None and self.labels != "clear":
            raise TaskError("policy: clear labels are not allowed; labels of the policy: randomised")
        for what, most, requested in (
            ("epsilon", self.max_epsilon, feature_release.epsilon),
            ("label_epsilon", self.max_label_epsilon, feature_release.label_epsilon),
            ("delta", self.max_delta, feature_release.num_features * feature_release.delta),
        ):
            if requested is not None and requested > most:
                raise TaskError(f"policy: {what} {requested:g} requested, at most {most:g} allowed")
        if self.min_samples > 1:
            what = f"policy: each released value requires at least {self.min_samples} samples"
            raise TaskError(f"{what}, a record of features has one")

    def check_result(
        self, result: TaskResult, feature_release: FeatureRelease | None = None, releases: ReleaseKind = "update"
    ) -> None:
        """Check a result before it leaves, as a second defence.

        ``feature_release`` describes the features that the result contains; None if it contains no features. Raises
        TaskError, also if the result contains data that its task is not registered to release.
        """
        if result.tensors and (releases == "metrics" or (releases == "features" and feature_release is None)):
            raise TaskError(f"the task is registered to release {releases}, but its result contains other tensors")
        if feature_release is not None and releases != "features":
            raise TaskError(f"the task is registered to release {releases}, but its result contains features")
        if result.tensors and feature_release is None and not self.allow_updates:
            raise TaskError("policy: plain tensors in results are not allowed")
        behind = result.metrics.get("num_examples", result.num_examples)
        if self.min_samples > 1 and not (isinstance(behind, int) and behind >= self.min_samples):
            what = f"policy: each released value requires at least {self.min_samples} samples"
            raise TaskError(f"{what}, this result has {behind}")

    def allows_coordinator(self, coordinator: str) -> bool:
        """Return True if the policy accepts requests from ``coordinator``, the id in its certificate.

        The id is empty without a certificate.
        """
        return self.coordinators is None or (coordinator != "" and _matches_any(self.coordinators, coordinator))


def load_policy(path: Path) -> Policy:
    """Return the policy of a file. Raises UsageError if it cannot be read or is not valid."""
    try:
        return Policy.model_validate(tomllib.loads(read_text(path, f"--policy {path}")))
    except OSError as error:
        raise UsageError(f"--policy {path}: {error.strerror or error}") from None
    except ValidationError as error:
        raise UsageError(f"--policy {path}: {describe_setting_error(error)}") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(f"--policy {path}: {error}") from None


def _matches_any(patterns: tuple[str, ...], name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _text_or_empty(value: Any) -> str:
    return value if isinstance(value, str) else ""
