"""Where a run stands that gathers once."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Self

from fedws.core.tensors import Tensors
from fedws.protocol.messages import Json
from fedws.scheduling.participants import Participants, find_exclusions
from fedws.split_learning.upload_progress import UploadProgress


@dataclass(frozen=True)
class CollectThenTrainState:
    """Where such a run stands."""

    model: Tensors
    participants: Participants
    uploads: dict[str, UploadProgress]
    extra_extractors: Tensors = field(default_factory=dict)
    """Extractors beyond the model's own, joined."""
    optimizer_tensors: Tensors = field(default_factory=dict)
    """What the training keeps from epoch to epoch, beside the model."""
    pretrain_epochs_done: int = 0
    """Epochs of pretraining that are done."""
    pretrained: bool = False
    num_classes: int = 0
    label_format: str = ""
    """What a label is."""
    feature_shape: tuple[int, ...] = ()
    """Of a record's features."""
    training_started: bool = False
    """Whether training has begun; what arrives later takes part from the next epoch on."""
    timed_out: bool = False
    """Whether the time for delivering is up."""
    version: int = 0
    """Epochs of training that are done."""
    server_request_id: str = ""
    """The id of the request that the server trainer works on; empty when it has none."""
    num_server_requests: int = 0
    """How many requests that node was given."""
    consecutive_failures: int = 0
    """How many of them in a row have failed."""
    record: Json = field(default_factory=dict)
    failure: str = ""

    @property
    def declared_bytes(self) -> int:
        """Bytes of the records that workers state; of an excluded worker, of those that have arrived."""
        exclusions = find_exclusions(self.participants)
        return sum(upload.total_bytes(excluded=worker in exclusions) for worker, upload in self.uploads.items())

    def replace_upload(self, worker: str, **changes: object) -> Self:
        """With that in the worker's delivery."""
        upload = replace(self.uploads[worker], **changes)  # type: ignore[arg-type]
        return replace(self, uploads={**self.uploads, worker: upload})

    def must_checkpoint(self, before: Self) -> bool:
        """Whether it must be on the disk before anybody is told what follows from it.

        That is for epochs of pretraining; and for what a worker has made, by which its records are understood: they are
        on the disk themselves before this state changes, and are counted there.
        """
        pairs = zip(self.uploads.values(), before.uploads.values(), strict=True)
        return self.pretrain_epochs_done != before.pretrain_epochs_done or any(
            bool(now.manifest) != bool(then.manifest) for now, then in pairs
        )

    def with_stored_chunks(self, chunks: Mapping[int, int]) -> Self:
        """With the chunks that are stored, by the worker's number: some may have come after it was saved."""
        uploads = {
            worker: upload.with_stored_chunks(chunks.get(number, 0)) if upload.manifest else upload
            for number, (worker, upload) in enumerate(self.uploads.items())
        }
        return replace(self, uploads=uploads)
