"""The topics of nodes on a broker: what is made of names, and what is read out of topics that anybody wrote."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedws.network.mqtt import topics
from fedws.network.mqtt.topics import EndToken

NAME = "0123456789abcdef" * 2


def test_what_is_made_is_read_again() -> None:
    assert topics.presence_topic("alice", NAME) == f"fedws/1/alice/presence/{NAME}"
    assert topics.parse_presence_topic("alice", topics.presence_topic("alice", NAME)) == NAME
    assert topics.downlink_topic("alice", NAME) == f"fedws/1/alice/link/{NAME}/down"
    assert topics.parse_downlink_topic("alice", topics.downlink_topic("alice", NAME)) == NAME
    assert topics.uplink_topic("alice", NAME) == f"fedws/1/alice/link/{NAME}/up"
    assert topics.presence_filter("alice") == "fedws/1/alice/presence/+"
    assert topics.downlink_filter("alice") == "fedws/1/alice/link/+/down"


@pytest.mark.parametrize(
    "topic",
    [
        topics.presence_topic("bob", NAME),
        topics.uplink_topic("alice", NAME),
        f"fedws/1/alice/presence/{NAME}/x",
        f"fedws/1/alice/presence/{NAME.upper()}",
        f"fedws/1/alice/presence/{NAME[:-1]}",
        f"fedws/1/alice/presence/{NAME}\n",
        f"fedws/1/alice/link/x/{NAME}/down",
        "fedws/1/alice/link/down",
        "fedws/1/alice/presence/",
        "",
    ],
)
def test_other_topics_are_nobodys(topic: str) -> None:
    assert topics.parse_presence_topic("alice", topic) is None
    assert topics.parse_downlink_topic("alice", topic) is None


@given(st.text())
def test_any_text_is_a_topic_or_none(topic: str) -> None:
    for name in (topics.parse_presence_topic("alice", topic), topics.parse_downlink_topic("alice", topic)):
        assert name is None or topics.NAME_PATTERN.fullmatch(name)


def test_only_a_will_has_its_name() -> None:
    will = EndToken()
    assert EndToken(will.secret).name == will.name
    assert len({EndToken().name for _ in range(100)}) == 100
    assert EndToken(will.secret[:-1]).name != will.name
    assert topics.NAME_PATTERN.fullmatch(will.name)
    assert will.secret.hex() not in repr(will) and str(will.secret) not in repr(will)
