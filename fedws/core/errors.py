"""All errors that fedws raises itself.

    FedwsError
    ├── UsageError               a setting is invalid; the text is one line for the user
    │   ├── UnknownName          a piece or an option is not found; the text suggests similar names
    │   ├── PieceFailed          the code of a piece raised an error; the text may reveal private data
    │   └── MessageTooLarge      a message exceeds a limit of its receiver
    ├── LinkError                an error on a link between two nodes
    │   ├── Unreachable          no node answered at the address
    │   ├── LinkLost             an open link was closed, or the peer stopped answering
    │   │   ├── RunEnded         the peer closed the link normally, as at the end of a run
    │   │   ├── MessageRejected  the peer closed the link because it rejects a message, such as a too large one
    │   │   └── TakenOver        the peer closed the link because another link of the same run holds the node
    │   ├── ProtocolError        the peer violated the protocol
    │   └── LinkRefused          the peer refused the link and sent a reason
    ├── TaskError                the worker rejects a request for the whole run; its answer is a TaskFailure
    │   ├── RetryLater           the worker rejects the request until a given time has passed
    │   └── RequestError         the request is invalid for any data; the text may leave the node
    ├── TaskFailed               the worker could not carry out a request; a retry may succeed
    ├── TaskCancelled            the task was cancelled because its link was lost or its node is shutting down
    ├── StoreError               an object store did not accept or return a body
    │   └── BlobMissing          an object store does not have a body
    ├── BodyUnavailable          a message arrived, but its body could not be fetched from the object store
    ├── RejectedUpdate           the tensors of a result do not match the model
    └── RunFailed                the run ended before its last round
        └── UnexpectedNode       the node at an address is not the expected one

Errors of other libraries (sockets, websockets, pydantic) are converted to one of these errors where they occur.
"""

import difflib
from collections.abc import Iterable
from typing import Any, Literal

from fedws.core.untrusted_text import to_line

RefusalKind = Literal["busy", "node", "protocol", "key", "policy"]
"""Reason for which a node refuses a link.

``busy``: the node serves another run. ``node``: the address belongs to a node with another id. ``protocol``: the
protocol versions differ. ``key``: the network key or a certificate is wrong. ``policy``: the owner's policy forbids the
link.
"""


class FedwsError(Exception):
    """Base class of all errors of fedws.

    The text is one printable line of at most ``fedws.core.untrusted_text.MAX_LINE_CHARS`` characters.
    """

    def __init__(self, *args: object) -> None:
        super().__init__(*(to_line(each) if isinstance(each, str) else each for each in args))


class UsageError(FedwsError):
    """An invalid setting; the text is one line for the user."""


class UnknownName(UsageError):
    """An unknown name of a piece, or of one of its options.

    The text suggests up to three similar names and lists all ``known`` names. With ``suggest_plugin`` it also names the
    flag that loads a piece of the user.

    >>> print(UnknownName("algorithm", "fedavgg", ["fedavg", "fedsgd"]))
    unknown algorithm 'fedavgg'; did you mean 'fedavg' or 'fedsgd'? (choose from fedavg, fedsgd)
    """

    def __init__(self, kind: str, name: str, known: Iterable[str], *, suggest_plugin: bool = False) -> None:
        known = sorted(known)
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        choices = f"choose from {', '.join(known)}" if known else "no choices are available"
        if suggest_plugin:
            choices += f"{', or' if known else ';'} load your own with --plugin FILE.py"
        if near:
            choices = f"did you mean {' or '.join(map(repr, near))}? ({choices})"
        super().__init__(f"unknown {kind} {name!r}; {choices}")


class PieceFailed(UsageError):
    """An error that the code of a piece raised, which is the cause of this error; the text may reveal private data."""


class MessageTooLarge(UsageError):
    """A message that exceeds a limit of its receiver; the text contains the size of the message and the limit."""


class LinkError(FedwsError):
    """An error on a link between two nodes."""


class Unreachable(LinkError):
    """An address at which no node answered."""


class LinkLost(LinkError):
    """The loss of an open link, which was closed or whose peer stopped answering."""


class RunEnded(LinkLost):
    """The end of a link that the peer closed normally, as a coordinator does at the end of its run."""


class MessageRejected(LinkLost):
    """The loss of a link that the peer closed because it rejects a message, such as one above its size limit."""


class TakenOver(LinkLost):
    """The loss of a link that the peer closed because another link of the same run holds the node."""


class ProtocolError(LinkError):
    """A violation of the protocol by the peer."""


class LinkRefused(LinkError):
    """A link that the peer refused, with the reason that it sent.

    ``kind`` is the kind of the peer's ``fedws.protocol.messages.Refusal``.
    """

    def __init__(self, kind: RefusalKind, reason: str) -> None:
        super().__init__(reason)
        self.kind: RefusalKind = kind


class TaskError(FedwsError):
    """A request that this worker rejects for the whole run; the coordinator excludes the worker at once."""


class RetryLater(TaskError):
    """A request that this worker rejects until ``retry_after`` seconds have passed."""

    def __init__(self, reason: str, retry_after: float) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class RequestError(TaskError):
    """A request that fails because of its own content, independently of the samples.

    The coordinator gets the text even if the task has already read samples. Raise this error only if it does not depend
    on the value of any sample or label, and if the text contains no such value.
    """


class TaskFailed(FedwsError):
    """A request that this worker could not carry out, for example because a disk is full.

    The coordinator excludes a worker after its third failure in a row.
    """


class TaskCancelled(FedwsError):
    """The cancellation of a task whose link was lost or whose node is shutting down."""


class StoreError(FedwsError):
    """The failure of an object store to accept or return a blob."""


class BlobMissing(StoreError):
    """The error that an object store does not have a blob, for example because another store was used."""


class BodyUnavailable(FedwsError):
    """A message whose body could not be fetched from an object store; ``message`` is the message without its body."""

    def __init__(self, message: Any, reason: str) -> None:
        super().__init__(reason)
        self.message = message


class RejectedUpdate(FedwsError):
    """A result whose tensors do not match the model."""


class RunFailed(FedwsError):
    """The end of a run before its last round."""


class UnexpectedNode(RunFailed):
    """A node at an address that is not the expected node, or that holds other data than before."""
