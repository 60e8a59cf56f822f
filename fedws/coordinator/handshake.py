"""The coordinator's half of a handshake: whether the other end of a link is the node that is meant."""

from dataclasses import dataclass
from typing import Literal

from fedws.core.errors import ProtocolError, Refused, Undelivered, printable
from fedws.core.limits import MESSAGE
from fedws.network.base import Channel
from fedws.protocol import handshake
from fedws.protocol.close_codes import CloseCode
from fedws.protocol.encoder import VERSION
from fedws.protocol.messages import Challenge, Hello, Message, Refusal, Welcome
from fedws.protocol.run_claim import Claim
from fedws.security.credentials import Security


@dataclass
class Greeting:
    """One handshake: for which run, which node, and what it must be and hold."""

    claim: Claim
    """The run, with its private key for this node."""
    node: str
    role: Literal["worker", "evaluator"]
    dataset: str
    security: Security
    blobs: bool = False
    """Whether bodies can be fetched from the run's object store."""
    max_message: int = MESSAGE
    """Bytes of the largest message that the coordinator accepts."""
    proved: bool = False
    """Whether the other end has shown that it knows the network key."""

    async def greet(self, channel: Channel) -> Welcome:
        """Shake hands on a link, which is closed if that comes to nothing. Raises LinkError, as Refused."""
        try:
            welcome = self._judged(await self._answer(channel))
            channel.admit()
        except Undelivered as error:  # nobody has asked for tensors yet
            await channel.close(str(error), CloseCode.NOT_TAKEN)
            raise ProtocolError(str(error)) from None
        except BaseException:
            await channel.close("the coordinator did not go on")
            raise
        return welcome

    async def _answer(self, channel: Channel) -> Message:
        """What a node says at last, whose proof is right if one is due."""
        security = self.security
        key = security.key.secret if security.key is not None else None
        nonce = handshake.nonce() if key is not None else ""
        hello = Hello(
            run=self.claim.run,
            node=self.node,
            protocol=VERSION,
            coordinator=self.claim.coordinator,
            nonce=nonce,
            blobs=self.blobs,
            max_message=self.max_message,
        )
        await channel.send(hello)
        answer = await channel.receive()
        if key is not None and isinstance(answer, Challenge):
            proof = handshake.prove(key, hello, answer, self.claim.key)
            if answer.node != self.node:  # one that was asked by a stranger, who passes its proof off as his
                raise Refused("node", f"this is {printable(answer.node, 64)}, not {self.node}")
            self.proved = True
            await channel.send(proof)
            channel.protect(handshake.session(key, hello, answer))
            return await channel.receive()
        if key is not None and isinstance(answer, Welcome):
            raise Refused("key", "it takes part --insecure, and proves nothing; give it --key-file or FEDWS_KEY")
        return answer

    def _judged(self, answer: Message) -> Welcome:
        if isinstance(answer, Refusal):
            unproved = "" if self.proved or self.security.key is None else "says, without a proof of the key: "
            raise Refused(answer.kind, f"{unproved}{printable(answer.reason)}")
        if not isinstance(answer, Welcome):
            raise ProtocolError(f"{type(answer).__name__.lower()} where a welcome was due")
        if answer.role != self.role:
            raise Refused("node", f"it is {_article(answer.role)}, not {_article(self.role)}")
        if answer.dataset != self.dataset:
            raise Refused("node", f"it holds {printable(answer.dataset, 64)}, not {self.dataset}; see --dataset")
        return answer


def _article(role: str) -> str:
    return f"an {role}" if role == "evaluator" else f"a {role}"
