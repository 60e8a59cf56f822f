"""Where a run stands that gathers once."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Self

from fedws.core.tensors import Tensors
from fedws.protocol.messages import Json
from fedws.scheduling.participants import Roster, excluded
from fedws.split_learning.upload_progress import Delivery


@dataclass(frozen=True)
class GatheringState:
    """Where such a run stands."""

    model: Tensors
    roster: Roster
    deliveries: dict[str, Delivery]
    others: Tensors = field(default_factory=dict)
    """Extractors beyond the model's own, joined."""
    memory: Tensors = field(default_factory=dict)
    """What the training keeps from epoch to epoch, beside the model."""
    lessons: int = 0
    """Epochs of pretraining that are done."""
    pretrained: bool = False
    classes: int = 0
    label: str = ""
    """What a label is."""
    shape: tuple[int, ...] = ()
    """Of a record's features."""
    begun: bool = False
    """Whether training has begun; what arrives later takes part from the next epoch on."""
    due: bool = False
    """Whether the time for delivering is up."""
    version: int = 0
    """Epochs of training that are done."""
    own: str = ""
    """The id of the order that the coordinator's own node works on; empty when it has none."""
    tries: int = 0
    """How many orders that node was given."""
    strikes: int = 0
    """How many of them in a row have failed."""
    record: Json = field(default_factory=dict)
    reason: str = ""

    @property
    def stated(self) -> int:
        """Bytes of the records that workers state; of an excluded worker, of those that have arrived."""
        out = excluded(self.roster)
        return sum(delivery.size(excluded=worker in out) for worker, delivery in self.deliveries.items())

    def deliver(self, worker: str, **changes: object) -> Self:
        """With that in the worker's delivery."""
        delivery = replace(self.deliveries[worker], **changes)  # type: ignore[arg-type]
        return replace(self, deliveries={**self.deliveries, worker: delivery})

    def passes(self, before: Self) -> bool:
        """Whether it must be on the disk before anybody is told what follows from it.

        That is for epochs of pretraining; and for what a worker has made, by which its records are understood: they are
        on the disk themselves before this state changes, and are counted there.
        """
        both = zip(self.deliveries.values(), before.deliveries.values(), strict=True)
        return self.lessons != before.lessons or any(bool(now.facts) != bool(then.facts) for now, then in both)

    def found(self, chunks: Mapping[int, int]) -> Self:
        """With the chunks that are stored, by the worker's number: some may have come after it was saved."""
        deliveries = {
            worker: delivery.stored(chunks.get(number, 0)) if delivery.facts else delivery
            for number, (worker, delivery) in enumerate(self.deliveries.items())
        }
        return replace(self, deliveries=deliveries)
