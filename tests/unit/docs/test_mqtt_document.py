"""What docs/protocol.md says of links over a broker, against the code; and its test vector, made as it is worded."""

import hashlib
import hmac
import re

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fedws.network.base import Limits
from fedws.network.mqtt import broker_url, connection, endpoint, flow_control, frames, session, topics
from fedws.network.mqtt.encryption import Plain, guard
from fedws.network.mqtt.frames import Kind, Level, opening
from fedws.network.mqtt.topics import Will
from fedws.protocol import handshake
from fedws.protocol.encoder import FRAGMENT
from fedws.protocol.messages import Challenge, Hello
from tests.helpers.protocol_page import KEY, TEXT, example, section, table

CHAPTER = TEXT[TEXT.index("## 11. ") : TEXT.index("## 12. ")]
SECRET = handshake.session(KEY, example(Hello), example(Challenge))
INSTANCE, LINK = Will(bytes(32)).name, Will(b"\xff" * 32).name


def test_names_and_wills() -> None:
    assert INSTANCE in CHAPTER and LINK in CHAPTER
    assert hashlib.sha256(bytes(32)).hexdigest()[:32] == INSTANCE
    assert f"Message Expiry Interval of {session.KEPT:g} s" in CHAPTER
    words = (topics.HERE, topics.CLAIMS, topics.PROBE)
    assert all(f"`{word.decode()}`" in section("Being here") for word in words)


def test_topics() -> None:
    rows = table(section("Topics"), "topic")
    made = [topics.here("ID", "INSTANCE"), topics.down("ID", "LINK"), topics.up("ID", "LINK")]
    assert [row["topic"] for row in rows] == made
    assert f"`{topics.everything_here('ID')}` and `{topics.everything_down('ID')}`" in CHAPTER


def test_the_numbers() -> None:
    assert f"at most {FRAGMENT:,} bytes" in CHAPTER and f"cuts at {connection.CHUNK:,} bytes" in CHAPTER
    assert f"Maximum Packet Size of {frames.LARGEST + connection.OVERHEAD:,}" in CHAPTER
    assert f"at most {flow_control.WINDOW} counted frames" in CHAPTER and f"read {endpoint._TOLD} more than" in CHAPTER
    assert f"port {broker_url.PORTS['mqtt']};" in CHAPTER and f"port {broker_url.PORTS['mqtts']};" in CHAPTER
    assert Limits().beat == 20 and "in seconds (4 at least)" in CHAPTER
    assert "number, little-endian" in CHAPTER and frames.HEAD.size == 9 and frames.TAG == 16


def test_kinds() -> None:
    rows = table(section("Frames"), "kind")
    assert [(int(row["kind"]), row["name"]) for row in rows] == [(kind.value, kind.name) for kind in Kind]
    assert {Kind[row["name"]] for row in rows if row["number"] == "counted"} == set(frames.NUMBERED)
    assert f"plus {Level.TAGGED:#04x} if the frame is tagged, or plus {Level.SEALED:#04x} if it is sealed" in CHAPTER


def derived(info: str) -> bytes:
    """HKDF-SHA256 by hand: extract without salt, expand to one block."""
    extracted = hmac.digest(bytes(32), SECRET, "sha256")
    return hmac.digest(extracted, info.encode() + b"\x01", "sha256")


def test_the_vector_is_as_the_page_words_it() -> None:
    assert SECRET.hex() in CHAPTER
    assert handshake.proof(KEY, "link", example(Hello), "alice", example(Challenge).nonce) == SECRET.hex()
    rows = table(section("Tags and seals"), "how")
    assert [(row["how"], row["way"]) for row in rows] == [
        (how, way) for how in ("tag", "seal") for way in ("down", "up")
    ]
    for row in rows:
        key = derived(f"fedws 1/{row['how']}/{row['way']}/alice/{INSTANCE}/{LINK}")
        assert key.hex() == row["key"]
        head = bytes([Kind.END + (0x40 if row["how"] == "tag" else 0x80)]) + bytes(8)
        if row["how"] == "tag":
            made = head + b"hello" + hmac.digest(key, head + b"hello", "sha256")[:16]
        else:
            made = head + AESGCM(key).encrypt(bytes(12), b"hello", head)
        assert made.hex() == row["frame"]
        guarded = guard(SECRET, row["way"], "alice", INSTANCE, LINK, sealed=row["how"] == "seal")
        assert bytes(guarded.wrap(Kind.END, 0, b"hello")) == made


def test_the_nonce_of_a_beat_is_its_own() -> None:
    key = derived(f"fedws 1/seal/up/alice/{INSTANCE}/{LINK}")
    head = bytes([Kind.BEAT + 0x80]) + (7).to_bytes(8, "little")
    made = head + AESGCM(key).encrypt(b"\1\0\0\0" + (7).to_bytes(8, "little"), bytes(16), head)
    assert guard(SECRET, "up", "alice", INSTANCE, LINK, sealed=True).wrap(Kind.BEAT, 7, bytes(16)) == made


def test_the_opening() -> None:
    found = re.search(r"The OPEN of a coordinator that wants this link sealed is `(\w+)`", CHAPTER)
    assert found is not None and Plain().wrap(Kind.OPEN, 0, opening(INSTANCE, seal=True)).hex() == found[1]
