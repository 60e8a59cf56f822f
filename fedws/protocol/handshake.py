"""How the two ends of a link prove to each other that they know the network key, which never crosses the wire.

    coordinator                                            node
    hello(run, coordinator, node, nonce)            ->
                                                    <-     challenge(node, nonce, proof of the node)
    proof(proof, takeover_key, signature)           ->
                                                    <-     welcome, or a refusal

A proof is an HMAC-SHA256 under the key of both nonces, both ids, the run, and the side that it is made for, so that no
proof is of use on another link, for another run or node, or in the other direction (ISO/IEC 9798-4, the three passes of
mutual authentication). It says that the other end is a member of the network, not which one; and nothing after it is
protected: both is for TLS.

``takeover_key`` is the run's public key for this node (:mod:`fedws.protocol.run_claim`), and ``signature`` is made with
the private one: a member that has heard one handshake cannot make the signature of the next. The proof of the
coordinator covers the public key too.
"""

import hmac
import secrets
from dataclasses import replace
from typing import Literal

from fedws.core.errors import LinkRefused
from fedws.core.untrusted_text import to_printable
from fedws.protocol.messages import Challenge, Hello, Proof
from fedws.protocol.run_claim import derive_public_key, is_valid_signature, sign

KEY_MISMATCH_REMEDY = "the key of one must be given to the other: 'fedws key show' there, --key-file or FEDWS_KEY here"
ProofPurpose = Literal["coordinator", "node", "link", "takeover"]


def create_nonce() -> str:
    """32 bytes that were never used before, as hexadecimal digits."""
    return secrets.token_hex(32)


def compute_proof(
    key: bytes, purpose: ProofPurpose, hello: Hello, node: str, nonce: str, takeover_key: str = ""
) -> str:
    """Return the proof for ``purpose`` that its maker has ``key``, as 64 hexadecimal digits.

    ``node`` and ``nonce`` are the challenge's, and ``takeover_key`` is that of the proof of the coordinator.

    >>> hello = Hello(run="r", node="alice", protocol=1, nonce="00" * 32)
    >>> compute_proof(bytes(32), "node", hello, "alice", "11" * 32)[:16]
    '10c50b2f6f592865'
    """
    return hmac.digest(key, _encode_fields(purpose, hello, node, nonce, takeover_key), "sha256").hex()


def create_challenge(key: bytes, hello: Hello, node: str) -> Challenge:
    """The node's side of it. Raises Refused when the caller brings no nonce: it has no key."""
    if not hello.nonce:
        raise LinkRefused(
            "key", f"{node} asks for the network key (--key-file or FEDWS_KEY), and was called --insecure"
        )
    challenge = Challenge(node=node, nonce=create_nonce(), proof="")
    return replace(challenge, proof=compute_proof(key, "node", hello, node, challenge.nonce))


def create_proof(key: bytes, hello: Hello, challenge: Challenge, private_key: str) -> Proof:
    """Return the coordinator's proof, signed with the run's ``private_key`` key for this node.

    Raises Refused when the node does not have the network key.
    """
    if not _equal_in_constant_time(challenge.proof, compute_proof(key, "node", hello, challenge.node, challenge.nonce)):
        raise LinkRefused("key", f"{to_printable(challenge.node, 64)} has another network key; {KEY_MISMATCH_REMEDY}")
    takeover = derive_public_key(private_key)
    own = compute_proof(key, "coordinator", hello, challenge.node, challenge.nonce, takeover)
    signature = sign(private_key, _encode_fields("takeover", hello, challenge.node, challenge.nonce, takeover))
    return Proof(proof=own, takeover_key=takeover, signature=signature)


def verify_proof(key: bytes, hello: Hello, challenge: Challenge, proof_message: Proof) -> None:
    """Check the coordinator's proof. Raises Refused when the caller does not have the network key, or the run's."""
    if not _equal_in_constant_time(
        proof_message.proof,
        compute_proof(key, "coordinator", hello, challenge.node, challenge.nonce, proof_message.takeover_key),
    ):
        raise LinkRefused("key", f"the caller has another network key than {challenge.node}; {KEY_MISMATCH_REMEDY}")
    data = _encode_fields("takeover", hello, challenge.node, challenge.nonce, proof_message.takeover_key)
    if not is_valid_signature(proof_message.takeover_key, data, proof_message.signature):
        raise LinkRefused("key", "the caller does not have the key of its run: the signature is wrong; start a new run")


def derive_session_key(key: bytes, hello: Hello, challenge: Challenge) -> bytes:
    """32 bytes that the two ends of this link have, and nobody else without the network key; never sent."""
    return bytes.fromhex(compute_proof(key, "link", hello, challenge.node, challenge.nonce))


def _encode_fields(purpose: ProofPurpose, hello: Hello, node: str, nonce: str, takeover_key: str) -> bytes:
    """Return the texts of a proof, each after its length, so that none runs into the next."""
    fields = ("fedws", purpose, hello.run, hello.coordinator, hello.node, node, hello.nonce, nonce)
    encoded = [field.encode() for field in (*fields, *([takeover_key] if takeover_key else ()))]
    return b"".join(len(field).to_bytes(4, "little") + field for field in encoded)


def _equal_in_constant_time(received: str, expected: str) -> bool:
    """Compared in a time that does not tell how much of it is right."""
    return hmac.compare_digest(received.encode(), expected.encode())
