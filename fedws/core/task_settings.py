"""The settings of requests to train and to evaluate, as they are sent to the nodes."""

from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from fedws.core.validation import Count, Positive

DecayFactor = Annotated[float, Field(gt=0, le=1)]
UNLIMITED_BATCHES = 2**31
"""Number of batches that means no limit."""
MAX_FORWARD_BATCH_SIZE = 128
"""Maximum number of samples in one forward pass of a node, if the batch size does not affect the result."""
FORWARD_BATCH_CAP = AfterValidator(lambda size: min(size, MAX_FORWARD_BATCH_SIZE))
"""Validator of a batch size that does not affect the result; a larger size is reduced to the node's maximum."""
ForwardBatchSize = Annotated[Count, FORWARD_BATCH_CAP]
BATCH_SIZE_FIELDS = ("batch_size", "train_batch_size")
"""Names of the settings that contain the number of samples in a batch."""


def list_batch_sizes(settings: BaseModel) -> list[int]:
    """Return the sizes of the training batches in the settings, which affect the result.

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
    """Return the settings without ``drop_last`` if it is False, because older nodes reject the unknown name."""
    return {name: value for name, value in settings.items() if name != "drop_last" or value}


class TrainSettings(BaseModel):
    """The settings of a request to train; the node that receives them validates them again."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    model: str
    loss: str = "nll"
    optimizer: str = "sgd"
    dataset: str = "mnist"
    lr: Positive = 0.1
    lr_decay: DecayFactor = 0.98
    batch_size: Count = 32
    max_local_batches: Count = 10
    """Maximum number of batches in one request."""
    epochs: Count = 1
    drop_last: bool = False
    """True if the last batch of an epoch is skipped when it is shorter than ``batch_size``."""
    cuda: bool = False

    @model_serializer(mode="wrap")
    def _serialize(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return omit_unset_drop_last(dump(self))

    def for_round(self, round_number: int) -> Self:
        """Return the settings for a round, which is counted from 1.

        The learning rate is multiplied by ``lr_decay`` after each round, down to 1 % of ``lr``.

        >>> TrainSettings(model="mnist_cnn", lr=0.1).for_round(2).lr
        0.098
        """
        lr = self.lr
        for _ in range(round_number - 1):
            lr = max(self.lr_decay * lr, 0.01 * self.lr)
        return self.model_copy(update={"lr": lr})

    def with_epochs(self, epochs: int | None) -> Self:
        """Return the settings for ``epochs`` passes over all samples; None changes nothing.

        The default of ``max_local_batches`` then no longer applies, but a value that was set explicitly still does.

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
    """The settings of a request to evaluate."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    model: str
    loss: str
    dataset: str
    batch_size: ForwardBatchSize = MAX_FORWARD_BATCH_SIZE
    cuda: bool = False
    wrapper: str = ""
    """Name of a registered wrapper around the model, such as ``encoded_split``; empty for the model itself."""
    wrapper_options: dict[str, str] = {}
