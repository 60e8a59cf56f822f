"""The node's half of the handshake; ``coordinator/handshake.py`` has the other."""

from fedws.core.addresses import format_peer_address
from fedws.core.errors import LinkLost, LinkRefused, ProtocolError
from fedws.core.rate_limited_log import RateLimitedLog
from fedws.core.untrusted_text import to_printable
from fedws.network.base import Channel
from fedws.node.worker import Worker
from fedws.protocol import handshake
from fedws.protocol.encoder import PROTOCOL_VERSION
from fedws.protocol.messages import MESSAGE_NAMES, Hello, Message, Proof
from fedws.protocol.run_claim import RunClaim
from fedws.security.credentials import Credentials
from fedws.security.network_key import NetworkKey


async def authenticate(
    channel: Channel, first: Message | None, worker: Worker, credentials: Credentials, warning_log: RateLimitedLog
) -> tuple[Hello, RunClaim]:
    """Receive ``hello`` and check the coordinator's proof; only then accept larger messages.

    ``first`` is the first message, where it was received already. Raises LinkRefused for a coordinator that does not
    have the key, the certificate or the owner's permission, ProtocolError, and LinkLost.
    """
    hello, node = first or await channel.receive(), worker.node
    if not isinstance(hello, Hello):
        raise ProtocolError(f"{MESSAGE_NAMES[type(hello)]} before hello")
    if hello.protocol != PROTOCOL_VERSION:
        raise LinkRefused("protocol", f"{node} speaks protocol {PROTOCOL_VERSION}, not {hello.protocol}")
    takeover_key = ""  # a coordinator without a network key sends no proof
    if credentials.key is not None:
        takeover_key = await _receive_proof(channel, hello, node, credentials.key, warning_log)
    tls = credentials.tls
    if tls is not None and tls.is_mutual and channel.peer != hello.coordinator:
        owner = channel.peer or "no node alone"
        raise LinkRefused("key", f"{to_printable(hello.coordinator, 64)} shows the certificate of {owner}; see --id")
    if not worker.policy.allows_coordinator(channel.peer):
        peer = channel.peer or "a caller without a certificate"
        raise LinkRefused("policy", f"the policy of {node} does not name {peer}")
    channel.mark_authenticated()
    return hello, RunClaim(hello.run, hello.coordinator, takeover_key)


async def _receive_proof(
    channel: Channel, hello: Hello, node: str, key: NetworkKey, warning_log: RateLimitedLog
) -> str:
    """Challenge the coordinator; return its takeover key once it has proved that it knows ``key``."""
    challenge = handshake.create_challenge(key.secret, hello, node)
    await channel.send(challenge)
    try:
        proof = await channel.receive()
    except LinkLost:  # most likely it has another key, and its own side has logged that
        warning_log.log(f"a caller{format_peer_address(channel.address)} left without a proof of the network key")
        raise
    if not isinstance(proof, Proof):
        raise ProtocolError(f"{MESSAGE_NAMES[type(proof)]} where a proof was due")
    handshake.verify_proof(key.secret, hello, challenge, proof)
    channel.set_session_key(handshake.derive_session_key(key.secret, hello, challenge))
    return proof.takeover_key
