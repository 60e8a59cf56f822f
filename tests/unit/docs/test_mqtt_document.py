"""Links over a broker agree with section 11 of docs/topics/protocol.md, including its test vector."""

import hashlib
import hmac
import re

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fedws.network.base import Limits
from fedws.network.mqtt import broker_url, connection, endpoint, flow_control, frames, session, topics
from fedws.network.mqtt.encryption import NoProtection, derive_protection
from fedws.network.mqtt.frames import FrameKind, ProtectionLevel, pack_open
from fedws.network.mqtt.topics import EndToken
from fedws.protocol import handshake
from fedws.protocol.encoder import FRAGMENT_BYTES
from fedws.protocol.messages import Challenge, Hello
from tests.helpers.protocol_page import KEY, TEXT, example, section, table

CHAPTER = " ".join(TEXT[TEXT.index("## 11. ") : TEXT.index("## 12. ")].split())
SECRET = handshake.derive_session_key(KEY, example(Hello), example(Challenge))
INSTANCE, LINK = EndToken(bytes(32)).name, EndToken(b"\xff" * 32).name


def test_names_and_wills() -> None:
    assert INSTANCE in CHAPTER and LINK in CHAPTER
    assert hashlib.sha256(bytes(32)).hexdigest()[:32] == INSTANCE
    assert f"Message Expiry Interval of {session.WILL_RETENTION_SECONDS:g} s" in CHAPTER
    words = (topics.ONLINE, topics.CLAIMING, topics.PROBE)
    assert all(f"`{word.decode()}`" in section("Presence") for word in words)


def test_topics() -> None:
    rows = table(section("Topics"), "topic")
    made = [
        topics.presence_topic("ID", "INSTANCE"),
        topics.downlink_topic("ID", "LINK"),
        topics.uplink_topic("ID", "LINK"),
    ]
    assert [row["topic"] for row in rows] == made
    assert f"`{topics.presence_filter('ID')}` and `{topics.downlink_filter('ID')}`" in CHAPTER


def test_the_numbers() -> None:
    assert (
        f"at most {FRAGMENT_BYTES:,} bytes" in CHAPTER and f"cuts at {connection.MAX_PAYLOAD_BYTES:,} bytes" in CHAPTER
    )
    assert f"Maximum Packet Size of {frames.MAX_FRAME_BYTES + connection.MAX_PACKET_OVERHEAD_BYTES:,}" in CHAPTER
    assert (
        f"at most {flow_control.WINDOW_FRAMES} counted frames" in CHAPTER
        and f"read {endpoint._FRAMES_PER_ACK} more than" in CHAPTER
    )
    assert (
        f"port {broker_url.DEFAULT_PORTS['mqtt']};" in CHAPTER
        and f"port {broker_url.DEFAULT_PORTS['mqtts']};" in CHAPTER
    )
    assert Limits().effective_ping_interval == 20 and "in seconds (4 at least)" in CHAPTER
    assert "number, little-endian" in CHAPTER and frames.FRAME_HEADER.size == 9 and frames.TAG_BYTES == 16


def test_kinds() -> None:
    rows = table(section("Frames"), "kind")
    assert [(int(row["kind"]), row["name"]) for row in rows] == [(kind.value, kind.name) for kind in FrameKind]
    assert {FrameKind[row["name"]] for row in rows if row["number"] == "counted"} == set(frames.NUMBERED_KINDS)
    tagged, sealed = ProtectionLevel.AUTHENTICATED, ProtectionLevel.ENCRYPTED
    assert f"plus {tagged:#04x} if the frame is authenticated, or plus {sealed:#04x} if it is encrypted" in CHAPTER


def derived(info: str) -> bytes:
    """HKDF-SHA256 by hand: extract without salt, expand to one block."""
    extracted = hmac.digest(bytes(32), SECRET, "sha256")
    return hmac.digest(extracted, info.encode() + b"\x01", "sha256")


def test_the_vector_is_as_the_page_words_it() -> None:
    assert SECRET.hex() in CHAPTER
    assert handshake.compute_proof(KEY, "link", example(Hello), "alice", example(Challenge).nonce) == SECRET.hex()
    rows = table(section("Authentication and encryption"), "how")
    assert [(row["how"], row["way"]) for row in rows] == [
        (how, way) for how in ("authenticate", "encrypt") for way in ("down", "up")
    ]
    for row in rows:
        key = derived(f"fedws 1/{row['how']}/{row['way']}/alice/{INSTANCE}/{LINK}")
        assert key.hex() == row["key"]
        head = bytes([FrameKind.END + (0x40 if row["how"] == "authenticate" else 0x80)]) + bytes(8)
        if row["how"] == "authenticate":
            made = head + b"hello" + hmac.digest(key, head + b"hello", "sha256")[:16]
        else:
            made = head + AESGCM(key).encrypt(bytes(12), b"hello", head)
        assert made.hex() == row["frame"]
        guarded = derive_protection(SECRET, row["way"], "alice", INSTANCE, LINK, encrypted=row["how"] == "encrypt")
        assert bytes(guarded.wrap(FrameKind.END, 0, b"hello")) == made


def test_the_nonce_of_a_ping_is_its_own() -> None:
    key = derived(f"fedws 1/encrypt/up/alice/{INSTANCE}/{LINK}")
    head = bytes([FrameKind.PING + 0x80]) + (7).to_bytes(8, "little")
    made = head + AESGCM(key).encrypt(b"\1\0\0\0" + (7).to_bytes(8, "little"), bytes(16), head)
    assert (
        derive_protection(SECRET, "up", "alice", INSTANCE, LINK, encrypted=True).wrap(FrameKind.PING, 7, bytes(16))
        == made
    )


def test_the_opening() -> None:
    found = re.search(r"The OPEN of a coordinator that requires encryption of this link is `(\w+)`", CHAPTER)
    assert (
        found is not None
        and NoProtection().wrap(FrameKind.OPEN, 0, pack_open(INSTANCE, encrypt_payloads=True)).hex() == found[1]
    )
