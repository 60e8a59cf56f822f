"""The check that a node makes of each message on a link before it carries out the request."""

from fedws.core.errors import ProtocolError
from fedws.core.untrusted_text import to_printable
from fedws.protocol.messages import MESSAGE_NAMES, Message, TaskRequest

MAX_REQUEST_ID_CHARS = 128
"""Maximum length of a request id in characters."""
REMEMBERED_REQUEST_IDS = 4096
"""Number of request ids remembered per link; a repeated id breaks the protocol."""


class RequestCheck:
    """A check of the messages of one link to ``node``; each must be a new request for this node."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._seen_ids: dict[str, None] = {}  # oldest first

    def check(self, message: Message) -> TaskRequest:
        """Return ``message``. Raises ProtocolError unless it is a request for this node that was not sent before."""
        if not isinstance(message, TaskRequest):
            raise ProtocolError(f"unexpected message {MESSAGE_NAMES[type(message)]!r}, expected 'task_request'")
        if message.worker != self._node:
            raise ProtocolError(f"request is for {to_printable(message.worker, 64)}, not for {self._node}")
        if len(message.request_id) > MAX_REQUEST_ID_CHARS:
            raise ProtocolError(
                f"request id of {len(message.request_id)} characters exceeds the limit of {MAX_REQUEST_ID_CHARS}"
            )
        if message.request_id in self._seen_ids:
            raise ProtocolError(f"duplicate request {to_printable(message.request_id, 64)!r}")
        self._seen_ids[message.request_id] = None
        if len(self._seen_ids) > REMEMBERED_REQUEST_IDS:
            del self._seen_ids[next(iter(self._seen_ids))]
        return message
