"""What a node checks of each message on a link before it carries out the request."""

from fedws.core.errors import ProtocolError
from fedws.core.untrusted_text import to_printable
from fedws.protocol.messages import MESSAGE_NAMES, Message, TaskRequest

MAX_REQUEST_ID_CHARS = 128
"""Characters of a request's id."""
REMEMBERED_REQUEST_IDS = 4096
"""Ids of the last requests of a link; one that comes a second time breaks the protocol."""


class RequestCheck:
    """Checks the messages of one link to ``node``, each of which must be a new request for it."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._seen_ids: dict[str, None] = {}  # oldest first

    def check(self, message: Message) -> TaskRequest:
        """Return ``message``. Raises ProtocolError unless it is a request for this node that was not sent before."""
        if not isinstance(message, TaskRequest):
            raise ProtocolError(f"{MESSAGE_NAMES[type(message)]} where a request was due")
        if message.worker != self._node:
            raise ProtocolError(f"a request for {to_printable(message.worker, 64)}; this is {self._node}")
        if len(message.request_id) > MAX_REQUEST_ID_CHARS:
            raise ProtocolError(f"a request id of {len(message.request_id)} characters; at most {MAX_REQUEST_ID_CHARS}")
        if message.request_id in self._seen_ids:
            raise ProtocolError(f"request {to_printable(message.request_id, 64)} a second time")
        self._seen_ids[message.request_id] = None
        if len(self._seen_ids) > REMEMBERED_REQUEST_IDS:
            del self._seen_ids[next(iter(self._seen_ids))]
        return message
