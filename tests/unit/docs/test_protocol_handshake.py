"""The handshake in docs/topics/protocol.md agrees with the code."""

import hmac
import re

import pytest

from fedws.core.errors import TaskError
from fedws.network import admission
from fedws.protocol import handshake
from fedws.protocol.messages import Challenge, Hello, Proof, TaskRequest
from fedws.security import network_key
from fedws.training import client_state
from tests.helpers.protocol_example import hexdump
from tests.helpers.protocol_page import KEY, WORDS, example, section, table


def test_the_texts_of_a_proof() -> None:
    """Made here as the page words it; the code agrees, and so do the vector's bytes."""
    hello, challenge = example(Hello), example(Challenge)
    messages = {"hello": hello, "challenge": challenge, "proof": example(Proof)}
    for side, wanted in (("node", challenge.proof), ("coordinator", example(Proof).proof)):
        texts = []
        for row in table(section("The proof"), "text"):
            field = re.fullmatch(r"`(\w+)` of `(\w+)`", row["value"])
            given = side if row["value"].startswith("the side") else row["value"]
            texts.append(getattr(messages[field[2]], field[1]) if field else given)
        assert len(texts) == 9
        texts = texts if side == "coordinator" else texts[:8]
        data = b"".join(len(text.encode()).to_bytes(4, "little") + text.encode() for text in texts)
        assert hmac.digest(KEY, data, "sha256").hex() == wanted
        assert handshake.compute_proof(KEY, side, hello, challenge.node, challenge.nonce, *texts[8:]) == wanted  # type: ignore[arg-type]
        assert {row["side"]: row["proof"] for row in table(section("The proof"), "side")}[side] == wanted
        if side == "node":
            assert f"over these {len(data)} bytes" in WORDS and f"```hex\n{hexdump(data)}\n```" in section("The proof")


def test_the_example_is_a_handshake() -> None:
    hello, challenge, proof = example(Hello), example(Challenge), example(Proof)
    assert handshake.create_proof(KEY, hello, challenge, bytes(range(0xE0, 0x100)).hex()) == proof
    handshake.verify_proof(KEY, hello, challenge, proof)
    signed = handshake._encode_fields("takeover", hello, challenge.node, challenge.nonce, proof.takeover_key)
    assert f"over {len(signed)} bytes" in section("The proof")
    assert network_key._parse_key(f" {KEY.hex()}\n", "key") == KEY and f"`{KEY.hex()}`" in WORDS


def test_how_many_wait_at_the_door() -> None:
    assert f"At most {admission.MAX_PENDING_CONNECTIONS} connections are in the handshake at once" in WORDS


def test_what_is_kept_between_orders() -> None:
    text = " ".join(section("State between requests").split())
    assert client_state.MAX_STORED_ROUNDS == 3 and "**three rounds**" in text
    with pytest.raises(TaskError) as lost:
        client_state.ClientState().load_state(
            TaskRequest(request_id="4/alice", worker="alice", round=4, task="t", state_round=3)
        )
    assert str(lost.value) in text
