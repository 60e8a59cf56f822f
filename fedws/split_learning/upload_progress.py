"""What a worker has made of its samples, and how much of it has arrived."""

import math
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from fedws.core.errors import RejectedUpdate
from fedws.core.plan import Count
from fedws.protocol.answer_size import body
from fedws.protocol.messages import Json

CHUNK = 2**23
"""Bytes of features and labels in an answer, at most, unless a single record has more."""
_BYTES = {"int64": 8, "float32": 4}
MOST = 2**40
"""Records, and bytes or features of one, that a worker can claim to have."""
MOST_LABEL = 2**20
"""Values of one label, likewise."""


def _small(shape: tuple[int, ...]) -> tuple[int, ...]:
    if math.prod(shape) > MOST_LABEL:
        raise ValueError(f"a label of {math.prod(shape)} values; at most {MOST_LABEL}")
    return shape


class Facts(BaseModel):
    """What a worker says of the features that it has made."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    records: Annotated[int, Field(ge=1, le=MOST)]
    bytes: Annotated[int, Field(ge=1, le=MOST)]
    """Of one record's features."""
    shape: Annotated[tuple[Annotated[int, Field(ge=1, le=MOST)], ...], Field(max_length=8, strict=False)]
    """Of one record's features, before they were encoded."""
    encoding: str
    epsilon: float | None
    label_epsilon: float | None
    label_shape: Annotated[
        tuple[Annotated[int, Field(ge=1, le=MOST)], ...], Field(max_length=8, strict=False), AfterValidator(_small)
    ] = ()
    """Of one record's label; that of a class has none."""
    label_dtype: Literal["int64", "float32"] = "int64"

    @property
    def each(self) -> int:
        """Bytes of one record: features and label."""
        return _each(self.model_dump())

    @property
    def label(self) -> str:
        """What one of its labels is: dtype and shape, as :func:`fedws.data.labels.told` tells them."""
        return f"{self.label_dtype} {list(self.label_shape)}"

    def admit(self, samples: int, others: int, quota: int) -> None:
        """Check how many records a worker states before any is requested.

        ``samples`` is how many it declared, ``others`` the bytes of all other workers' records, and ``quota`` the
        most that a run stores. Raises RejectedUpdate.
        """
        if self.records > samples:
            raise RejectedUpdate(f"{self.records:,} records, above the {samples:,} samples declared")
        size = self.records * self.each
        if others + size > quota:
            what = f"{self.records:,} records take {size:,} bytes beside the {others:,} of others"
            why = f"this run stores at most {quota:,}"
            raise RejectedUpdate(f"{what}, and {why}; give the coordinator --max-features {others + size}")

    def told(self) -> str:
        """In words.

        >>> noisy = {"encoding": "bits", "epsilon": 2.0, "label_epsilon": 4.0}
        >>> Facts(records=1000, bytes=360, shape=(20, 12, 12), **noisy).told()
        '1000 records of 2880 features (20 x 12 x 12), 0.4 MB'
        """
        shape = " x ".join(map(str, self.shape))
        size = self.records * self.bytes
        told = f"{size / 1e6:.1f} MB" if size >= 10**5 else f"{size / 1e3:.1f} KB"
        return f"{self.records} records of {math.prod(self.shape)} features ({shape}), {told}"


@dataclass(frozen=True)
class Delivery:
    """How far a worker has come."""

    facts: Json = field(default_factory=dict)
    """:class:`Facts`; empty until it has made its features."""
    wanted: bool = False
    """Whether it needs the extractor."""
    arrived: int = 0
    """Records, from the first on."""
    whole: bool = False
    """Whether it knows that all of them are here."""

    @property
    def step(self) -> Literal["extract", "upload", "acknowledge", ""]:
        """What is to be asked of it next; empty when it has done its part."""
        if not self.facts:
            return "extract"
        if self.arrived < self.facts["records"]:
            return "upload"
        return "" if self.whole else "acknowledge"

    @property
    def here(self) -> bool:
        """Whether all of its records have arrived."""
        return self.step in ("acknowledge", "")

    @property
    def number(self) -> int:
        """Of its next answer with records, from 0."""
        return self.arrived // chunk(self.facts)

    def size(self, *, excluded: bool = False) -> int:
        """Return the bytes of all its records; of a worker that is ``excluded``, of those that have arrived."""
        if not self.facts:
            return 0
        return int(self.arrived if excluded else self.facts["records"]) * _each(self.facts)

    @property
    def answer(self) -> int:
        """Bytes of the tensors in its next answer."""
        if self.step != "upload":
            return 0
        label = _each(self.facts) - self.facts["bytes"]
        return body([self.count * self.facts["bytes"], self.count * label])

    def stored(self, chunks: int) -> Self:
        """With at least so many of its answers."""
        arrived = min(chunks * chunk(self.facts), self.facts["records"])
        return replace(self, arrived=max(self.arrived, arrived))

    @property
    def count(self) -> int:
        """How many records its next answer holds."""
        return int(min(chunk(self.facts), self.facts["records"] - self.arrived))


class Kept(BaseModel):
    """What an order about features that were made says."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    model: str
    """That they are of, so that a policy can tell."""


class Part(Kept):
    """What an order to upload says: which records."""

    first: Annotated[int, Field(ge=0)]
    count: Count


def chunk(facts: Json) -> int:
    """How many records go into one answer; ``facts`` as in :class:`Facts`.

    >>> chunk({"bytes": 360, "label_shape": [], "label_dtype": "int64"})
    22795
    >>> chunk({"bytes": 2**30, "label_shape": [100, 5], "label_dtype": "float32"})
    1
    """
    return max(1, CHUNK // _each(facts))


def _each(facts: Json) -> int:
    return int(facts["bytes"]) + math.prod(facts["label_shape"]) * _BYTES[facts["label_dtype"]]
