"""The messages that nodes send to each other, and the types of their fields.

A message is a frozen data class. ``MESSAGE_TYPES`` lists the messages that are sent over the network, and
``docs/topics/protocol.md`` describes their fields.
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
"""Nonce or proof: 32 bytes as hexadecimal digits."""
Signature = Annotated[str, Field(pattern=r"^([0-9a-f]{128})?$")]
"""Ed25519 signature: 64 bytes as hexadecimal digits, or empty."""
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Identifier = Annotated[str, Field(max_length=64)]
PrintableText = Annotated[str, AfterValidator(to_printable)]
"""Printable line for people, cut to ``fedws.core.untrusted_text.MAX_TEXT_CHARS`` characters."""
DatasetName = Annotated[str, Field(max_length=256)]
NumExamples = Annotated[int, Field(ge=1, le=MAX_EXAMPLES)]
Weight = Annotated[int, Field(ge=0, le=MAX_EXAMPLES)]
StateRound = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, le=2**64 - 1)]
Digest = Hex32Bytes
"""SHA-256 of a message's body, as hexadecimal digits."""
ResumeOffsets = Annotated[dict[Digest, Annotated[int, Field(ge=0)]], Field(max_length=4)]
"""Number of bytes that a node has of each interrupted body, by the body's digest."""


def _check_ascending(labels: list[int]) -> list[int]:
    if any(first >= second for first, second in pairwise(labels)):
        raise ValueError("labels must be ascending and unique")
    return labels


Labels = Annotated[
    list[Annotated[int, Field(ge=0, lt=MAX_CLASSES)]],
    Field(max_length=MAX_DECLARED_LABELS, fail_fast=True),
    AfterValidator(_check_ascending),
]
FailureKind = Literal["refused", "failed", "rejected", "lost"]
"""Kind of a request's end without a usable result, see ``TaskFailure``."""
FailureCode = Literal["", "permanent", "retry_later", "transfer_progressed", "transfer_interrupted"]
"""Consequence of a failure, see ``TaskFailure.code``."""
Json = dict[str, Any]
"""Data that settings and metrics may hold: numbers, strings, booleans, lists and dicts of these."""


@dataclass(frozen=True, kw_only=True)
class Hello:
    """The first message on a link, sent by the coordinator: its id, its run and the id of the node."""

    run: Identifier
    node: Identifier
    """Id of the node that the coordinator expects to reach."""
    protocol: int
    """Protocol version, ``fedws.protocol.encoder.PROTOCOL_VERSION``."""
    coordinator: Identifier = "coordinator"
    """Id of the coordinator that sends the message."""
    nonce: Hex32Bytes | Literal[""] = ""
    """Nonce of the coordinator; empty without a network key."""
    has_body_store: bool = False
    """True if the coordinator has an object store that can hold bodies."""
    max_message_bytes: Count = DEFAULT_MAX_MESSAGE_BYTES
    """Maximum size in bytes of a message that the coordinator accepts."""
    max_tensors: Count = MAX_MESSAGE_TENSORS
    """Maximum number of tensors in a message that the coordinator accepts."""


@dataclass(frozen=True, kw_only=True)
class Join:
    """The first message on a link that a node has dialled; it requests a Hello from the coordinator."""

    node: Identifier
    protocol: int
    instance_id: Hex32Bytes
    """Random id of the node's process, which distinguishes its newer link from another node with the same name."""


@dataclass(frozen=True, kw_only=True)
class Challenge:
    """The answer to a Hello from a node with a network key; see ``fedws.protocol.handshake``."""

    node: Identifier
    nonce: Hex32Bytes
    proof: Hex32Bytes


@dataclass(frozen=True, kw_only=True)
class Proof:
    """The answer to a Challenge; the node replies with Welcome or Refusal."""

    proof: Hex32Bytes
    takeover_key: Hex32Bytes
    """Public key of the run for this node. A later link with the same key may continue the work of this one."""
    signature: Signature = ""
    """Signature of this handshake with the private key of the run; an empty signature is never valid."""


