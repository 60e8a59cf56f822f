"""The manifest of a worker's features, and the progress of their upload."""

import math
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from fedws.core.errors import RejectedUpdate
from fedws.core.limits import MAX_EXAMPLES
from fedws.core.validation import Count
from fedws.protocol.answer_size import compute_body_size
from fedws.protocol.messages import Json

MAX_CHUNK_BYTES = 2**23
"""Maximum size of the features and labels in one result in bytes, unless a single record is larger."""
_DTYPE_BYTES = {"int64": 8, "float32": 4}
MAX_DECLARED = MAX_EXAMPLES
"""Maximum number of records, and of bytes or feature values of one record, that a worker can declare."""
MAX_LABEL_VALUES = 2**20
"""Maximum number of values in one label."""


def _check_label_size(shape: tuple[int, ...]) -> tuple[int, ...]:
    if math.prod(shape) > MAX_LABEL_VALUES:
        raise ValueError(f"a label of {math.prod(shape)} values exceeds the limit of {MAX_LABEL_VALUES} values")
    return shape


class UploadManifest(BaseModel):
    """A worker's description of the features that it extracted."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    num_records: Annotated[int, Field(ge=1, le=MAX_DECLARED)]
    feature_bytes: Annotated[int, Field(ge=1, le=MAX_DECLARED)]
    """Size of one record's features in bytes."""
    feature_shape: Annotated[
        tuple[Annotated[int, Field(ge=1, le=MAX_DECLARED)], ...], Field(max_length=8, strict=False)
    ]
    """Shape of one record's features before encoding."""
    encoding: str
    epsilon: float | None
    label_epsilon: float | None
    label_shape: Annotated[
        tuple[Annotated[int, Field(ge=1, le=MAX_DECLARED)], ...],
        Field(max_length=8, strict=False),
        AfterValidator(_check_label_size),
    ] = ()
    """Shape of one record's label; empty for a class."""
    label_dtype: Literal["int64", "float32"] = "int64"

    @property
    def record_bytes(self) -> int:
        """Return the size of one record in bytes, with features and label."""
        return _record_bytes(self.model_dump())

    @property
    def label_format(self) -> str:
        """Return the dtype and shape of a label, as ``fedws.data.batch_labels.describe_labels`` does."""
        return f"{self.label_dtype} {list(self.label_shape)}"

    def check_quota(self, num_examples: int, other_bytes: int, max_bytes: int) -> None:
        """Check the number of records that a worker states, before any of them is requested.

        ``num_examples`` is the number of samples that the worker declared, ``other_bytes`` the size of all other
        workers' records, and ``max_bytes`` the limit of the run. Raises RejectedUpdate.
        """
        if self.num_records > num_examples:
            raise RejectedUpdate(f"{self.num_records:,} records exceed the {num_examples:,} samples declared")
        size = self.num_records * self.record_bytes
        if other_bytes + size > max_bytes:
            what = f"{self.num_records:,} records take {size:,} bytes beside {other_bytes:,} bytes of other workers"
            why = f"this run stores at most {max_bytes:,} bytes"
            hint = f"start the coordinator with --max-feature-bytes {other_bytes + size}"
            raise RejectedUpdate(f"{what}, but {why}; {hint}")

    def describe(self) -> str:
        """Return a description for a log line.

        >>> noisy = {"encoding": "bits", "epsilon": 2.0, "label_epsilon": 4.0}
        >>> UploadManifest(num_records=1000, feature_bytes=360, feature_shape=(20, 12, 12), **noisy).describe()
        '1000 records of 2880 features (20 x 12 x 12), 0.4 MB'
        """
        shape = " x ".join(map(str, self.feature_shape))
        size = self.num_records * self.feature_bytes
        size_text = f"{size / 1e6:.1f} MB" if size >= 10**5 else f"{size / 1e3:.1f} KB"
        return f"{self.num_records} records of {math.prod(self.feature_shape)} features ({shape}), {size_text}"


@dataclass(frozen=True)
class UploadProgress:
    """The progress of a worker's upload."""

    manifest: Json = field(default_factory=dict)
    """Fields of ``UploadManifest``; empty until the worker has extracted its features."""
    needs_extractor: bool = False
    """True if the worker has requested the tensors of the extractor."""
    num_received: int = 0
    """Number of records received, from the first one on."""
    acknowledged: bool = False
    """True if the worker has been notified that all its records are stored."""

    @property
    def next_step(self) -> Literal["extract", "upload", "acknowledge", ""]:
        """Return the step to request from the worker next; empty if it has completed all steps."""
        if not self.manifest:
            return "extract"
        if self.num_received < self.manifest["num_records"]:
            return "upload"
        return "" if self.acknowledged else "acknowledge"

    @property
    def is_complete(self) -> bool:
        """Return True if all of the worker's records have been received."""
        return self.next_step in ("acknowledge", "")

    @property
    def next_chunk(self) -> int:
        """Return the number of the next chunk of records, from 0."""
        return self.num_received // records_per_chunk(self.manifest)

    def total_bytes(self, *, excluded: bool = False) -> int:
        """Return the size of all its records in bytes; of a worker that is ``excluded``, that of the received ones."""
        if not self.manifest:
            return 0
        return int(self.num_received if excluded else self.manifest["num_records"]) * _record_bytes(self.manifest)

    @property
    def next_result_bytes(self) -> int:
        """Return the size of the tensors in the worker's next result in bytes."""
        if self.next_step != "upload":
            return 0
        label = _record_bytes(self.manifest) - self.manifest["feature_bytes"]
        return compute_body_size([self.next_count * self.manifest["feature_bytes"], self.next_count * label])

    def with_stored_chunks(self, num_chunks: int) -> Self:
        """Return the progress with at least ``num_chunks`` chunks received."""
        arrived = min(num_chunks * records_per_chunk(self.manifest), self.manifest["num_records"])
        return replace(self, num_received=max(self.num_received, arrived))

    @property
    def next_count(self) -> int:
        """Return the number of records in the worker's next result."""
        return int(min(records_per_chunk(self.manifest), self.manifest["num_records"] - self.num_received))


class CachedFeatureSettings(BaseModel):
    """The settings of a request for features that were extracted before."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    model: str
    """Name of the features' model, so that a policy can check it."""


class UploadSettings(CachedFeatureSettings):
    """The settings of a request to upload records."""

    first: Annotated[int, Field(ge=0)]
    count: Count


def records_per_chunk(manifest: Json) -> int:
    """Return the number of records per result; ``manifest`` has the fields of ``UploadManifest``.

    >>> records_per_chunk({"feature_bytes": 360, "label_shape": [], "label_dtype": "int64"})
    22795
    >>> records_per_chunk({"feature_bytes": 2**30, "label_shape": [100, 5], "label_dtype": "float32"})
    1
    """
    return max(1, MAX_CHUNK_BYTES // _record_bytes(manifest))


def _record_bytes(manifest: Json) -> int:
    return int(manifest["feature_bytes"]) + math.prod(manifest["label_shape"]) * _DTYPE_BYTES[manifest["label_dtype"]]
