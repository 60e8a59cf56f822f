"""The topics of nodes on a broker: what is made of names, and what is read out of topics that anybody wrote."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedws.network.mqtt import topics
from fedws.network.mqtt.topics import Will

NAME = "0123456789abcdef" * 2


def test_what_is_made_is_read_again() -> None:
    assert topics.here("alice", NAME) == f"fedws/1/alice/here/{NAME}"
    assert topics.instance("alice", topics.here("alice", NAME)) == NAME
    assert topics.down("alice", NAME) == f"fedws/1/alice/link/{NAME}/down"
    assert topics.link("alice", topics.down("alice", NAME)) == NAME
    assert topics.up("alice", NAME) == f"fedws/1/alice/link/{NAME}/up"
    assert topics.everything_here("alice") == "fedws/1/alice/here/+"
    assert topics.everything_down("alice") == "fedws/1/alice/link/+/down"


@pytest.mark.parametrize(
    "topic",
    [
        topics.here("bob", NAME),
        topics.up("alice", NAME),
        f"fedws/1/alice/here/{NAME}/x",
        f"fedws/1/alice/here/{NAME.upper()}",
        f"fedws/1/alice/here/{NAME[:-1]}",
        f"fedws/1/alice/here/{NAME}\n",
        f"fedws/1/alice/link/x/{NAME}/down",
        "fedws/1/alice/link/down",
        "fedws/1/alice/here/",
        "",
    ],
)
def test_other_topics_are_nobodys(topic: str) -> None:
    assert topics.instance("alice", topic) is None
    assert topics.link("alice", topic) is None


@given(st.text())
def test_any_text_is_a_topic_or_none(topic: str) -> None:
    for name in (topics.instance("alice", topic), topics.link("alice", topic)):
        assert name is None or topics.NAME.fullmatch(name)


def test_only_a_will_has_its_name() -> None:
    will = Will()
    assert Will(will.token).name == will.name
    assert len({Will().name for _ in range(100)}) == 100
    assert Will(will.token[:-1]).name != will.name
    assert topics.NAME.fullmatch(will.name)
    assert will.token.hex() not in repr(will) and str(will.token) not in repr(will)
