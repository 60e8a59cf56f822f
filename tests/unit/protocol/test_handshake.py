"""Both ends prove that they know the key, to each other, here and now; nothing else proves it."""

import dataclasses
import hashlib
import hmac
import struct
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fedws.core.errors import LinkRefused
from fedws.protocol import handshake
from fedws.protocol.handshake import ProofPurpose
from fedws.protocol.messages import Challenge, Hello, Proof
from tests.helpers.support import TAKEOVER

KEY, OTHER = bytes(range(32)), bytes(range(1, 33))
SIDES: tuple[ProofPurpose, ProofPurpose] = ("coordinator", "node")
names = st.text(st.characters(codec="utf-8"), max_size=64)
nonces = st.binary(min_size=32, max_size=32).map(bytes.hex)
keys = st.binary(min_size=32, max_size=32)
hellos = st.builds(Hello, run=names, node=names, protocol=st.integers(0, 2**64 - 1), coordinator=names, nonce=nonces)


def hello(**changes: Any) -> Hello:
    """A coordinator's first word."""
    given: dict[str, Any] = {"run": "run", "node": "alice", "protocol": 1, "coordinator": "c"}
    return Hello(**{**given, "nonce": handshake.create_nonce(), **changes})


def refused(what: Any, *given: Any) -> str:
    """Why it was refused: for want of the key."""
    with pytest.raises(LinkRefused) as error:
        what(*given)
    assert error.value.kind == "key"
    return str(error.value)


@given(keys, hellos, names)
def test_who_knows_the_key_is_believed(key: bytes, said: Hello, node: str) -> None:
    asked = handshake.create_challenge(key, said, node)
    handshake.verify_proof(key, said, asked, handshake.create_proof(key, said, asked, TAKEOVER))


@given(keys, keys, hellos, names)
def test_who_has_another_key_is_not(key: bytes, other: bytes, said: Hello, node: str) -> None:
    assume(key != other)
    foreign = handshake.create_challenge(other, said, node)
    assert "has a different network key" in refused(handshake.create_proof, key, said, foreign, TAKEOVER)
    own = handshake.create_challenge(key, said, node)
    given = Proof(proof=handshake.compute_proof(other, "coordinator", said, node, own.nonce), takeover_key=TAKEOVER)
    assert "has a different network key" in refused(handshake.verify_proof, key, said, own, given)


def test_a_refusal_names_both_remedies_and_no_secret() -> None:
    said = hello()
    asked = handshake.create_challenge(KEY, said, "alice")
    right = handshake.create_proof(KEY, said, asked, TAKEOVER)
    wrong = Proof(proof="00" * 32, takeover_key=TAKEOVER)
    texts = [
        refused(handshake.create_proof, OTHER, said, asked, TAKEOVER),
        refused(handshake.verify_proof, KEY, said, asked, wrong),
        refused(handshake.create_challenge, KEY, hello(nonce=""), "alice"),
    ]
    for text in texts:
        assert "--key-file" in text and "FEDWS_KEY" in text
        assert not any(secret in text for secret in (KEY.hex(), right.proof, asked.proof))


CHANGES: dict[str, Any] = {"run": "run2", "node": "bob", "coordinator": "d", "nonce": "ab" * 32}
"""All but the protocol: a node goes on with no other than its own, so both sides have the same in mind."""


def test_every_other_field_is_in_a_proof() -> None:
    assert {field.name for field in dataclasses.fields(Hello)} - {
        "protocol",
        "has_body_store",
        "max_message_bytes",
        "max_tensors",
    } == set(CHANGES)


@pytest.mark.parametrize("field", CHANGES)
def test_a_hello_that_is_changed_on_its_way_proves_nothing(field: str) -> None:
    """To either side."""
    said = hello()
    heard = dataclasses.replace(said, **{field: CHANGES[field]})
    asked = handshake.create_challenge(KEY, heard, "alice")
    refused(handshake.create_proof, KEY, said, asked, TAKEOVER)
    genuine = handshake.create_proof(KEY, said, handshake.create_challenge(KEY, said, "alice"), TAKEOVER)
    refused(handshake.verify_proof, KEY, heard, asked, genuine)


@given(hellos, names, st.data())
def test_no_proof_holds_when_anything_is_changed(said: Hello, node: str, data: st.DataObject) -> None:
    nonce, side = data.draw(nonces), data.draw(st.sampled_from(SIDES))
    what = data.draw(st.sampled_from(["key", "side", "challenge.node", "challenge.nonce", *CHANGES]))
    right = handshake.compute_proof(KEY, side, said, node, nonce)
    given: list[Any] = [KEY, side, said, node, nonce]
    if what == "key":
        given[0] = data.draw(keys)
    elif what == "side":
        given[1] = "node" if side == "coordinator" else "coordinator"
    elif what == "challenge.node":
        given[3] = data.draw(names)
    elif what == "challenge.nonce":
        given[4] = data.draw(nonces)
    else:
        given[2] = dataclasses.replace(said, **{what: getattr(data.draw(hellos), what)})
    assume(given != [KEY, side, said, node, nonce])
    assert handshake.compute_proof(*given) != right


@given(names, names, names, names)
def test_text_moved_from_one_field_to_the_next_is_another_proof(one: str, two: str, three: str, four: str) -> None:
    """Whatever the ids hold: what was framed can be told apart again."""
    assume(two)
    nonce = "22" * 32
    said = hello(run=one, coordinator=two, node=three, nonce="11" * 32)
    moved = dataclasses.replace(said, run=one + two[0], coordinator=two[1:])
    assert handshake.compute_proof(KEY, "node", said, four, nonce) != handshake.compute_proof(
        KEY, "node", moved, four, nonce
    )
    swapped = dataclasses.replace(said, run=two, coordinator=one)
    assert one == two or handshake.compute_proof(KEY, "node", said, four, nonce) != handshake.compute_proof(
        KEY, "node", swapped, four, nonce
    )


