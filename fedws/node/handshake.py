"""The node's half of the handshake; the other half is in ``coordinator/handshake.py``."""

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
    """Receive ``hello``, check the coordinator's proof, and only then accept larger messages.

    ``first`` is the first message if it was received already. Raises LinkRefused for a coordinator without the key, the
    certificate or the owner's permission. Raises ProtocolError and LinkLost too.
    """
    hello, node = first or await channel.receive(), worker.node
    if not isinstance(hello, Hello):
        raise ProtocolError(f"unexpected message {MESSAGE_NAMES[type(hello)]!r}, expected 'hello'")
    if hello.protocol != PROTOCOL_VERSION:
        raise LinkRefused("protocol", f"{node} uses protocol {PROTOCOL_VERSION}, not {hello.protocol}")
    takeover_key = ""  # a coordinator without a network key sends no proof
    if credentials.key is not None:
        takeover_key = await _receive_proof(channel, hello, node, credentials.key, warning_log)
    tls = credentials.tls
    if tls is not None and tls.is_mutual and channel.peer != hello.coordinator:
        owner = channel.peer or "no single node"
        raise LinkRefused(
            "key", f"{to_printable(hello.coordinator, 64)} presented the certificate of {owner}; check --id"
        )
    if not worker.policy.allows_coordinator(channel.peer):
        peer = channel.peer or "a coordinator without a certificate"
        raise LinkRefused("policy", f"the policy of {node} does not allow {peer}")
    channel.mark_authenticated()
    return hello, RunClaim(hello.run, hello.coordinator, takeover_key)


async def _receive_proof(
    channel: Channel, hello: Hello, node: str, key: NetworkKey, warning_log: RateLimitedLog
) -> str:
    """Challenge the coordinator and return its takeover key after it has proved that it has ``key``."""
    challenge = handshake.create_challenge(key.secret, hello, node)
    await channel.send(challenge)
    try:
        proof = await channel.receive()
    except LinkLost as error:
        peer = f"a peer{format_peer_address(channel.address)}"
        warning_log.log(f"{peer} disconnected without proving the network key (unauthenticated reason: {error})")
        raise
    if not isinstance(proof, Proof):
        raise ProtocolError(f"unexpected message {MESSAGE_NAMES[type(proof)]!r}, expected 'proof'")
    handshake.verify_proof(key.secret, hello, challenge, proof)
    channel.set_session_key(handshake.derive_session_key(key.secret, hello, challenge))
    return proof.takeover_key
