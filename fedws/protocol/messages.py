"""Messages that nodes send to each other, and the types of their fields.

A message is frozen data. :data:`MESSAGE_TYPES` lists those that cross the wire, and ``docs/protocol.md`` their fields.
"""

from dataclasses import Field as Attribute
from dataclasses import dataclass, field, fields
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from fedws.core.errors import RefusalKind
from fedws.core.limits import (
    DEFAULT_MAX_MESSAGE_BYTES,
    MAX_CLASSES,
    MAX_DECLARED_LABELS,
    MAX_EXAMPLES,
    MAX_MESSAGE_TENSORS,
)
from fedws.core.tensors import Tensors
from fedws.core.untrusted_text import to_printable
from fedws.core.validation import Count

Hex32Bytes = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""A nonce or a proof: 32 bytes as hexadecimal digits."""
Signature = Annotated[str, Field(pattern=r"^([0-9a-f]{128})?$")]
"""An Ed25519 signature: 64 bytes as hexadecimal digits, or empty."""
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Identifier = Annotated[str, Field(max_length=64)]
PrintableText = Annotated[str, AfterValidator(to_printable)]
"""A line for a person, as it is shown: printable, and cut to :data:`fedws.core.untrusted_text.MAX_TEXT_CHARS`
characters."""
DatasetName = Annotated[str, Field(max_length=256)]
NumExamples = Annotated[int, Field(ge=1, le=MAX_EXAMPLES)]
Weight = Annotated[int, Field(ge=0, le=MAX_EXAMPLES)]
Digest = Hex32Bytes
"""SHA-256 of a message's body, as hexadecimal digits."""
ResumeOffsets = Annotated[dict[Digest, Annotated[int, Field(ge=0)]], Field(max_length=4)]
"""How many bytes somebody has of a body that was cut off with a link, by its digest."""


def _check_ascending(labels: list[int]) -> list[int]:
    if any(first >= second for first, second in pairwise(labels)):
        raise ValueError("labels must be ascending, each once")
    return labels


Labels = Annotated[
    list[Annotated[int, Field(ge=0, lt=MAX_CLASSES)]],
    Field(max_length=MAX_DECLARED_LABELS, fail_fast=True),
    AfterValidator(_check_ascending),
]
FailureKind = Literal["refused", "failed", "rejected", "lost"]
"""How a request ended without a result that is used, see :class:`TaskFailure`."""
FailureCode = Literal["", "permanent", "retry_later", "transfer_progressed", "transfer_interrupted"]
"""What follows from a failure, see :attr:`TaskFailure.code`."""
Json = dict[str, Any]
"""Numbers, strings, booleans, lists and dicts of these: all that settings and metrics may hold."""


@dataclass(frozen=True, kw_only=True)
class Hello:
    """The first message on a link, from the side that drives: who is calling, for which run, and for whom."""

    run: Identifier
    node: Identifier
    """The id of the node that the caller means to reach."""
    protocol: int
    """The protocol version, :data:`fedws.protocol.encoder.PROTOCOL_VERSION`."""
    coordinator: Identifier = "coordinator"
    """The id of the caller."""
    nonce: Hex32Bytes | Literal[""] = ""
    """Empty where the caller takes part without a network key."""
    has_body_store: bool = False
    """Whether the caller has an object store, from which bodies may come."""
    max_message_bytes: Count = DEFAULT_MAX_MESSAGE_BYTES
    """Bytes of the largest message that the caller accepts."""
    max_tensors: Count = MAX_MESSAGE_TENSORS
    """Tensors in a message that the caller accepts."""


@dataclass(frozen=True, kw_only=True)
class Join:
    """The first message on a link that a node has dialled: it asks the coordinator to say hello on it."""

    node: Identifier
    protocol: int
    instance_id: Hex32Bytes
    """Made at random when the node starts, so that its newer link is told from another node of its name."""


@dataclass(frozen=True, kw_only=True)
class Challenge:
    """The answer to a Hello of a node with a network key; see :mod:`fedws.protocol.handshake`."""

    node: Identifier
    nonce: Hex32Bytes
    proof: Hex32Bytes


@dataclass(frozen=True, kw_only=True)
class Proof:
    """The answer to a Challenge; the node's Welcome or Refusal comes next."""

    proof: Hex32Bytes
    takeover_key: Hex32Bytes
    """Public key of the run for this node: a later link with the same one may continue what this one began."""
    signature: Signature = ""
    """Signature of this handshake with the private key of the run; an empty one is never right."""


