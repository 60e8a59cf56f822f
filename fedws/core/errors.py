"""Every error that fedws raises on purpose.

    FedwsError
    ├── UsageError               a setting that cannot work: one line for the person who typed it
    │   ├── UnknownName          no piece of that name; the message names the nearest
    │   ├── PieceFailed          the code of a piece raised an error; its text may tell of the data
    │   └── MessageTooLarge      a message above what its receiver accepts
    ├── LinkError                something between two nodes
    │   ├── Unreachable          no node answered at that address
    │   ├── LinkLost             the other node was connected and is gone, or silent
    │   │   ├── MessageRejected  it closed the link since it does not accept such a message, as one above its limit
    │   │   └── TakenOver        it closed the link since another link of the same run has the node
    │   ├── ProtocolError        the other node sent bytes that are not the protocol's
    │   └── LinkRefused          the other node refused, with a reason
    ├── TaskError                a request that this worker will not carry out in this run; answered with a TaskFailure
    │   ├── RetryLater           not before a stated time has passed
    │   └── RequestError         whatever the samples are, so that its text may leave the node after they were read
    ├── TaskFailed               a request that this worker could not carry out; it may be tried again
    ├── TaskCancelled            a task was cancelled: its link is gone, or its node is ending
    ├── StoreError               an object store did not accept or return a body
    ├── BodyUnavailable          a message came, but its body, which is in an object store, did not
    ├── RejectedUpdate           a result whose tensors do not fit the model being aggregated
    └── RunFailed                the run ended without reaching its last round
        └── UnexpectedNode       the node at an address is not the one that was meant

Foreign errors (of sockets, of websockets, of pydantic) become one of these in the one file that meets them.
"""

import difflib
from collections.abc import Iterable
from typing import Any, Literal

from fedws.core.untrusted_text import to_line

RefusalKind = Literal["busy", "node", "protocol", "key", "policy"]
"""Why a node refuses a link: it is busy, another id lives there, it speaks another protocol, the network key or a

certificate is not the right one, or its owner's policy forbids it.
"""


class FedwsError(Exception):
    """The root of the tree; its text is one printable line of at most :data:`fedws.core.untrusted_text.MAX_LINE_CHARS`
    characters."""

    def __init__(self, *args: object) -> None:
        super().__init__(*(to_line(each) if isinstance(each, str) else each for each in args))


class UsageError(FedwsError):
    """A setting that cannot work."""


class UnknownName(UsageError):
    """No piece of that kind has that name.

    >>> print(UnknownName("algorithm", "fedavgg", ["fedavg", "fedsgd"]))
    unknown algorithm 'fedavgg': did you mean fedavg or fedsgd? There are fedavg, fedsgd
    """

    def __init__(self, kind: str, name: str, known: Iterable[str], *, suggest_plugin: bool = False) -> None:
        known = sorted(known)
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        guess = f"did you mean {' or '.join(near)}? " if near else ""
        have = f"There are {', '.join(known)}" if known else "There are none"
        hint = "; one of your own needs --plugin FILE.py" if suggest_plugin else ""
        super().__init__(f"unknown {kind} {name!r}: {guess}{have}{hint}")


class PieceFailed(UsageError):
    """The code of a piece raised an error, which is this one's cause; the text may tell of the data."""


class MessageTooLarge(UsageError):
    """A message above what its receiver accepts; the text says what the message has, and the limit."""


class LinkError(FedwsError):
    """Something went wrong between two nodes."""


class Unreachable(LinkError):
    """Nobody answered at an address."""


class LinkLost(LinkError):
    """The link was open and is closed, or its other end fell silent."""


class MessageRejected(LinkLost):
    """The other end closed the link since it does not take what was sent."""


class TakenOver(LinkLost):
    """Another link of the same run has the node."""


class ProtocolError(LinkError):
    """The other end sent bytes that are not the protocol's."""


class LinkRefused(LinkError):
    """The other node refused the link, and said why.

    ``kind`` is that of a :class:`fedws.protocol.messages.Refusal`.
    """

    def __init__(self, kind: RefusalKind, reason: str) -> None:
        super().__init__(reason)
        self.kind: RefusalKind = kind


class TaskError(FedwsError):
    """A request that this worker will not carry out in this run: the coordinator excludes the worker at once."""


class RetryLater(TaskError):
    """A request that this worker will not carry out before ``retry_after`` have passed."""

    def __init__(self, reason: str, retry_after: float) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class RequestError(TaskError):
    """A request that fails for its own content, independent of any sample.

    The coordinator gets the text also where a task raises it after it has read samples. Raise it only where no value
    of a sample or label decides whether it is raised, and none is in the text.
    """


class TaskFailed(FedwsError):
    """A request that this worker could not carry out, as on a full disk; the third in a row excludes the worker."""


class TaskCancelled(FedwsError):
    """The task was told to stop: its link is gone or the node is ending."""


class StoreError(FedwsError):
    """An object store did not take or give a blob."""


class BodyUnavailable(FedwsError):
    """A message whose body is in an object store, and cannot be had; ``message`` is the rest of it."""

    def __init__(self, message: Any, reason: str) -> None:
        super().__init__(reason)
        self.message = message


class RejectedUpdate(FedwsError):
    """A result whose tensors do not fit the model being aggregated."""


class RunFailed(FedwsError):
    """The run ended without reaching its last round."""


class UnexpectedNode(RunFailed):
    """Who answers at an address is not the node that was meant, or holds other data."""
