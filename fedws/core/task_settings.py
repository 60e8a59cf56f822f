"""The settings of a request to train and of a request to score, as they cross the wire."""

from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from fedws.core.validation import Count, Positive

DecayFactor = Annotated[float, Field(gt=0, le=1)]
UNLIMITED_BATCHES = 2**31
"""Number of batches that stands for no limit."""
MAX_FORWARD_BATCH_SIZE = 128
"""Most samples that a node passes through a model at a time where the number does not show in the result."""
FORWARD_BATCH_CAP = AfterValidator(lambda size: min(size, MAX_FORWARD_BATCH_SIZE))
"""Mark of a setting that is a number of samples at a time: a node takes at most its own, whatever is requested."""
ForwardBatchSize = Annotated[Count, FORWARD_BATCH_CAP]
BATCH_SIZE_FIELDS = ("batch_size", "train_batch_size")
"""Settings that are the number of samples in a batch."""


def list_batch_sizes(settings: BaseModel) -> list[int]:
    """Return the sizes of training batches that settings ask for: those that show in the result.

    >>> evaluation = EvalSettings(model="mnist_cnn", loss="nll", dataset="mnist")
    >>> list_batch_sizes(TrainSettings(model="mnist_cnn")), list_batch_sizes(evaluation)
    ([32], [])
    """
    known = type(settings).model_fields
    return [
        getattr(settings, name)
        for name in BATCH_SIZE_FIELDS
        if name in known and FORWARD_BATCH_CAP not in known[name].metadata
    ]


def omit_unset_drop_last(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings without a ``drop_last`` that is not set: nodes of earlier versions refuse the unknown name."""
    return {name: value for name, value in settings.items() if name != "drop_last" or value}


class TrainSettings(BaseModel):
    """What one request to train says; crosses the wire as a request's settings and is checked again there."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    model: str
    loss: str = "nll"
    optimizer: str = "sgd"
    dataset: str = "mnist"
    lr: Positive = 0.1
    lr_decay: DecayFactor = 0.98
    batch_size: Count = 32
    max_local_batches: Count = 10
    """At most so many batches in one request."""
    epochs: Count = 1
    drop_last: bool = False
    """Whether a last batch of an epoch that is shorter than ``batch_size`` is left out."""
    cuda: bool = False

    @model_serializer(mode="wrap")
    def _serialize(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return omit_unset_drop_last(dump(self))

    def for_round(self, round_number: int) -> Self:
        """The settings for a round: after each one the learning rate is multiplied by ``lr_decay``, down to 1 %.

        >>> TrainSettings(model="mnist_cnn", lr=0.1).for_round(2).lr
        0.098
        """
        lr = self.lr
        for _ in range(round_number - 1):
            lr = max(self.lr_decay * lr, 0.01 * self.lr)
        return self.model_copy(update={"lr": lr})

    def with_epochs(self, epochs: int | None) -> Self:
        """Return the settings for ``epochs`` passes over all samples; None leaves them as they are.

        The default limit of ``max_local_batches`` does not apply then. A limit that was given does.

        >>> TrainSettings(model="mnist_cnn").with_epochs(2).max_local_batches == UNLIMITED_BATCHES
        True
        >>> TrainSettings(model="mnist_cnn", max_local_batches=5).with_epochs(2).max_local_batches
        5
        """
        if epochs is None:
            return self
        limit = {} if "max_local_batches" in self.model_fields_set else {"max_local_batches": UNLIMITED_BATCHES}
        return self.model_copy(update={"epochs": epochs, **limit})


class EvalSettings(BaseModel):
    """What one request to evaluate says."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    model: str
    loss: str
    dataset: str
    batch_size: ForwardBatchSize = MAX_FORWARD_BATCH_SIZE
    cuda: bool = False
    wrapper: str = ""
    """Registered wrapper that the model is evaluated in, as ``encoded_split``; empty for the model as it is."""
    wrapper_options: dict[str, str] = {}
