"""A Mosquitto broker on a free port of the loopback interface, with a password for each user."""

import contextlib
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import fedws

ACL_FILE = Path(__file__).parents[2] / "docs" / "deploy" / "acl"
_PROGRAM_PATH = "/usr/sbin:/usr/local/sbin:/opt/homebrew/sbin"
_SETTINGS = """\
user root
listener {port} 127.0.0.1
allow_anonymous false
password_file {passwords}
acl_file {acl}
persistence false
max_packet_size 2000000
set_tcp_nodelay true
connection_messages false
"""  # 'user' only matters for root, whose files another user cannot read


@contextlib.contextmanager
def run_broker(users: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Run a broker while the context is open, and yield ``localhost:PORT`` and the password of each user.

    Raise UsageError if Mosquitto is not installed, and RunFailed if it does not start.
    """
    names = ("mosquitto", "mosquitto_passwd")
    programs = [shutil.which(name) or shutil.which(name, path=_PROGRAM_PATH) for name in names]
    if None in programs:
        raise fedws.UsageError("mosquitto not found; install it with: apt-get install mosquitto")
    mosquitto, mosquitto_passwd = map(str, programs)
    with tempfile.TemporaryDirectory() as name:  # only the user of this process can read it
        folder, passwords = Path(name), {user: secrets.token_hex(16) for user in users}
        password_file = folder / "passwords"
        password_file.touch(mode=0o600)
        password_file.write_text("".join(f"{user}:{word}\n" for user, word in passwords.items()), encoding="utf-8")
        subprocess.run([mosquitto_passwd, "-U", password_file], check=True, capture_output=True)  # noqa: S603
        acl = folder / "acl"
        acl.touch(mode=0o600)
        acl.write_bytes(ACL_FILE.read_bytes())
        port = _find_free_port()
        settings = folder / "mosquitto.conf"
        settings.write_text(_SETTINGS.format(port=port, passwords=password_file, acl=acl), encoding="utf-8")
        process = subprocess.Popen([mosquitto, "-c", settings], stderr=subprocess.PIPE, text=True)  # noqa: S603
        try:
            _wait_until_running(process)
            yield f"localhost:{port}", passwords
        finally:
            process.terminate()
            process.communicate()


def _find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_running(process: subprocess.Popen[str]) -> None:
    """Return when the broker listens. Raise RunFailed if it ends before."""
    assert process.stderr is not None
    line = ""
    for line in process.stderr:
        if line.rstrip().endswith(" running"):
            return
    raise fedws.RunFailed(f"mosquitto ended before it listened: {line.strip() or 'no output'}")
