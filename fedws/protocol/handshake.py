"""How the two ends of a link prove to each other that they know the network key, which never crosses the wire.

    coordinator                                            node
    hello(run, coordinator, node, nonce)            ->
                                                    <-     challenge(node, nonce, proof of the node)
    proof(proof of the coordinator, takeover, signature)  ->
                                                    <-     welcome, or a refusal

A proof is an HMAC-SHA256 under the key of both nonces, both ids, the run, and the side that it is made for, so that no
proof is of use on another link, for another run or node, or in the other direction (ISO/IEC 9798-4, the three passes of
mutual authentication). It says that the other end is a member of the network, not which one; and nothing after it is
protected: both is for TLS.

``takeover`` is the run's public key for this node (:mod:`fedws.protocol.run_claim`), and ``signature`` is made with the
private one: a member that has heard one handshake cannot make the signature of the next. The proof of the coordinator
covers the public key too.
"""

import hmac
import secrets
from dataclasses import replace
from typing import Literal

from fedws.core.errors import Refused, printable
from fedws.protocol.messages import Challenge, Hello, Proof
from fedws.protocol.run_claim import public, sign, signed

REMEDY = "the key of one must be given to the other: 'fedws key show' there, --key-file or FEDWS_KEY here"
Side = Literal["coordinator", "node", "link", "takeover"]


def nonce() -> str:
    """32 bytes that were never used before, as hexadecimal digits."""
    return secrets.token_hex(32)


def proof(key: bytes, side: Side, hello: Hello, node: str, nonce: str, takeover: str = "") -> str:
    """Return the proof that ``side`` has ``key``, 64 hexadecimal digits.

    ``node`` and ``nonce`` are the challenge's, and ``takeover`` is that of the proof of the coordinator.

    >>> hello = Hello(run="r", node="alice", protocol=1, nonce="00" * 32)
    >>> proof(bytes(32), "node", hello, "alice", "11" * 32)[:16]
    '10c50b2f6f592865'
    """
    return hmac.digest(key, _framed(side, hello, node, nonce, takeover), "sha256").hex()


def challenge(key: bytes, hello: Hello, node: str) -> Challenge:
    """The node's side of it. Raises Refused when the caller brings no nonce: it has no key."""
    if not hello.nonce:
        raise Refused("key", f"{node} asks for the network key (--key-file or FEDWS_KEY), and was called --insecure")
    challenge = Challenge(node=node, nonce=nonce(), proof="")
    return replace(challenge, proof=proof(key, "node", hello, node, challenge.nonce))


def prove(key: bytes, hello: Hello, challenge: Challenge, private: str) -> Proof:
    """Return the coordinator's proof, signed with the run's ``private`` key for this node.

    Raises Refused when the node does not have the network key.
    """
    if not _equal(challenge.proof, proof(key, "node", hello, challenge.node, challenge.nonce)):
        raise Refused("key", f"{printable(challenge.node, 64)} has another network key; {REMEDY}")
    takeover = public(private)
    own = proof(key, "coordinator", hello, challenge.node, challenge.nonce, takeover)
    signature = sign(private, _framed("takeover", hello, challenge.node, challenge.nonce, takeover))
    return Proof(proof=own, takeover=takeover, signature=signature)


def check(key: bytes, hello: Hello, challenge: Challenge, given: Proof) -> None:
    """Check the coordinator's proof. Raises Refused when the caller does not have the network key, or the run's."""
    if not _equal(given.proof, proof(key, "coordinator", hello, challenge.node, challenge.nonce, given.takeover)):
        raise Refused("key", f"the caller has another network key than {challenge.node}; {REMEDY}")
    data = _framed("takeover", hello, challenge.node, challenge.nonce, given.takeover)
    if not signed(given.takeover, data, given.signature):
        raise Refused("key", "the caller does not have the key of its run: the signature is wrong; start a new run")


def session(key: bytes, hello: Hello, challenge: Challenge) -> bytes:
    """32 bytes that the two ends of this link have, and nobody else without the network key; never sent."""
    return bytes.fromhex(proof(key, "link", hello, challenge.node, challenge.nonce))


def _framed(side: Side, hello: Hello, node: str, nonce: str, takeover: str) -> bytes:
    """Return the texts of a proof, each after its length, so that none runs into the next."""
    fields = ("fedws", side, hello.run, hello.coordinator, hello.node, node, hello.nonce, nonce)
    encoded = [field.encode() for field in (*fields, *([takeover] if takeover else ()))]
    return b"".join(len(field).to_bytes(4, "little") + field for field in encoded)


def _equal(given: str, right: str) -> bool:
    """Compared in a time that does not tell how much of it is right."""
    return hmac.compare_digest(given.encode(), right.encode())
