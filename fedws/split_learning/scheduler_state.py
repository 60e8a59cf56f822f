"""The state of a run that collects features once and then trains on the coordinator."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Self

from fedws.core.tensors import Tensors
from fedws.protocol.messages import Json
from fedws.scheduling.participants import Participants, find_exclusions
from fedws.split_learning.upload_progress import UploadProgress


@dataclass(frozen=True)
class CollectThenTrainState:
    """The state of a collect-then-train run."""

    model: Tensors
    participants: Participants
    uploads: dict[str, UploadProgress]
    extra_extractors: Tensors = field(default_factory=dict)
    """Extractors besides the model's own, packed into one dict."""
    optimizer_tensors: Tensors = field(default_factory=dict)
    """State of the optimizer between epochs."""
    pretrain_epochs_done: int = 0
    """Number of complete pretraining epochs."""
    pretrained: bool = False
    num_classes: int = 0
    label_format: str = ""
    """Format of a label."""
    feature_shape: tuple[int, ...] = ()
    """Shape of a record's features."""
    training_started: bool = False
    """True if training has started; records that are uploaded later are used from the next epoch on."""
    timed_out: bool = False
    """True if the upload deadline has passed."""
    version: int = 0
    """Number of complete training epochs."""
    server_request_id: str = ""
    """ID of the server trainer's open request, or an empty string."""
    num_server_requests: int = 0
    """Number of requests that the server trainer received."""
    consecutive_failures: int = 0
    """Number of its requests that failed in a row."""
    record: Json = field(default_factory=dict)
    failure: str = ""

    @property
    def declared_bytes(self) -> int:
        """Return the size in bytes of the records that workers declared.

        Of an excluded worker, only the received records count.
        """
        exclusions = find_exclusions(self.participants)
        return sum(upload.total_bytes(excluded=worker in exclusions) for worker, upload in self.uploads.items())

    def replace_upload(self, worker: str, **changes: object) -> Self:
        """Return the state with these changes to the worker's upload."""
        upload = replace(self.uploads[worker], **changes)  # type: ignore[arg-type]
        return replace(self, uploads={**self.uploads, worker: upload})

    def must_checkpoint(self, before: Self) -> bool:
        """Return True if the state must be checkpointed before requests that depend on it are sent.

        A checkpoint is needed after each pretraining epoch and when a worker's manifest arrives, which is needed to
        read its records. Records do not need one: they are stored before this state changes, and are counted in the
        store.
        """
        pairs = zip(self.uploads.values(), before.uploads.values(), strict=True)
        return self.pretrain_epochs_done != before.pretrain_epochs_done or any(
            bool(now.manifest) != bool(then.manifest) for now, then in pairs
        )

    def with_stored_chunks(self, chunks: Mapping[int, int]) -> Self:
        """Return the state with the chunks that are stored, by the worker's number.

        Chunks may have been stored after the state was checkpointed.
        """
        uploads = {
            worker: upload.with_stored_chunks(chunks.get(number, 0)) if upload.manifest else upload
            for number, (worker, upload) in enumerate(self.uploads.items())
        }
        return replace(self, uploads=uploads)
