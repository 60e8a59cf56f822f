"""What a worker has made of its samples, and how much of it has arrived."""

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
"""Bytes of features and labels in an answer, at most, unless a single record has more."""
_DTYPE_BYTES = {"int64": 8, "float32": 4}
MAX_DECLARED = MAX_EXAMPLES
"""Records, and bytes or features of one record, that a worker can declare."""
MAX_LABEL_VALUES = 2**20
"""Values of one label, likewise."""


def _check_label_size(shape: tuple[int, ...]) -> tuple[int, ...]:
    if math.prod(shape) > MAX_LABEL_VALUES:
        raise ValueError(f"a label of {math.prod(shape)} values; at most {MAX_LABEL_VALUES}")
    return shape


class UploadManifest(BaseModel):
    """What a worker says of the features that it has made."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    num_records: Annotated[int, Field(ge=1, le=MAX_DECLARED)]
    feature_bytes: Annotated[int, Field(ge=1, le=MAX_DECLARED)]
    """Of one record's features."""
    feature_shape: Annotated[
        tuple[Annotated[int, Field(ge=1, le=MAX_DECLARED)], ...], Field(max_length=8, strict=False)
    ]
    """Of one record's features, before they were encoded."""
    encoding: str
    epsilon: float | None
    label_epsilon: float | None
    label_shape: Annotated[
        tuple[Annotated[int, Field(ge=1, le=MAX_DECLARED)], ...],
        Field(max_length=8, strict=False),
        AfterValidator(_check_label_size),
    ] = ()
    """Of one record's label; that of a class has none."""
    label_dtype: Literal["int64", "float32"] = "int64"

    @property
    def record_bytes(self) -> int:
        """Bytes of one record: features and label."""
        return _record_bytes(self.model_dump())

    @property
    def label_format(self) -> str:
        """What one of its labels is: dtype and shape, as :func:`fedws.data.batch_labels.describe_labels` tells them."""
        return f"{self.label_dtype} {list(self.label_shape)}"

    def check_quota(self, num_examples: int, other_bytes: int, max_bytes: int) -> None:
        """Check how many records a worker states before any is requested.

        ``num_examples`` is how many it declared, ``other_bytes`` the bytes of all other workers' records, and
        ``max_bytes`` the most that a run stores. Raises RejectedUpdate.
        """
        if self.num_records > num_examples:
            raise RejectedUpdate(f"{self.num_records:,} records, above the {num_examples:,} samples declared")
        size = self.num_records * self.record_bytes
        if other_bytes + size > max_bytes:
            what = f"{self.num_records:,} records take {size:,} bytes beside the {other_bytes:,} of others"
            why = f"this run stores at most {max_bytes:,}"
            raise RejectedUpdate(f"{what}, and {why}; give the coordinator --max-feature-bytes {other_bytes + size}")

    def describe(self) -> str:
        """In words.

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
    """How far a worker has come."""

    manifest: Json = field(default_factory=dict)
    """:class:`UploadManifest`; empty until it has made its features."""
    needs_extractor: bool = False
    """Whether it needs the extractor."""
    num_received: int = 0
    """Records, from the first on."""
    acknowledged: bool = False
    """Whether it knows that all of them are here."""

    @property
    def next_step(self) -> Literal["extract", "upload", "acknowledge", ""]:
        """What is to be asked of it next; empty when it has done its part."""
        if not self.manifest:
            return "extract"
        if self.num_received < self.manifest["num_records"]:
            return "upload"
        return "" if self.acknowledged else "acknowledge"

    @property
    def is_complete(self) -> bool:
        """Whether all of its records have arrived."""
        return self.next_step in ("acknowledge", "")

    @property
    def next_chunk(self) -> int:
        """Of its next answer with records, from 0."""
        return self.num_received // records_per_chunk(self.manifest)

    def total_bytes(self, *, excluded: bool = False) -> int:
        """Return the bytes of all its records; of a worker that is ``excluded``, of those that have arrived."""
        if not self.manifest:
            return 0
        return int(self.num_received if excluded else self.manifest["num_records"]) * _record_bytes(self.manifest)

    @property
    def next_result_bytes(self) -> int:
        """Bytes of the tensors in its next answer."""
        if self.next_step != "upload":
            return 0
        label = _record_bytes(self.manifest) - self.manifest["feature_bytes"]
        return compute_body_size([self.next_count * self.manifest["feature_bytes"], self.next_count * label])

    def with_stored_chunks(self, num_chunks: int) -> Self:
        """With at least so many of its answers."""
        arrived = min(num_chunks * records_per_chunk(self.manifest), self.manifest["num_records"])
        return replace(self, num_received=max(self.num_received, arrived))

    @property
    def next_count(self) -> int:
        """How many records its next answer holds."""
        return int(min(records_per_chunk(self.manifest), self.manifest["num_records"] - self.num_received))


class CachedFeatureSettings(BaseModel):
    """What a request about features that were made says."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    model: str
    """That they are of, so that a policy can tell."""


class UploadSettings(CachedFeatureSettings):
    """What a request to upload says: which records."""

    first: Annotated[int, Field(ge=0)]
    count: Count


def records_per_chunk(manifest: Json) -> int:
    """How many records go into one answer; ``manifest`` as in :class:`UploadManifest`.

    >>> records_per_chunk({"feature_bytes": 360, "label_shape": [], "label_dtype": "int64"})
    22795
    >>> records_per_chunk({"feature_bytes": 2**30, "label_shape": [100, 5], "label_dtype": "float32"})
    1
    """
    return max(1, MAX_CHUNK_BYTES // _record_bytes(manifest))


def _record_bytes(manifest: Json) -> int:
    return int(manifest["feature_bytes"]) + math.prod(manifest["label_shape"]) * _DTYPE_BYTES[manifest["label_dtype"]]
