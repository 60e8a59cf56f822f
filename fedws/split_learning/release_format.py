"""How records leave a worker: the encoding of their features, and what is done to their labels."""

import math
from collections.abc import Sequence
from typing import Self

import torch
from pydantic import BaseModel, ConfigDict

from fedws.core import registry
from fedws.core.errors import RejectedUpdate
from fedws.core.tensors import DTYPES, difference, unfit
from fedws.core.untrusted_text import words
from fedws.core.validation import Positive
from fedws.privacy.spending import Features
from fedws.protocol.messages import Report
from fedws.split_learning.encoding import Encoding
from fedws.split_learning.feature_store import FEATURES, LABELS
from fedws.split_learning.upload_progress import Delivery, Facts

DECODED = 2**22
"""Feature values that are decoded at a time to see whether they can be."""


class Coded(BaseModel):
    """An encoding by its registered name, with its options, and the labels' epsilon."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    encoding: str
    label_epsilon: Positive | None
    """None: labels in clear."""

    @classmethod
    def of(cls, name: str, epsilon: float | None, label_epsilon: float | None) -> Self:
        """With ``epsilon`` for each feature value; None: the encoding's own. Raises UsageError where it has none."""
        spec = name if epsilon is None else f"{name}{',' if ':' in name else ':'}epsilon={epsilon!r}"
        registry.build("encoding", spec)
        return cls(encoding=spec, label_epsilon=label_epsilon)

    @property
    def name(self) -> str:
        """The encoding's, without options: what a policy allows."""
        return registry.Spec.parse(self.encoding).name

    def encoder(self) -> Encoding:
        """The encoding. Raises UnknownName and UsageError."""
        made: Encoding = registry.build("encoding", self.encoding)
        return made

    def spent(self, shape: Sequence[int], *, again: bool = False, adapted: bool = False) -> Features:
        """What a record with features of that shape spends; nothing if it was sent ``again``.

        There is no bound where the extractor was ``adapted`` to the samples.
        """
        encoding, values = self.encoder(), math.prod(shape)
        return Features(self.name, encoding.epsilon, self.label_epsilon, values, encoding.delta, again, adapted)

    def agree(self, facts: Facts, shape: Sequence[int], label: str) -> None:
        """Hold what a worker says of its features against this, their shape, and what a ``label`` is.

        Raises RejectedUpdate.
        """
        encoding = self.encoder()
        size = encoding.size(math.prod(shape))
        for what, said, asked in (
            ("encoding", facts.encoding, self.name),
            ("epsilon", facts.epsilon, encoding.epsilon),
            ("label epsilon", facts.label_epsilon, self.label_epsilon),
            ("bytes", facts.bytes, size),
            ("shape", facts.shape, tuple(shape)),
            ("label", facts.label, label),
        ):
            if said != asked:
                raise RejectedUpdate(f"their {what} is {said}, not {asked}")

    def check(self, report: Report, delivery: Delivery, classes: int) -> None:
        """Hold the records of a report against what was asked for. Raises RejectedUpdate."""
        count, facts = delivery.count, delivery.facts
        wanted = {
            FEATURES: torch.empty((count, facts["bytes"]), dtype=torch.uint8, device="meta"),
            LABELS: torch.empty((count, *facts["label_shape"]), dtype=DTYPES[facts["label_dtype"]], device="meta"),
        }
        problem = difference(report.tensors, wanted)
        if not problem:
            labels = report.tensors[LABELS]
            if classes and (int(labels.min()) < 0 or int(labels.max()) >= classes):
                problem = f"labels that are none of {classes}"
            problem = problem or unfit({LABELS: labels})
        if not problem:
            encoding = self.encoder()
            try:
                few = max(1, DECODED // math.prod(facts["shape"]))
                for part in report.tensors[FEATURES].split(few):
                    encoding.decode(part, facts["shape"])
            except ValueError as error:
                problem = words(error)
        if problem:
            raise RejectedUpdate(f"records {delivery.arrived} to {delivery.arrived + count}: {problem}")
