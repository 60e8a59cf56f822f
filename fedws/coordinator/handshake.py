"""The coordinator's side of the handshake, which checks that the peer is the expected node."""

from dataclasses import dataclass
from typing import Literal

from fedws.core.errors import BodyUnavailable, LinkRefused, ProtocolError
from fedws.core.limits import DEFAULT_MAX_MESSAGE_BYTES
from fedws.core.untrusted_text import to_printable
from fedws.network.base import Channel
from fedws.protocol import handshake
from fedws.protocol.close_codes import CloseCode
from fedws.protocol.encoder import PROTOCOL_VERSION
from fedws.protocol.messages import MESSAGE_NAMES, Challenge, Hello, Message, Refusal, Welcome
from fedws.protocol.run_claim import RunClaim
from fedws.security.credentials import Credentials


@dataclass
class CoordinatorHandshake:
    """A handshake with one node, with the role and the data set that the node must have."""

    claim: RunClaim
    """Claim of the run, with its private key for this node."""
    node: str
    role: Literal["worker", "evaluator"]
    dataset: str
    credentials: Credentials
    has_body_store: bool = False
    """True if the run has an object store from which bodies can be fetched."""
    max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES
    """Size in bytes of the largest message that the coordinator accepts."""
    peer_authenticated: bool = False
    """True if the peer has proved that it has the network key."""
    _close_reason: str = "the coordinator ended the handshake"

    async def perform(self, channel: Channel) -> Welcome:
        """Perform the handshake on ``channel`` and return the node's welcome.

        Raises LinkError, such as LinkRefused, and closes the channel if the handshake fails.
        """
        try:
            welcome = self._check_answer(await self._exchange(channel))
            channel.mark_authenticated()
        except BodyUnavailable as error:  # no tensors were requested yet
            await channel.close(str(error), CloseCode.MESSAGE_REJECTED)
            raise ProtocolError(str(error)) from None
        except LinkRefused as refused:
            # A peer that is not authenticated gets no details.
            reason = f"rejected by the coordinator: {refused}" if self.peer_authenticated else self._close_reason
            await channel.close(reason)
            raise
        except BaseException:
            await channel.close(self._close_reason)
            raise
        return welcome

    async def _exchange(self, channel: Channel) -> Message:
        """Return the node's answer to the hello, after a check of its proof if a network key is set."""
        credentials = self.credentials
        key = credentials.key.secret if credentials.key is not None else None
        nonce = handshake.create_nonce() if key is not None else ""
        hello = Hello(
            run=self.claim.run,
            node=self.node,
            protocol=PROTOCOL_VERSION,
            coordinator=self.claim.coordinator,
            nonce=nonce,
            has_body_store=self.has_body_store,
            max_message_bytes=self.max_message_bytes,
        )
        await channel.send(hello)
        answer = await channel.receive()
        if key is not None and isinstance(answer, Challenge):
            try:
                proof = handshake.create_proof(key, hello, answer, self.claim.key)
            except LinkRefused:
                self._close_reason = "the network keys differ; compare the output of 'fedws key show' on both sides"
                raise
            if answer.node != self.node:  # an attacker may relay the proof of another node
                raise LinkRefused("node", f"this is {to_printable(answer.node, 64)}, not {self.node}")
            self.peer_authenticated = True
            await channel.send(proof)
            channel.set_session_key(handshake.derive_session_key(key, hello, answer))
            return await channel.receive()
        if key is not None and isinstance(answer, Welcome):
            self._close_reason = "the coordinator requires the network key; do not set --insecure"
            raise LinkRefused("key", "it does not authenticate (--insecure); set its --key-file or FEDWS_KEY")
        return answer

    def _check_answer(self, answer: Message) -> Welcome:
        if isinstance(answer, Refusal):
            is_trusted = self.peer_authenticated or self.credentials.key is None
            prefix = "" if is_trusted else "unauthenticated refusal: "
            raise LinkRefused(answer.kind, f"{prefix}{to_printable(answer.reason)}")
        if not isinstance(answer, Welcome):
            raise ProtocolError(f"unexpected message {MESSAGE_NAMES[type(answer)]!r}, expected 'welcome'")
        if answer.node != self.node:
            raise LinkRefused("node", f"this is {to_printable(answer.node, 64)}, not {self.node}")
        if answer.role != self.role:
            raise LinkRefused("node", f"it is {_with_article(answer.role)}, not {_with_article(self.role)}")
        if answer.dataset != self.dataset:
            raise LinkRefused("node", f"it holds {to_printable(answer.dataset, 64)}, not {self.dataset}; see --dataset")
        return answer


def _with_article(role: str) -> str:
    return f"an {role}" if role == "evaluator" else f"a {role}"