@pytest.mark.parametrize("side", ["coordinator", "node"])
def test_a_proof_is_what_the_protocol_says(side: ProofPurpose) -> None:
    """An oracle of our own: HMAC-SHA256 over fields, each after its length; of the coordinator with the secret."""
    said = hello(run="r\u00fcn", node="alice", coordinator="c", nonce="11" * 32)
    fields = ["fedws", side, "r\u00fcn", "c", "alice", "bob", "11" * 32, "22" * 32]
    secret = TAKEOVER if side == "coordinator" else ""
    framed = b"".join(struct.pack("<I", len(text.encode())) + text.encode() for text in filter(None, [*fields, secret]))
    wanted = hmac.new(KEY, framed, hashlib.sha256).hexdigest()
    assert handshake.compute_proof(KEY, side, said, "bob", "22" * 32, secret) == wanted


def test_a_takeover_secret_that_is_changed_on_its_way_is_refused() -> None:
    said = hello()
    asked = handshake.create_challenge(KEY, said, "alice")
    given = handshake.create_proof(KEY, said, asked, TAKEOVER)
    handshake.verify_proof(KEY, said, asked, given)
    refused(handshake.verify_proof, KEY, said, asked, dataclasses.replace(given, takeover_key="00" * 32))


@pytest.mark.parametrize("change", [{"run": "other"}, {"coordinator": "other"}, {"nonce": "33" * 32}])
def test_a_signature_that_was_heard_is_of_no_other_handshake(change: dict[str, Any]) -> None:
    """A member has the network key, and so makes a right proof; the run's private key it has not."""
    said = hello()
    asked = handshake.create_challenge(KEY, said, "alice")
    heard = handshake.create_proof(KEY, said, asked, TAKEOVER)
    assert TAKEOVER not in (heard.proof, heard.takeover_key) and TAKEOVER not in heard.signature
    other = dataclasses.replace(said, **change)
    for called, again in ((other, asked), (said, handshake.create_challenge(KEY, said, "alice"))):
        own = handshake.compute_proof(KEY, "coordinator", called, again.node, again.nonce, heard.takeover_key)
        for signature in (heard.signature, ""):
            stolen = dataclasses.replace(heard, proof=own, signature=signature)
            assert "does not have the key of its run" in refused(handshake.verify_proof, KEY, called, again, stolen)


def test_what_a_node_says_is_no_proof_of_a_coordinator() -> None:
    """Reflection: a stranger dials a node and gives it its own proof back."""
    said = hello()
    asked = handshake.create_challenge(KEY, said, "alice")
    refused(handshake.verify_proof, KEY, said, asked, Proof(proof=asked.proof, takeover_key=TAKEOVER))


def test_a_coordinators_own_words_prove_nothing_to_it() -> None:
    """Reflection the other way: a fake node answers with the coordinator's nonce, or with a proof it got elsewhere."""
    said = hello()
    earlier = handshake.create_proof(KEY, said, handshake.create_challenge(KEY, said, "alice"), TAKEOVER)
    refused(handshake.create_proof, KEY, said, Challenge(node="alice", nonce=said.nonce, proof=earlier.proof), TAKEOVER)
    refused(handshake.create_proof, KEY, said, Challenge(node="alice", nonce=said.nonce, proof=said.nonce), TAKEOVER)


def test_a_node_is_no_oracle_for_another_session_of_it() -> None:
    """Two sessions at once: neither of the proofs that a stranger gets opens the other one."""
    first, second = hello(), hello()
    one, two = (handshake.create_challenge(KEY, said, "alice") for said in (first, second))
    crossed = hello(nonce=two.nonce)
    three = handshake.create_challenge(KEY, crossed, "alice")
    for asked, said in ((one, first), (two, second), (three, crossed)):
        for known in (one.proof, two.proof, three.proof):
            refused(handshake.verify_proof, KEY, said, asked, Proof(proof=known, takeover_key=TAKEOVER))


def test_a_handshake_that_was_seen_opens_no_other() -> None:
    """Replay, against the node with the same hello, and against the coordinator with the same challenge."""
    said = hello()
    asked = handshake.create_challenge(KEY, said, "alice")
    given = handshake.create_proof(KEY, said, asked, TAKEOVER)
    handshake.verify_proof(KEY, said, asked, given)
    again = handshake.create_challenge(KEY, said, "alice")
    assert again.nonce != asked.nonce and again.proof != asked.proof
    refused(handshake.verify_proof, KEY, said, again, given)
    refused(handshake.create_proof, KEY, hello(), asked, TAKEOVER)


def test_a_caller_without_a_nonce_is_refused_and_gets_no_proof() -> None:
    """So a man in the middle who strips the nonce is no more than a caller without a key."""
    assert "but the coordinator uses --insecure" in refused(handshake.create_challenge, KEY, hello(nonce=""), "alice")


def test_a_nodes_name_is_fit_for_a_terminal() -> None:
    said = hello()
    foreign = Challenge(node="\x1b[2J" + "x" * 60, nonce="00" * 32, proof="00" * 32)
    text = refused(handshake.create_proof, KEY, said, foreign, TAKEOVER)
    assert text.isprintable() and "\x1b" not in text


def test_nonces_are_new_each_time() -> None:
    found = {handshake.create_nonce() for _ in range(1000)}
    assert len(found) == 1000
    assert {len(nonce) for nonce in found} == {64}
