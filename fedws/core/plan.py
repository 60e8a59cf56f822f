"""All settings of a run, in one frozen value that is checked once and written beside the results."""

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
from fedws.core.validation import Count, NodeId, NonNegative, PathString, PathStrings, Positive, describe_setting_error

_ADDRESS_SETTINGS = ("workers", "evaluator", "listen", "expect_workers")
"""Settings that hold addresses, or in which one may be written by mistake."""


class Plan(BaseModel):
    """All settings of a run. Field names are the flags' names and the keys of ``plan.toml``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    workers: Annotated[dict[NodeId, Url], Field(min_length=1)] = DEFAULT_WORKERS
    evaluator: Annotated[dict[NodeId, Url], Field(max_length=1)] = DEFAULT_EVALUATOR
    listen: Url | Literal[""] = ""
    """Where nodes arrive that dial out, or meet at a broker: those whose address this is."""
    algorithm: str = "fedavg"
    aggregator: str = "mean"
    weight_by_samples: bool = False
    sampler: str = "all"
    min_results: Annotated[int, Field(ge=0)] = 0
    """Results that make a round; 0: every one of its cohort (of an asynchronous algorithm: a single worker)."""
    over_selection: Annotated[float, Field(ge=0, le=10)] = 0.0
    round_timeout: Annotated[float, Field(gt=0)] = math.inf
    """Seconds after which a round closes with the results that are there, if they are enough."""
    rounds: Count = 40
    evaluate_every: Count = 10
    evaluate_worker_models: Annotated[int, Field(ge=0)] = 10
    dataset: str = "mnist"
    model: str = ""
    """Empty: the data set's own model."""
    initial_model: PathString = ""
    """A safetensors file with the weights to start from; empty: weights drawn from ``seed``."""
    loss: str = "nll"
    optimizer: str = "sgd"
    lr: Positive = 0.1
    lr_decay: DecayFactor = 0.98
    """Factor of the learning rate after each round, down to 1 % of ``lr``; 1: the rate is constant."""
    batch_size: Count = 32
    max_local_batches: Count | None = None
    """Most batches that a worker trains for a request; None: 10, or no limit where epochs are asked for."""
    epochs: Count | None = None
    """Passes over a worker's samples in a request, whole ones unless batches are limited; None: at most 10 batches."""
    drop_last: bool = False
    """Whether a last batch of an epoch that is shorter than ``batch_size`` is left out."""
    test_batch_size: Count = 128
    cuda: bool = False
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1
    peer_timeout: Positive = 60.0
    ping_interval: NonNegative = 0.0
    """Seconds between pings; 0: a third of ``peer_timeout``."""
    wait_for_workers: Literal["peer_timeout", "forever"] = "peer_timeout"
    """Whether a run waits without end for the workers that ``min_results`` needs."""
    max_message_bytes: Annotated[int, Field(ge=1024)] = DEFAULT_MAX_MESSAGE_BYTES
    max_feature_bytes: Count = DEFAULT_MAX_FEATURE_BYTES
    """Bytes of features and labels that a run of MistNet stores at most, of all workers together."""
    threads: Count = 1
    plugins: PathStrings = ()

    # The validators of this mode are called from the last one to the first one.
    @model_validator(mode="before")
    @classmethod
    def _add_expected_nodes(cls, settings: Any) -> Any:
        """Give nodes without an address that of ``listen``: the workers in ``expect_workers``, an evaluator that is a
        name."""
        if not isinstance(settings, dict) or not (
            "expect_workers" in settings or isinstance(settings.get("evaluator"), str)
        ):
            return settings
        settings = dict(settings)
        names, listen = settings.pop("expect_workers", ()), settings.get("listen")
        workers, evaluator = settings.get("workers", {}), settings.get("evaluator")
        if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
            raise ValueError(f"expect_workers is a list of nodes' names, not {names!r}")
        if not listen and (names or isinstance(evaluator, str)):
            who = ", ".join(names) or repr(evaluator)
            raise ValueError(f"{who} has no address: give it one, or say with --listen where it will join")
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"{name} is expected twice; every node has an id of its own")
            if isinstance(workers, dict) and workers.get(name, listen) != listen:
                raise ValueError(f"{name} is expected to join, and has an address, {workers[name]}; leave one out")
        if isinstance(listen, str) and listen and "://" not in listen:  # else its workers would be blamed for it
            raise ValueError(f"--listen: {listen!r} is no address; one looks like ws://0.0.0.0:9000")
        if names and isinstance(workers, dict):
            settings["workers"] = {**workers, **dict.fromkeys(names, listen)}
            settings.setdefault("evaluator", {})  # the default one is dialled on this machine
        if isinstance(evaluator, str):
            settings["evaluator"] = {evaluator: listen}
        return settings

    @model_validator(mode="before")
    @classmethod
    def _reject_addresses_with_secrets(cls, settings: Any) -> Any:
        """Refuse an address with a secret in it before another error can repeat it."""
        for name in _ADDRESS_SETTINGS if isinstance(settings, dict) else ():
            for text in iter_strings(settings.get(name)):
                try:
                    addresses.check_no_secrets(text)
                except ValueError as error:
                    raise ValueError(f"--{name.replace('_', '-')}: {error}") from None
        return settings

    @model_serializer(mode="wrap")
    def _omit_none(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what is None, which TOML cannot write."""
        return {name: value for name, value in dump(self).items() if value is not None}

    @model_validator(mode="after")
    def _check_consistency(self) -> Self:
        both = set(self.workers) & set(self.evaluator)
        if both:
            raise ValueError(f"{both.pop()} is named both as a worker and as the evaluator")
        if "federated" in self.workers:
            raise ValueError("federated is the name of the federated model; no worker can have it")
        if self.listen and self.listen not in (*self.workers.values(), *self.evaluator.values()):
            raise ValueError(
                "--listen: nobody is expected there; name who will join: --expect-workers alice bob charlie"
            )
        if self.min_results > len(self.workers):
            raise ValueError(f"--min-results {self.min_results} is above the number of workers, {len(self.workers)}")
        if self.ping_interval > self.peer_timeout / 2:
            raise ValueError(
                f"--ping-interval {self.ping_interval:g} is above half of --peer-timeout {self.peer_timeout:g}"
            )
        return self

    def train_settings(self) -> TrainSettings:
        """The training half of the plan."""
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
        """The evaluating half of the plan."""
        return EvalSettings(
            model=self.model,
            loss=self.loss,
            dataset=self.dataset,
            batch_size=self.test_batch_size,
            cuda=self.cuda,
        )

    def is_evaluation_round(self, round_number: int) -> bool:
        """Whether a round (from 1) is evaluated: every ``evaluate_every``-th from the first on, and the last.

        >>> [r for r in range(1, 41) if Plan().is_evaluation_round(r)]
        [1, 11, 21, 31, 40]
        """
        return bool(self.evaluator) and ((round_number - 1) % self.evaluate_every == 0 or round_number == self.rounds)


def build_plan(settings: Mapping[str, Any]) -> Plan:
    """A checked plan. Raises UsageError with one line that names the first setting that is wrong.

    >>> build_plan({"rounds": 0})
    Traceback (most recent call last):
    fedws.core.errors.UsageError: rounds: Input should be greater than or equal to 1, not 0
    """
    try:
        return Plan.model_validate(dict(settings))
    except ValidationError as error:
        raise UsageError(describe_setting_error(error)) from None


ROUND_ONLY_SETTINGS = ("sampler", "round_timeout", "over_selection", "aggregator", "weight_by_samples")
"""Settings that mean nothing to an algorithm without rounds."""


def read_plan_file(path: Path) -> dict[str, Any]:
    """The settings that a plan file gives. Raises UsageError when it cannot be read."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--plan {path}: {error.strerror or error}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"--plan {path}: {error}") from None
