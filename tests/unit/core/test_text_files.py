"""Text files that a user wrote, in the encodings that editors write."""

from collections.abc import Callable
from pathlib import Path

import pytest

from fedws.core.errors import UsageError
from fedws.core.plan import read_plan_file
from fedws.core.text_files import read_text
from fedws.network.mqtt.broker_url import parse_broker_url
from fedws.privacy.policy import load_policy
from fedws.security.network_key import load_network_key

KEY = "70ef3eeb6d2ffa04f163959bb3b36bc0e2219e7412ab06ce496711eb965e6363"
MARKED = {
    "utf-8": lambda text: text.encode(),
    "utf-8 with a mark": lambda text: text.encode("utf-8-sig"),
    "utf-16, little endian": lambda text: b"\xff\xfe" + text.encode("utf-16-le"),
    "utf-16, big endian": lambda text: b"\xfe\xff" + text.encode("utf-16-be"),
}
NOT_TEXT = {
    "latin-1": "# für alice\n".encode("latin-1"),
    "utf-16 without a mark": "rounds = 1\n".encode("utf-16-le"),
    "half a character": b"\xff\xfeabc",
}


@pytest.mark.parametrize("encode", MARKED.values(), ids=MARKED)
def test_every_file_is_read_in_every_encoding(encode: Callable[[str], bytes], tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(encode("rounds = 7\r\n"))
    assert read_plan_file(file) == {"rounds": 7}
    file.write_bytes(encode("max_epochs = 3\n"))
    assert load_policy(file).max_epochs == 3
    file.write_bytes(encode(f"{KEY}\r\n"))
    file.chmod(0o600)
    assert load_network_key(file).hex_text == KEY
    file.write_bytes(encode("pässword\r\n"))
    found = parse_broker_url("mqtt://alice@broker", {"FEDWS_MQTT_PASSWORD_FILE": str(file)})
    assert found.password == "pässword"


@pytest.mark.parametrize("data", NOT_TEXT.values(), ids=NOT_TEXT)
def test_other_encodings_are_an_error_that_names_the_remedy(data: bytes, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(data)
    with pytest.raises(UsageError, match=r"^--plan .*file: not a text file in UTF-8; save it as UTF-8$"):
        read_plan_file(file)
    with pytest.raises(UsageError, match=r"^--policy .*file: not a text file in UTF-8; save it as UTF-8$"):
        load_policy(file)
    with pytest.raises(UsageError, match=r"^--key-file .*file: not a text file in UTF-8; save it as UTF-8$"):
        load_network_key(file)


def test_a_part_of_a_long_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x" * 5000)
    assert read_text(file, "file", 1024) == "x" * 1024
