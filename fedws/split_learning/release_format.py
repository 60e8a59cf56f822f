"""How records leave a worker: the encoding of their features, and what is done to their labels."""

import math
from collections.abc import Sequence
from typing import Self

import torch
from pydantic import BaseModel, ConfigDict

from fedws.core import registry
from fedws.core.errors import RejectedUpdate
from fedws.core.spec import Spec
from fedws.core.tensors import DTYPES, find_mismatch, find_nonfinite
from fedws.core.untrusted_text import get_error_text
from fedws.core.validation import Positive
from fedws.privacy.feature_release import FeatureRelease
from fedws.protocol.messages import TaskResult
from fedws.split_learning.feature_encoding import FeatureEncoding
from fedws.split_learning.feature_store import FEATURES_KEY, LABELS_KEY
from fedws.split_learning.upload_progress import UploadManifest, UploadProgress

MAX_DECODED_VALUES = 2**22
"""Feature values that are decoded at a time to see whether they can be."""


class ReleaseFormat(BaseModel):
    """An encoding by its registered name, with its options, and the labels' epsilon."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    encoding: str
    label_epsilon: Positive | None
    """None: labels in clear."""

    @classmethod
    def create(cls, encoding: str, epsilon: float | None, label_epsilon: float | None) -> Self:
        """With ``epsilon`` for each feature value; None: the encoding's own. Raises UsageError where it has none."""
        spec = encoding if epsilon is None else f"{encoding}{',' if ':' in encoding else ':'}epsilon={epsilon!r}"
        registry.build_piece("encoding", spec)
        return cls(encoding=spec, label_epsilon=label_epsilon)

    @property
    def encoding_name(self) -> str:
        """The encoding's, without options: what a policy allows."""
        return Spec.parse(self.encoding).name

    def build_encoding(self) -> FeatureEncoding:
        """The encoding. Raises UnknownName and UsageError."""
        encoding: FeatureEncoding = registry.build_piece("encoding", self.encoding)
        return encoding

    def build_release(
        self, feature_shape: Sequence[int], *, resent: bool = False, fine_tuned: bool = False
    ) -> FeatureRelease:
        """What a record with features of that shape spends; nothing if it was sent ``resent``.

        There is no bound where the extractor was ``fine_tuned`` to the samples.
        """
        encoding, values = self.build_encoding(), math.prod(feature_shape)
        return FeatureRelease(
            self.encoding_name, encoding.epsilon, self.label_epsilon, values, encoding.delta, resent, fine_tuned
        )

    def check_manifest(self, manifest: UploadManifest, feature_shape: Sequence[int], label_format: str) -> None:
        """Hold what a worker says of its features against this, their shape, and what a ``label_format`` is.

        Raises RejectedUpdate.
        """
        encoding = self.build_encoding()
        size = encoding.encoded_bytes(math.prod(feature_shape))
        for what, stated, expected in (
            ("encoding", manifest.encoding, self.encoding_name),
            ("epsilon", manifest.epsilon, encoding.epsilon),
            ("label epsilon", manifest.label_epsilon, self.label_epsilon),
            ("bytes", manifest.feature_bytes, size),
            ("shape", manifest.feature_shape, tuple(feature_shape)),
            ("label", manifest.label_format, label_format),
        ):
            if stated != expected:
                raise RejectedUpdate(f"their {what} is {stated}, not {expected}")

    def check_records(self, result: TaskResult, progress: UploadProgress, num_classes: int) -> None:
        """Hold the records of a result against what was asked for. Raises RejectedUpdate."""
        count, manifest = progress.next_count, progress.manifest
        expected = {
            FEATURES_KEY: torch.empty((count, manifest["feature_bytes"]), dtype=torch.uint8, device="meta"),
            LABELS_KEY: torch.empty(
                (count, *manifest["label_shape"]), dtype=DTYPES[manifest["label_dtype"]], device="meta"
            ),
        }
        problem = find_mismatch(result.tensors, expected)
        if not problem:
            labels = result.tensors[LABELS_KEY]
            if num_classes and (int(labels.min()) < 0 or int(labels.max()) >= num_classes):
                problem = f"labels that are none of {num_classes}"
            problem = problem or find_nonfinite({LABELS_KEY: labels})
        if not problem:
            encoding = self.build_encoding()
            try:
                records_at_once = max(1, MAX_DECODED_VALUES // math.prod(manifest["feature_shape"]))
                for part in result.tensors[FEATURES_KEY].split(records_at_once):
                    encoding.decode(part, manifest["feature_shape"])
            except ValueError as error:
                problem = get_error_text(error)
        if problem:
            raise RejectedUpdate(f"records {progress.num_received} to {progress.num_received + count}: {problem}")
