"""The proofs by which the two ends of a link prove that they have the network key, which is never sent.

    coordinator                                            node
    hello(run, coordinator, node, nonce)            ->
                                                    <-     challenge(node, nonce, proof of the node)
    proof(proof, takeover_key, signature)           ->
                                                    <-     welcome, or a refusal

A proof is an HMAC-SHA256 under the network key. It covers both nonces, both ids, the run, and the side that makes it.
A proof is therefore useless on another link, for another run or node, or in the other direction (ISO/IEC 9798-4, the
three passes of mutual authentication). It proves membership in the network, but not which member the peer is. The
handshake does not protect later messages. TLS provides both.

``takeover_key`` is the run's public key for this node (``fedws.protocol.run_claim``). ``signature`` is made with the
private key, so a member that observed one handshake cannot sign the next. The coordinator's proof covers the public
key too.
"""

import hmac
import secrets
from dataclasses import replace
from typing import Literal

from fedws.core.errors import LinkRefused
from fedws.core.untrusted_text import to_printable
from fedws.protocol.messages import Challenge, Hello, Proof
from fedws.protocol.run_claim import derive_public_key, is_valid_signature, sign

KEY_MISMATCH_REMEDY = "copy the key: run 'fedws key show' there and set --key-file or FEDWS_KEY here"
ProofPurpose = Literal["coordinator", "node", "link", "takeover"]


def create_nonce() -> str:
    """Return a fresh nonce of 32 random bytes, as hexadecimal digits."""
    return secrets.token_hex(32)


def compute_proof(
    key: bytes, purpose: ProofPurpose, hello: Hello, node: str, nonce: str, takeover_key: str = ""
) -> str:
    """Return the proof for ``purpose`` that its sender has ``key``, as 64 hexadecimal digits.

    ``node`` and ``nonce`` are those of the challenge. ``takeover_key`` is that of the coordinator's proof.

    >>> hello = Hello(run="r", node="alice", protocol=1, nonce="00" * 32)
    >>> compute_proof(bytes(32), "node", hello, "alice", "11" * 32)[:16]
    '10c50b2f6f592865'
    """
    return hmac.digest(key, _encode_fields(purpose, hello, node, nonce, takeover_key), "sha256").hex()


def create_challenge(key: bytes, hello: Hello, node: str) -> Challenge:
    """Return the node's challenge. Raises LinkRefused if ``hello`` has no nonce, since its sender then has no key."""
    if not hello.nonce:
        raise LinkRefused(
            "key", f"{node} requires the network key (--key-file or FEDWS_KEY), but the coordinator uses --insecure"
        )
    challenge = Challenge(node=node, nonce=create_nonce(), proof="")
    return replace(challenge, proof=compute_proof(key, "node", hello, node, challenge.nonce))


def create_proof(key: bytes, hello: Hello, challenge: Challenge, private_key: str) -> Proof:
    """Return the coordinator's proof, signed with ``private_key``, the run's private key for this node.

    Raises LinkRefused if the node does not have the network key.
    """
    if not _equal_in_constant_time(challenge.proof, compute_proof(key, "node", hello, challenge.node, challenge.nonce)):
        raise LinkRefused(
            "key", f"{to_printable(challenge.node, 64)} has a different network key; {KEY_MISMATCH_REMEDY}"
        )
    takeover = derive_public_key(private_key)
    own = compute_proof(key, "coordinator", hello, challenge.node, challenge.nonce, takeover)
    signature = sign(private_key, _encode_fields("takeover", hello, challenge.node, challenge.nonce, takeover))
    return Proof(proof=own, takeover_key=takeover, signature=signature)


def verify_proof(key: bytes, hello: Hello, challenge: Challenge, proof_message: Proof) -> None:
    """Check the coordinator's proof.

    Raises LinkRefused if the coordinator does not have the network key or the private key of its run.
    """
    if not _equal_in_constant_time(
        proof_message.proof,
        compute_proof(key, "coordinator", hello, challenge.node, challenge.nonce, proof_message.takeover_key),
    ):
        raise LinkRefused(
            "key", f"the coordinator has a different network key than {challenge.node}; {KEY_MISMATCH_REMEDY}"
        )
    data = _encode_fields("takeover", hello, challenge.node, challenge.nonce, proof_message.takeover_key)
    if not is_valid_signature(proof_message.takeover_key, data, proof_message.signature):
        raise LinkRefused("key", "the coordinator does not have the key of its run: invalid signature; start a new run")


def derive_session_key(key: bytes, hello: Hello, challenge: Challenge) -> bytes:
    """Return the session key of this link, 32 bytes that only its two ends and holders of the network key can derive.

    It is never sent.
    """
    return bytes.fromhex(compute_proof(key, "link", hello, challenge.node, challenge.nonce))


def _encode_fields(purpose: ProofPurpose, hello: Hello, node: str, nonce: str, takeover_key: str) -> bytes:
    """Return the fields of a proof, each with its length as a prefix, so that the encoding is unambiguous."""
    fields = ("fedws", purpose, hello.run, hello.coordinator, hello.node, node, hello.nonce, nonce)
    encoded = [field.encode() for field in (*fields, *([takeover_key] if takeover_key else ()))]
    return b"".join(len(field).to_bytes(4, "little") + field for field in encoded)


def _equal_in_constant_time(received: str, expected: str) -> bool:
    """Return whether two texts are equal, in a time that does not depend on the position of a difference."""
    return hmac.compare_digest(received.encode(), expected.encode())
