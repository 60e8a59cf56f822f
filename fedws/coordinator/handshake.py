"""The coordinator's half of a handshake: whether the other end of a link is the node that is meant."""

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
    """One handshake: for which run, which node, and what it must be and hold."""

    claim: RunClaim
    """The run, with its private key for this node."""
    node: str
    role: Literal["worker", "evaluator"]
    dataset: str
    credentials: Credentials
    has_body_store: bool = False
    """Whether bodies can be fetched from the run's object store."""
    max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES
    """Bytes of the largest message that the coordinator accepts."""
    peer_authenticated: bool = False
    """Whether the other end has shown that it knows the network key."""

    async def perform(self, channel: Channel) -> Welcome:
        """Shake hands on a link, which is closed if that comes to nothing. Raises LinkError, as LinkRefused."""
        try:
            welcome = self._check_answer(await self._exchange(channel))
            channel.mark_authenticated()
        except BodyUnavailable as error:  # nobody has asked for tensors yet
            await channel.close(str(error), CloseCode.MESSAGE_REJECTED)
            raise ProtocolError(str(error)) from None
        except BaseException:
            await channel.close("the coordinator did not go on")
            raise
        return welcome

    async def _exchange(self, channel: Channel) -> Message:
        """What a node says at last, whose proof is right if one is due."""
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
            proof = handshake.create_proof(key, hello, answer, self.claim.key)
            if answer.node != self.node:  # one that was asked by a stranger, who passes its proof off as his
                raise LinkRefused("node", f"this is {to_printable(answer.node, 64)}, not {self.node}")
            self.peer_authenticated = True
            await channel.send(proof)
            channel.set_session_key(handshake.derive_session_key(key, hello, answer))
            return await channel.receive()
        if key is not None and isinstance(answer, Welcome):
            raise LinkRefused("key", "it takes part --insecure, and proves nothing; give it --key-file or FEDWS_KEY")
        return answer

    def _check_answer(self, answer: Message) -> Welcome:
        if isinstance(answer, Refusal):
            unproved = (
                "" if self.peer_authenticated or self.credentials.key is None else "says, without a proof of the key: "
            )
            raise LinkRefused(answer.kind, f"{unproved}{to_printable(answer.reason)}")
        if not isinstance(answer, Welcome):
            raise ProtocolError(f"{MESSAGE_NAMES[type(answer)]} where a welcome was due")
        if answer.role != self.role:
            raise LinkRefused("node", f"it is {_with_article(answer.role)}, not {_with_article(self.role)}")
        if answer.dataset != self.dataset:
            raise LinkRefused("node", f"it holds {to_printable(answer.dataset, 64)}, not {self.dataset}; see --dataset")
        return answer


def _with_article(role: str) -> str:
    return f"an {role}" if role == "evaluator" else f"a {role}"
