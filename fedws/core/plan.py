"""The plan, a frozen model of all settings of a run that is validated once and stored with the results."""

import math
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from fedws.core import addresses
from fedws.core.addresses import Url, iter_strings
from fedws.core.demo_nodes import DEFAULT_EVALUATOR, DEFAULT_WORKERS
from fedws.core.errors import UsageError
from fedws.core.limits import DEFAULT_MAX_FEATURE_BYTES, DEFAULT_MAX_MESSAGE_BYTES
from fedws.core.task_settings import DecayFactor, EvalSettings, TrainSettings
from fedws.core.text_files import read_text
from fedws.core.validation import Count, NodeId, NonNegative, PathString, PathStrings, Positive, describe_setting_error

_ADDRESS_SETTINGS = ("workers", "evaluator", "listen", "expect_workers")
"""Names of the settings that contain addresses, or into which a user may put one by mistake."""


class Plan(BaseModel):
    """All settings of a run.

    The names of the fields are the names of the flags and the keys of ``plan.toml``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    workers: Annotated[dict[NodeId, Url], Field(min_length=1)] = DEFAULT_WORKERS
    """Addresses of the workers by node id."""
    evaluator: Annotated[dict[NodeId, Url], Field(max_length=1)] = DEFAULT_EVALUATOR
    """Address of the evaluator by node id; empty: no model is evaluated."""
    listen: Url | Literal[""] = ""
    """Address at which the coordinator accepts nodes that dial out, or the address of the broker.

    The workers and the evaluator with this same address connect there; the coordinator dials all others.
    """
    algorithm: str = "fedavg"
    """Spec of the algorithm, ``NAME[:value][,key=value...]``."""
    aggregator: str = "mean"
    """Spec of the aggregator, which combines the results of a round."""
    weight_by_samples: bool = False
    """True if a result counts by its number of samples; otherwise all results count equally."""
    sampler: str = "all"
    """Spec of the sampler, which selects the workers of a round."""
    min_results: Annotated[int, Field(ge=0)] = 0
    """Number of results that complete a round; 0: one from each worker of the cohort.

    For an asynchronous algorithm it is the number of workers that the run needs, and 0 means one worker.
    """
    over_selection: Annotated[float, Field(ge=0, le=10)] = 0.0
    """Share of additional workers that a round requests results from, from 0 to 10."""
    round_timeout: Annotated[float, Field(gt=0)] = math.inf
    """Time in seconds after which a round closes with the results so far, if there are enough."""
    rounds: Count = 40
    """Number of rounds, or of model versions of an asynchronous algorithm."""
    evaluate_every: Count = 10
    """Number of rounds between two evaluations."""
    evaluate_worker_models: Annotated[int, Field(ge=0)] = 10
    """Maximum number of worker models in one evaluation; 0: the federated model only."""
    dataset: str = "mnist"
    """Spec of the data set that all nodes must have."""
    model: str = ""
    """Spec of the model; empty: the default model of the data set."""
    initial_model: PathString = ""
    """Path of a safetensors file with the initial weights; empty: weights drawn from ``seed``."""
    loss: str = "nll"
    """Spec of the loss."""
    optimizer: str = "sgd"
    """Spec of the optimizer of the workers."""
    lr: Positive = 0.1
    """Learning rate of the first round."""
    lr_decay: DecayFactor = 0.98
    """Factor by which the learning rate is multiplied after each round, down to 1 % of ``lr``; 1: a constant rate."""
    batch_size: Count = 32
    """Number of samples in a training batch."""
    max_local_batches: Count | None = None
    """Maximum number of batches that a worker trains in one request; None: 10, or no limit if ``epochs`` is set."""
    epochs: Count | None = None
    """Number of passes over a worker's samples in one request, unless ``max_local_batches`` ends them earlier.

    None: one pass of at most ``max_local_batches`` batches.
    """
    drop_last: bool = False
    """True if the last batch of an epoch is skipped when it is shorter than ``batch_size``."""
    test_batch_size: Count = 128
    """Number of samples in a batch of the evaluator."""
    cuda: bool = False
    """True if nodes that have a GPU use it."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1
    """Seed of all random choices of the run, apart from noise for privacy."""
    peer_timeout: Positive = 60.0
    """Time in seconds without received data after which a node counts as lost."""
    ping_interval: NonNegative = 0.0
    """Interval between pings in seconds; 0: a third of ``peer_timeout``."""
    wait_for_workers: Literal["peer_timeout", "forever"] = "peer_timeout"
    """Time for which the run waits for the workers that ``min_results`` requires."""
    max_message_bytes: Annotated[int, Field(ge=1024)] = DEFAULT_MAX_MESSAGE_BYTES
    """Size in bytes of the largest message that the coordinator accepts."""
    max_feature_bytes: Count = DEFAULT_MAX_FEATURE_BYTES
    """Maximum size in bytes of the features and labels of all workers that a run of MistNet stores."""
    threads: Count = 1
    """Number of threads that the coordinator computes with."""
    plugins: PathStrings = ()
    """Paths of Python files that register pieces."""

    # pydantic calls the validators of mode "before" from the last one to the first one.
    @model_validator(mode="before")
    @classmethod
    def _add_expected_nodes(cls, settings: Any) -> Any:
        """Assign the address of ``listen`` to nodes without an address.

        These are the workers in ``expect_workers``, and an evaluator that is given as a name.
        """
        if not isinstance(settings, dict) or not (
            "expect_workers" in settings or isinstance(settings.get("evaluator"), str)
        ):
            return settings
        settings = dict(settings)
        names, listen = settings.pop("expect_workers", ()), settings.get("listen")
        workers, evaluator = settings.get("workers", {}), settings.get("evaluator")
        if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
            raise ValueError(f"expect_workers: expected a list of node names, got {names!r}")
        if not listen and (names or isinstance(evaluator, str)):
            nodes = ", ".join(map(repr, names)) or repr(evaluator)
            raise ValueError(f"no address for {nodes}; give one, or let it connect to --listen ADDRESS")
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"duplicate node {name!r} in --expect-workers; give every node its own id")
            if isinstance(workers, dict) and workers.get(name, listen) != listen:
                raise ValueError(
                    f"{name!r} is in --expect-workers and also has the address {workers[name]}; remove one of them"
                )
        if isinstance(listen, str) and listen and "://" not in listen:  # else the error would name its workers
            raise ValueError(f"--listen: {listen!r} is not a valid address; use the form ws://0.0.0.0:9000")
        if names and isinstance(workers, dict):
            settings["workers"] = {**workers, **dict.fromkeys(names, listen)}
            settings.setdefault("evaluator", {})  # the default evaluator is a node on this machine
        if isinstance(evaluator, str):
            settings["evaluator"] = {evaluator: listen}
        return settings

    @model_validator(mode="before")
    @classmethod
    def _reject_addresses_with_secrets(cls, settings: Any) -> Any:
        """Reject an address that contains a secret, before the text of another error can repeat it."""
        for name in _ADDRESS_SETTINGS if isinstance(settings, dict) else ():
            for text in iter_strings(settings.get(name)):
                try:
                    addresses.check_no_secrets(text)
                except ValueError as error:
                    raise ValueError(f"--{name.replace('_', '-')}: {error}") from None
        return settings

    @model_serializer(mode="wrap")
    def _omit_none(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Omit settings that are None, because TOML has no null value."""
        return {name: value for name, value in dump(self).items() if value is not None}

    @model_validator(mode="after")
    def _check_consistency(self) -> Self:
        both = set(self.workers) & set(self.evaluator)
        if both:
            raise ValueError(f"{both.pop()!r} is both a worker and the evaluator; use different ids")
        if "federated" in self.workers:
            raise ValueError("'federated' is reserved for the federated model; choose another worker id")
        if self.listen and self.listen not in (*self.workers.values(), *self.evaluator.values()):
            raise ValueError(
                "--listen: no node is expected to connect; name the nodes with --expect-workers alice bob charlie"
            )
        if self.min_results > len(self.workers):
            raise ValueError(f"--min-results {self.min_results} exceeds the number of workers, {len(self.workers)}")
        if self.ping_interval > self.peer_timeout / 2:
            raise ValueError(
                f"--ping-interval {self.ping_interval:g} exceeds half of --peer-timeout {self.peer_timeout:g}"
            )
        return self

    def train_settings(self) -> TrainSettings:
        """Return the settings of requests to train."""
        return TrainSettings(
            model=self.model,
            loss=self.loss,
            optimizer=self.optimizer,
            dataset=self.dataset,
            lr=self.lr,
            lr_decay=self.lr_decay,
            batch_size=self.batch_size,
            drop_last=self.drop_last,
            cuda=self.cuda,
            **({} if self.max_local_batches is None else {"max_local_batches": self.max_local_batches}),
        ).with_epochs(self.epochs)

    def eval_settings(self) -> EvalSettings:
        """Return the settings of requests to evaluate."""
        return EvalSettings(
            model=self.model,
            loss=self.loss,
            dataset=self.dataset,
            batch_size=self.test_batch_size,
            cuda=self.cuda,
        )

    def is_evaluation_round(self, round_number: int) -> bool:
        """Return whether the model is evaluated after a round, which is counted from 1.

        These are every ``evaluate_every``-th round, starting with the first, and the last round. Without an evaluator,
        the model is not evaluated.

        Examples:
            >>> [r for r in range(1, 41) if Plan().is_evaluation_round(r)]
            [1, 11, 21, 31, 40]
        """
        return bool(self.evaluator) and ((round_number - 1) % self.evaluate_every == 0 or round_number == self.rounds)


def build_plan(settings: Mapping[str, Any]) -> Plan:
    """Return a validated plan. Raises UsageError whose text names the first invalid setting.

    >>> build_plan({"rounds": 0})
    Traceback (most recent call last):
    fedws.core.errors.UsageError: rounds: Input should be greater than or equal to 1, not 0
    """
    try:
        return Plan.model_validate(dict(settings))
    except ValidationError as error:
        raise UsageError(describe_setting_error(error)) from None


ROUND_ONLY_SETTINGS = ("sampler", "round_timeout", "over_selection", "aggregator", "weight_by_samples")
"""Settings that have no effect on an algorithm without rounds."""


def read_plan_file(path: Path) -> dict[str, Any]:
    """Return the settings in a plan file. Raises UsageError if the file cannot be read or is not valid TOML."""
    try:
        return tomllib.loads(read_text(path, f"--plan {path}"))
    except OSError as error:
        raise UsageError(f"--plan {path}: cannot read the file: {error.strerror or error}") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(f"--plan {path}: {error}") from None
