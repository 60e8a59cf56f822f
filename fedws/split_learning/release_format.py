"""The format in which records leave a worker: the encoding of their features and the treatment of their labels."""

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
"""Maximum number of feature values that are decoded at a time to check records."""


class ReleaseFormat(BaseModel):
    """The registered name of an encoding with its options, and the epsilon of the labels."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    encoding: str
    label_epsilon: Positive | None
    """Epsilon of a label; None for clear labels."""

    @classmethod
    def create(cls, encoding: str, epsilon: float | None, label_epsilon: float | None) -> Self:
        """Return a format with ``epsilon`` per feature value; None selects the default of the encoding.

        Raises UsageError if the encoding does not have an epsilon.
        """
        spec = encoding if epsilon is None else f"{encoding}{',' if ':' in encoding else ':'}epsilon={epsilon!r}"
        registry.build_piece("encoding", spec)
        return cls(encoding=spec, label_epsilon=label_epsilon)

    @property
    def encoding_name(self) -> str:
        """Return the name of the encoding without options, which policies list."""
        return Spec.parse(self.encoding).name

    def build_encoding(self) -> FeatureEncoding:
        """Return the encoding.

        Raises UnknownName and UsageError if it cannot be built.
        """
        encoding: FeatureEncoding = registry.build_piece("encoding", self.encoding)
        return encoding

    def build_release(
        self, feature_shape: Sequence[int], *, resent: bool = False, fine_tuned: bool = False
    ) -> FeatureRelease:
        """Return the privacy cost of a record with features of ``feature_shape``.

        A ``resent`` record costs nothing more. The cost is unbounded if the extractor was ``fine_tuned``
        on the samples.
        """
        encoding, values = self.build_encoding(), math.prod(feature_shape)
        return FeatureRelease(
            self.encoding_name, encoding.epsilon, self.label_epsilon, values, encoding.delta, resent, fine_tuned
        )

    def check_manifest(self, manifest: UploadManifest, feature_shape: Sequence[int], label_format: str) -> None:
        """Check that a manifest matches this format, the shape of the features and the format of a label.

        Raises RejectedUpdate if it does not.
        """
        encoding = self.build_encoding()
        size = encoding.encoded_bytes(math.prod(feature_shape))
        for field, stated, expected in (
            ("encoding", manifest.encoding, self.encoding_name),
            ("epsilon", manifest.epsilon, encoding.epsilon),
            ("label epsilon", manifest.label_epsilon, self.label_epsilon),
            ("feature size in bytes", manifest.feature_bytes, size),
            ("feature shape", manifest.feature_shape, tuple(feature_shape)),
            ("label format", manifest.label_format, label_format),
        ):
            if stated != expected:
                raise RejectedUpdate(f"{field} is {stated}, expected {expected}")

    def check_records(self, result: TaskResult, progress: UploadProgress, num_classes: int) -> None:
        """Check that the records of a result are the requested ones.

        Raises RejectedUpdate if they are not.
        """
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
                problem = f"labels outside the {num_classes} classes"
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
