"""Claims: which links are of one run."""

from dataclasses import replace

import pytest

from fedws.protocol.run_claim import Claim, public, sign, signed, takeover

CLAIM = Claim("77d1e0aa55c6f3b2", "lab", "7a" * 32)


@pytest.mark.parametrize("change", [{"run": "other"}, {"coordinator": "other"}, {"key": "7b" * 32}, {"key": ""}])
def test_one_that_differs_continues_nothing(change: dict[str, str]) -> None:
    other = replace(CLAIM, **change)
    assert CLAIM.continues(replace(CLAIM)) and not CLAIM.continues(other) and not other.continues(CLAIM)
    assert other.digest != CLAIM.digest == replace(CLAIM).digest


def test_text_moved_from_one_field_to_the_next_is_another_claim() -> None:
    assert Claim("a", "b", "c").digest not in {Claim("ab", "", "c").digest, Claim("a", "", "bc").digest}


def test_a_claim_shows_no_key() -> None:
    assert CLAIM.key[:4] not in repr(CLAIM) and CLAIM.key[:4] not in CLAIM.shown
    assert Claim("\x1b[2J\n12345678").shown == "?[2J?123"


def test_each_node_of_a_run_has_its_own_key() -> None:
    nodes = [takeover(bytes(32), node) for node in ("alice", "bob")] + [takeover(b"\1" * 32, "alice")]
    assert len(set(nodes)) == 3 and all(len(secret) == 64 for secret in nodes)


def test_a_signature_is_of_one_key_and_one_text() -> None:
    alice, bob = (takeover(bytes(32), node) for node in ("alice", "bob"))
    signature = sign(alice, b"text")
    assert signed(public(alice), b"text", signature) and public(alice) != alice
    assert not signed(public(alice), b"test", signature) and not signed(public(bob), b"text", signature)
    for wrong in ("", "00" * 64):
        assert not signed(public(alice), b"text", wrong)
    assert not signed("ff" * 32, b"text", signature), "which is no point of the curve"