@dataclass(frozen=True, kw_only=True)
class Welcome:
    """The good end of a handshake: who this is and what it holds, in numbers only."""

    node: Identifier
    role: Literal["worker", "evaluator"]
    dataset: DatasetName
    num_examples: NumExamples
    labels: Labels = field(default_factory=list)
    """The labels that this node declares to hold, ascending; empty when its data has none."""
    cuda: bool = False
    resume_offsets: ResumeOffsets = field(default_factory=dict)
    """Of the run's requests."""
    has_body_store: bool = False
    """Whether the node has an object store."""
    max_message_bytes: Count = DEFAULT_MAX_MESSAGE_BYTES
    """Bytes of the largest message that the node accepts."""
    max_tensors: Count = MAX_MESSAGE_TENSORS
    """Tensors in a message that the node accepts."""


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """The other end of a handshake."""

    kind: RefusalKind
    reason: PrintableText


@dataclass(frozen=True, kw_only=True)
class TaskRequest:
    """What a coordinator asks of one node. Ends in exactly one :class:`TaskResult` or :class:`TaskFailure`."""

    request_id: str
    worker: str
    round: int
    task: str
    """A registered task, as ``fedavg.fit`` or ``evaluate``."""
    state_round: int = 0
    """The round whose state of this worker (control variates, error feedback) the task starts from; 0: from none."""
    seed: int = 0
    """For shuffling and initialising, 64 bits; see :func:`fedws.core.seeds.request_seed`. Never for privacy
    noise."""
    settings: Json = field(default_factory=dict)
    resume_offsets: ResumeOffsets = field(default_factory=dict)
    """Of this worker's results."""
    max_result_bytes: int | None = field(default=None, compare=False, metadata={"local": True})
    """Bytes of the tensors in its answer, at most; None: as many as its own. It does not cross the wire."""
    tensors: Tensors = field(default_factory=dict, repr=False)


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """The answer to a task request that was carried out."""

    request_id: str
    worker: str
    round: int
    num_examples: Weight
    """How many samples the worker holds: the weight of its result, where weights are used.

    0 is for the coordinator's own node; an update of this weight is rejected where weights are used.
    """
    metrics: Json = field(default_factory=dict)
    tensors: Tensors = field(default_factory=dict, repr=False)


@dataclass(frozen=True, kw_only=True)
class TaskFailure:
    """The answer to a task request that was not carried out, or whose result was not used.

    ``kind``: ``refused`` (the worker would not), ``failed`` (it could not), ``rejected`` (its result did not
    fit) or ``lost`` (the link went down or fell silent; made on the coordinator's side).
    """

    request_id: str
    worker: str
    round: int
    kind: FailureKind
    reason: PrintableText
    code: FailureCode = ""
    """What follows from it. Of ``refused``: ``permanent`` (the node will not do it in this run), or ``retry_later``
    (not before ``retry_after`` has passed). Of ``lost``: ``transfer_progressed`` (a transfer got further than ever
    before), or ``transfer_interrupted`` (one was cut off, and did not). Else empty.
    """
    retry_after: Seconds = 0.0
    """Seconds, for ``retry_later``."""


def build_failure(
    answered: TaskRequest | TaskResult, kind: FailureKind, reason: str, code: FailureCode = "", *, worker: str = ""
) -> TaskFailure:
    """Return the failure of a request, or the one in place of its result, with its reason as one printable line.

    A reason is cut to :data:`fedws.core.untrusted_text.MAX_TEXT_CHARS` characters.
    ``worker`` is who answers, where that may be another node than the one that the request names.
    """
    return TaskFailure(
        request_id=answered.request_id,
        worker=worker or answered.worker,
        round=answered.round,
        kind=kind,
        reason=to_printable(" ".join(reason.split())),
        code=code,
    )


Answer = TaskResult | TaskFailure
"""What ends a task request: it gets exactly one."""
Message = Join | Hello | Challenge | Proof | Welcome | Refusal | TaskRequest | TaskResult | TaskFailure

MESSAGE_TYPES: dict[str, type[Message]] = {
    "join": Join,
    "hello": Hello,
    "challenge": Challenge,
    "proof": Proof,
    "welcome": Welcome,
    "refusal": Refusal,
    "task_request": TaskRequest,
    "task_result": TaskResult,
    "task_failure": TaskFailure,
}
"""Every message by its type name on the wire."""
MESSAGE_NAMES = {kind: name for name, kind in MESSAGE_TYPES.items()}
"""The type name on the wire of every message."""


def list_header_fields(message_type: type[Message]) -> "list[Attribute[Any]]":
    """Return the fields of a message that stand in its header: all but its tensors and what stays on its side."""
    return [each for each in fields(message_type) if each.name != "tensors" and not each.metadata.get("local")]


DEFAULT_COORDINATOR_ID = "coordinator"
