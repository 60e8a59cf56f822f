"""The network key: where it is looked for, how it is made, and what is no key."""

import os
import secrets
import stat
import threading
from pathlib import Path

import platformdirs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedws.cli.security_flags import security_warnings
from fedws.core.errors import UsageError
from fedws.security import network_key
from fedws.security.credentials import Credentials
from fedws.security.network_key import NetworkKey
from fedws.security.tls import TlsConfig

TEXT = "0f" * 32


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty configuration directory; gives where the user's own key would be."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv(network_key.KEY_VARIABLE)
    return tmp_path / "config" / "fedws" / "network.key"


def file(folder: Path, text: str | bytes, mode: int = 0o600) -> Path:
    """A file of that text."""
    place = folder / "some.key"
    place.write_bytes(text if isinstance(text, bytes) else text.encode())
    place.chmod(mode)
    return place


def test_the_first_makes_it_and_all_others_read_it(home: Path) -> None:
    made = network_key.load_network_key()
    assert (made.is_new, made.origin, len(made.secret)) == (True, str(home), 32)
    assert home.read_text() == made.hex_text + "\n"
    assert stat.S_IMODE(home.stat().st_mode) == 0o600
    assert stat.S_IMODE(home.parent.stat().st_mode) == 0o700
    assert list(home.parent.iterdir()) == [home], "nothing is left of the making"
    again = network_key.load_network_key()
    assert (again.secret, again.is_new) == (made.secret, False)


def test_two_makings_are_two_keys(tmp_path: Path) -> None:
    assert network_key.create_key(tmp_path / "a").secret != network_key.create_key(tmp_path / "b").secret