@dataclass(frozen=True, kw_only=True)
class Welcome:
    """The successful end of a handshake: the node's identity and a summary of its data, in numbers only."""

    node: Identifier
    role: Literal["worker", "evaluator"]
    dataset: DatasetName
    num_examples: NumExamples
    labels: Labels = field(default_factory=list)
    """Labels that this node declares, ascending; empty if its data has none."""
    cuda: bool = False
    resume_offsets: ResumeOffsets = field(default_factory=dict)
    """Resume offsets of the run's requests."""
    has_body_store: bool = False
    """True if the node has an object store."""
    max_message_bytes: Count = DEFAULT_MAX_MESSAGE_BYTES
    """Maximum size in bytes of a message that the node accepts."""
    max_tensors: Count = MAX_MESSAGE_TENSORS
    """Maximum number of tensors in a message that the node accepts."""


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """The unsuccessful end of a handshake."""

    kind: RefusalKind
    reason: PrintableText


@dataclass(frozen=True, kw_only=True)
class TaskRequest:
    """A coordinator's request to one node; it ends in exactly one ``TaskResult`` or ``TaskFailure``."""

    request_id: str
    worker: str
    round: Count
    task: str
    """Name of a registered task, such as ``fedavg.fit`` or ``evaluate``."""
    state_round: StateRound = 0
    """Round of the worker's state (control variates, error feedback) from which the task starts; 0 means no state."""
    seed: Seed = 0
    """Seed of 64 bits for shuffling and initialisation, see ``fedws.core.seeds.request_seed``.

    It is never used for privacy noise.
    """
    settings: Json = field(default_factory=dict)
    resume_offsets: ResumeOffsets = field(default_factory=dict)
    """Resume offsets of this worker's results."""
    max_result_bytes: int | None = field(default=None, compare=False, metadata={"local": True})
    """Maximum size in bytes of the answer's tensors; None means the size of the request's own. It is not sent."""
    tensors: Tensors = field(default_factory=dict, repr=False)


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """The answer to a task request that was carried out."""

    request_id: str
    worker: str
    round: Count
    num_examples: Weight
    """Number of samples of the worker: the weight of its result, if weights are used.

    0 is reserved for the coordinator's own node. An update with weight 0 is rejected if weights are used.
    """
    metrics: Json = field(default_factory=dict)
    tensors: Tensors = field(default_factory=dict, repr=False)


@dataclass(frozen=True, kw_only=True)
class TaskFailure:
    """The answer to a task request that was not carried out, or whose result was not used.

    Values of ``kind``:

    - ``refused``: the worker did not accept the request.
    - ``failed``: the worker could not carry it out.
    - ``rejected``: the result did not fit.
    - ``lost``: the link was lost or timed out. The coordinator creates this failure itself.
    """

    request_id: str
    worker: str
    round: Count
    kind: FailureKind
    reason: PrintableText
    code: FailureCode = ""
    """Consequence of the failure; empty if none applies.

    For ``refused``:

    - ``permanent``: the node will not do this task in this run.
    - ``retry_later``: the node will not do it before ``retry_after`` has passed.

    For ``lost``:

    - ``transfer_progressed``: a transfer got further than ever before.
    - ``transfer_interrupted``: a transfer was interrupted without such progress.
    """
    retry_after: Seconds = 0.0
    """Delay in seconds, for ``retry_later``."""


def build_failure(
    answered: TaskRequest | TaskResult, kind: FailureKind, reason: str, code: FailureCode = "", *, worker: str = ""
) -> TaskFailure:
    """Return the failure of a request, or the failure that replaces its result, with its reason as one printable line.

    The reason is cut to ``fedws.core.untrusted_text.MAX_TEXT_CHARS`` characters. ``worker`` is the id of the node
    that answers, if it may differ from the node in the request.
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
"""Answer to a task request, which gets exactly one."""
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
"""Message classes by their type names on the wire."""
MESSAGE_NAMES = {kind: name for name, kind in MESSAGE_TYPES.items()}
"""Type names on the wire by message class."""


def list_header_fields(message_type: type[Message]) -> "list[Attribute[Any]]":
    """Return the fields of a message that its header holds: all but the tensors and the fields that are never sent."""
    return [each for each in fields(message_type) if each.name != "tensors" and not each.metadata.get("local")]


DEFAULT_COORDINATOR_ID = "coordinator"
