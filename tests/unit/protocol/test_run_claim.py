"""Claims: which links are of one run."""

from dataclasses import replace

import pytest

from fedws.protocol.run_claim import RunClaim, derive_public_key, derive_takeover_key, is_valid_signature, sign

CLAIM = RunClaim("77d1e0aa55c6f3b2", "lab", "7a" * 32)


@pytest.mark.parametrize("change", [{"run": "other"}, {"coordinator": "other"}, {"key": "7b" * 32}, {"key": ""}])
def test_one_that_differs_continues_nothing(change: dict[str, str]) -> None:
    other = replace(CLAIM, **change)
    assert CLAIM.may_continue(replace(CLAIM)) and not CLAIM.may_continue(other) and not other.may_continue(CLAIM)
    assert other.digest != CLAIM.digest == replace(CLAIM).digest


def test_text_moved_from_one_field_to_the_next_is_another_claim() -> None:
    assert RunClaim("a", "b", "c").digest not in {RunClaim("ab", "", "c").digest, RunClaim("a", "", "bc").digest}


def test_a_claim_shows_no_key() -> None:
    assert CLAIM.key[:4] not in repr(CLAIM) and CLAIM.key[:4] not in CLAIM.run_id_prefix
    assert RunClaim("\x1b[2J\n12345678").run_id_prefix == "?[2J?123"


def test_each_node_of_a_run_has_its_own_key() -> None:
    nodes = [derive_takeover_key(bytes(32), node) for node in ("alice", "bob")] + [
        derive_takeover_key(b"\1" * 32, "alice")
    ]
    assert len(set(nodes)) == 3 and all(len(secret) == 64 for secret in nodes)


def test_a_signature_is_of_one_key_and_one_text() -> None:
    alice, bob = (derive_takeover_key(bytes(32), node) for node in ("alice", "bob"))
    signature = sign(alice, b"text")
    assert is_valid_signature(derive_public_key(alice), b"text", signature) and derive_public_key(alice) != alice
    assert not is_valid_signature(derive_public_key(alice), b"test", signature) and not is_valid_signature(
        derive_public_key(bob), b"text", signature
    )
    for wrong in ("", "00" * 64):
        assert not is_valid_signature(derive_public_key(alice), b"text", wrong)
    assert not is_valid_signature("ff" * 32, b"text", signature), "which is no point of the curve"
