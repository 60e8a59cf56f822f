"""A Mosquitto of one's own: at a free port of the loopback, with a user and a password for each; always ended."""

import contextlib
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import fedws

RIGHTS = Path(__file__).parents[2] / "docs" / "deploy" / "acl"
_PLACES = "/usr/sbin:/usr/local/sbin:/opt/homebrew/sbin"
_SETTINGS = """\
user root
listener {port} 127.0.0.1
allow_anonymous false
password_file {passwords}
acl_file {rights}
persistence false
max_packet_size 2000000
set_tcp_nodelay true
connection_messages false
"""  # 'user' is for root alone, whose files another one could not read


@contextlib.contextmanager
def broker(users: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """A broker while the context lasts; gives ``localhost:PORT`` and the password of each user. Raises FedwsError."""
    programs = [shutil.which(name) or shutil.which(name, path=_PLACES) for name in ("mosquitto", "mosquitto_passwd")]
    if None in programs:
        raise fedws.UsageError("there is no MQTT broker here: apt-get install mosquitto")
    mosquitto, hash_them = map(str, programs)
    with tempfile.TemporaryDirectory() as name:  # nobody else can read it
        folder, words = Path(name), {user: secrets.token_hex(16) for user in users}
        passwords = folder / "passwords"
        passwords.touch(mode=0o600)
        passwords.write_text("".join(f"{user}:{word}\n" for user, word in words.items()), encoding="utf-8")
        subprocess.run([hash_them, "-U", passwords], check=True, capture_output=True)  # noqa: S603
        rights = folder / "acl"
        rights.touch(mode=0o600)
        rights.write_bytes(RIGHTS.read_bytes())
        port = _free()
        settings = folder / "mosquitto.conf"
        settings.write_text(_SETTINGS.format(port=port, passwords=passwords, rights=rights), encoding="utf-8")
        process = subprocess.Popen([mosquitto, "-c", settings], stderr=subprocess.PIPE, text=True)  # noqa: S603
        try:
            _wait(process)
            yield f"localhost:{port}", words
        finally:
            process.terminate()
            process.communicate()


def _free() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(process: subprocess.Popen[str]) -> None:
    """Return when it listens. Raises RunFailed."""
    assert process.stderr is not None
    line = ""
    for line in process.stderr:
        if line.rstrip().endswith(" running"):
            return
    raise fedws.RunFailed(f"mosquitto has ended: {line.strip() or 'it said nothing'}")