def test_of_many_that_make_it_at_once_all_have_the_same(home: Path) -> None:
    """And exactly one of them has made it. A reader that comes meanwhile finds a whole key or none."""
    together, found = threading.Barrier(16), []

    def look() -> None:
        together.wait()
        found.append(network_key.load_network_key())

    threads = [threading.Thread(target=look) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 16
    assert {key.hex_text for key in found} == {home.read_text().strip()}
    assert [key.is_new for key in found].count(True) == 1
    assert list(home.parent.iterdir()) == [home]


def test_who_loses_the_race_reads_the_winners(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another node makes it after this one has seen that there is none."""
    token = os.urandom(32)

    def meanwhile(count: int) -> bytes:
        home.write_text(TEXT + "\n")
        home.chmod(0o600)
        return token

    monkeypatch.setattr(secrets, "token_bytes", meanwhile)
    found = network_key.load_network_key()
    assert (found.hex_text, found.is_new) == (TEXT, False)
    assert home.read_text() == TEXT + "\n"
    assert list(home.parent.iterdir()) == [home]


def test_a_file_goes_before_the_variable_and_that_before_the_users_own(home: Path, tmp_path: Path) -> None:
    own, given = network_key.create_key(home), file(tmp_path, "1a" * 32)
    assert network_key.load_network_key().secret == own.secret
    assert network_key.load_network_key(None, {network_key.KEY_VARIABLE: TEXT}).hex_text == TEXT
    assert network_key.load_network_key(given, {network_key.KEY_VARIABLE: TEXT}).hex_text == "1a" * 32
    assert network_key.load_network_key(str(given), {}).origin == f"--key-file {given}"


@pytest.mark.parametrize("text", [TEXT, TEXT.upper(), f"  {TEXT}\n\n", f"{TEXT}\r\n"])
def test_a_key_may_come_as_people_copy_it(text: str, tmp_path: Path) -> None:
    assert network_key.load_network_key(file(tmp_path, text)).hex_text == TEXT
    assert network_key.load_network_key(None, {network_key.KEY_VARIABLE: text}).hex_text == TEXT


@pytest.mark.parametrize(
    "text", ["", "\n", TEXT[:-1], TEXT + "0", TEXT + TEXT, "0g" * 32, f"{TEXT[:32]} {TEXT[32:]}", "x" * 5000]
)
def test_what_is_no_key_is_refused(text: str, tmp_path: Path, home: Path) -> None:
    for named, environment in ((file(tmp_path, text), {}), (None, {network_key.KEY_VARIABLE: text})):
        with pytest.raises(UsageError, match="not a network key; expected 64 hexadecimal digits, as printed by 'fed"):
            network_key.load_network_key(named, environment)
    assert not home.exists(), "none is made where one was named"


@given(st.binary(max_size=300))
def test_no_bytes_of_a_file_do_harm(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    place = file(tmp_path_factory.getbasetemp(), content)
    try:
        key = network_key.load_network_key(place)
    except UsageError as error:
        assert "\n" not in str(error)
    else:
        assert content.decode().strip().lower() == key.hex_text


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^cannot read --key-file \S+none: No such file or directory$"):
        network_key.load_network_key(tmp_path / "none")
    with pytest.raises(UsageError, match=r"^cannot read --key-file \S+: Is a directory$"):
        network_key.load_network_key(tmp_path)


def test_where_none_can_be_made_all_three_remedies_are_named(home: Path) -> None:
    home.parents[1].write_text("a file where the directory should be")
    with pytest.raises(UsageError) as error:
        network_key.load_network_key()
    assert str(error.value).startswith(f"network key not found, and cannot create one in {home.parent}: ")
    assert all(remedy in str(error.value) for remedy in ("--key-file", "FEDWS_KEY", "--insecure"))
    assert network_key.load_network_key(None, {network_key.KEY_VARIABLE: TEXT}).hex_text == TEXT, (
        "a key that is given needs no directory"
    )


def test_without_a_home_none_is_made_in_the_working_directory(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(platformdirs, "user_config_path", lambda _: Path("~/.config/fedws"))
    what = "home directory not found; for the network key, set --key-file or FEDWS_KEY, or pass --insecure$"
    with pytest.raises(UsageError, match=what):
        network_key.load_network_key()
    assert list(tmp_path.iterdir()) == []


def test_a_link_to_nowhere_is_not_written_through(home: Path) -> None:
    home.parent.mkdir(parents=True)
    home.symlink_to("nowhere")
    with pytest.raises(UsageError, match="cannot read "):
        network_key.load_network_key()
    assert not (home.parent / "nowhere").exists()


def test_a_new_one_replaces_a_link_and_not_what_it_points_to(home: Path, tmp_path: Path) -> None:
    home.parent.mkdir(parents=True)
    target = file(tmp_path, TEXT)
    home.symlink_to(target)
    assert network_key.load_network_key().hex_text == TEXT
    new = network_key.create_key(home, replace=True)
    assert network_key.load_network_key().secret == new.secret != bytes.fromhex(TEXT)
    assert target.read_text() == TEXT
    assert stat.S_IMODE(home.stat().st_mode) == 0o600


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o666, 0o644])
def test_a_file_that_others_can_read_is_told_of(mode: int, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    place = file(tmp_path, TEXT, mode)
    assert network_key.load_network_key(place).hex_text == TEXT
    assert caplog.messages == [
        f"--key-file {place} is readable by other users of this machine; run chmod 600 {place}",
    ]
    caplog.clear()
    place.chmod(0o600)
    network_key.load_network_key(place)
    assert caplog.messages == []


@pytest.mark.parametrize(("mode", "told"), [(0o440, False), (0o444, True)])
def test_a_credential_of_systemd_looks_as_if_a_group_could_read_it(
    mode: int, told: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = file(tmp_path, TEXT, mode)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert network_key.load_network_key(place).hex_text == TEXT
    assert bool(caplog.messages) == told
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "others"))
    caplog.clear()
    network_key.load_network_key(place)
    assert caplog.messages


def test_a_key_is_not_shown_by_accident(tmp_path: Path) -> None:
    key = network_key.create_key(tmp_path / "key")
    assert key.hex_text not in repr(key) + str(key) + repr(Credentials(key))
    assert repr(key.secret) not in repr(key)


# --------------------------------------------------------------------------- the banner

MADE, READ = (NetworkKey(bytes.fromhex(TEXT), "here", is_new=made) for made in (True, False))


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]"])
@pytest.mark.parametrize("scheme", ["ws", "wss", "mqtt"])
@pytest.mark.parametrize("key", [MADE, READ])
def test_on_loopback_there_is_nothing_to_say(host: str, scheme: str, key: NetworkKey) -> None:
    assert security_warnings("alice", f"{scheme}://{host}:8777", Credentials(key)) == []


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "10.0.0.5", "edge.local", ""])
def test_beyond_it_a_new_key_is_told_of_and_not_shown_and_its_limits_are_another_line(host: str) -> None:
    url = f"ws://{host}:8777"
    first, second = security_warnings("alice", url, Credentials(MADE))
    assert first.startswith("a network key was created: ") and first.endswith("; print it with 'fedws key show'")
    assert "the network key does not prevent it, TLS does (--tls-cert)" in second
    assert security_warnings("alice", url, Credentials(READ)) == [second]
    assert TEXT not in first + second, "what a node prints lands in journals"
    assert security_warnings("alice", f"wss://{host}:8777", Credentials(MADE, TlsConfig())) == [first]


@pytest.mark.parametrize("scheme", ["mqtt", "mqtts"])
def test_what_a_broker_reads_is_told_unless_it_is_sealed(scheme: str) -> None:
    (line,) = security_warnings("alice", f"{scheme}://broker.example", Credentials(READ))
    assert line == "the broker can read the messages of alice and its peers; add --encrypt-payloads to prevent it"
    assert security_warnings("alice", f"{scheme}://broker.example", Credentials(READ, encrypt_payloads=True)) == []


def test_without_a_key_no_line_promises_one() -> None:
    assert security_warnings("alice", "ws://localhost:8777", Credentials(None)) == []
    (line,) = security_warnings("alice", "ws://0.0.0.0:8777", Credentials(None))
    assert "key" not in line and "TLS prevents it" in line
