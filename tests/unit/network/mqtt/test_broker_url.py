"""What an address of a broker says, and where the password comes from."""

from pathlib import Path

import pytest

from fedws.core.errors import UsageError
from fedws.network.mqtt.broker_url import BrokerAddress, parse_broker_url


def test_host_port_and_user() -> None:
    assert parse_broker_url("mqtt://broker:1884", {}) == BrokerAddress("broker", 1884)
    assert parse_broker_url("mqtt://broker", {}).port == 1883 and parse_broker_url("mqtts://me@broker", {}).port == 8883
    assert parse_broker_url("mqtts://device%401@[::1]:8883/", {}) == BrokerAddress("::1", 8883, "device@1")


def test_the_password_is_in_the_environment_or_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("from a file\n")
    assert parse_broker_url("mqtt://me@broker:1883", {"FEDWS_MQTT_PASSWORD_FILE": str(file)}).password == "from a file"
    both = {"FEDWS_MQTT_PASSWORD_FILE": str(file), "FEDWS_MQTT_PASSWORD": " as it is "}
    assert parse_broker_url("mqtt://me@broker:1883", both).password == " as it is "
    assert parse_broker_url("mqtt://broker:1883", both).password is None, "nobody's"
    assert "as it is" not in repr(parse_broker_url("mqtt://me@broker:1883", both))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"FEDWS_MQTT_PASSWORD_FILE: cannot read .*gone: No such file"):
        parse_broker_url("mqtt://me@broker:1883", {"FEDWS_MQTT_PASSWORD_FILE": str(tmp_path / "gone")})
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\xfd")
    with pytest.raises(UsageError, match=r"FEDWS_MQTT_PASSWORD_FILE: .*bytes: not a text file"):
        parse_broker_url("mqtt://me@broker:1883", {"FEDWS_MQTT_PASSWORD_FILE": str(tmp_path / "bytes")})


@pytest.mark.parametrize(
    "url", ["mqtt://me:secret@broker:1883", "mqtt://:secret@broker:1883", "mqtts://me:secret@broker"]
)
def test_a_password_in_the_address_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(UsageError, match="logs and plans would show it; set FEDWS_MQTT_PASSWORD") as error:
        parse_broker_url(url, {})
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    "rest",
    [
        *("", ":1883", "broker:x", "broker:99999", "broker:0", "[::1", "broker:1883/topic"),
        *("bro..ker", f"{'a' * 64}.example"),
    ],
)
def test_what_is_no_address_is_said(rest: str) -> None:
    with pytest.raises(UsageError, match=r"is not a valid address; use the form mqtt://user@broker:1883"):
        parse_broker_url(f"mqtt://{rest}", {})


def test_not_even_a_broken_address_has_its_password_repeated() -> None:
    with pytest.raises(UsageError, match=r"^an address must not contain a password") as error:
        parse_broker_url("mqtt://me:secret@broker:x", {})
    assert "secret" not in str(error.value)
