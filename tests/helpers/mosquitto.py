"""A real Mosquitto on a free port of the loopback interface, with as many users as a test needs."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil

from tests.helpers.support import require

USERS = ("fedws", "alice", "bob", "charlie", "testing")
PASSWORD = "of-a-test"
"""Password of all users."""
PROGRAM = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/opt/homebrew/sbin")
MISSING = "mosquitto not found; install it with: apt-get install mosquitto"
_HASHED = "mosquitto_passwd"


def free_port() -> int:
    """Return a port on which no process listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Mosquitto:
    """A broker that can be killed and restarted at the same port; ``settings`` are lines of its configuration."""

    def __init__(self, folder: Path, *settings: str, acl: str = "", port: int = 0, packet: int = 2_000_000) -> None:
        require(PROGRAM, MISSING)
        self.port = port or free_port()
        self.url = self.at("fedws")
        self.log: list[str] = []
        self._folder = folder
        self._running: subprocess.Popen[str] | None = None
        passwords, rights = folder / "passwords", folder / "rights"
        passwords.touch(mode=0o600)
        passwords.write_text("".join(f"{user}:{PASSWORD}\n" for user in USERS))
        subprocess.run([_HASHED, "-U", passwords], check=True, capture_output=True)
        lines = [
            "user root",  # as root it would drop its rights and could not read these files
            f"listener {self.port} 127.0.0.1",
            "allow_anonymous false",
            f"password_file {passwords}",
            f"max_packet_size {packet}",
            "log_dest stderr",
            *settings,
        ]
        if acl:
            rights.write_text(acl)
            rights.chmod(0o600)
            lines.append(f"acl_file {rights}")
        (folder / "mosquitto.conf").write_text("\n".join(lines))

    def at(self, user: str) -> str:
        """Return its URL for one of the users."""
        return f"mqtt://{user}@localhost:{self.port}"

    def start(self) -> None:
        """Start the broker, and wait until it listens."""
        command = [str(PROGRAM), "-c", str(self._folder / "mosquitto.conf")]
        self._running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        listens = threading.Event()
        threading.Thread(target=self._read, args=(self._running, listens), daemon=True).start()
        assert listens.wait(60), "\n".join(self.log)
        assert self._running.poll() is None, "\n".join(self.log)

    def _read(self, running: "subprocess.Popen[str]", listens: threading.Event) -> None:
        assert running.stderr is not None
        with running.stderr:
            for line in running.stderr:
                self.log.append(line.strip())
                if "running" in line:
                    listens.set()
        listens.set()

    def stop(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Kill the broker, or send another signal."""
        if self._running is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._running.pid, number)
            self._running.wait(60)
            self._running = None

    @property
    def memory(self) -> int:
        """Return its resident memory in bytes."""
        assert self._running is not None
        return int(psutil.Process(self._running.pid).memory_info().rss)

    @property
    def pid(self) -> int:
        assert self._running is not None
        return self._running.pid


@contextlib.contextmanager
def mosquitto(folder: Path, *settings: str, acl: str = "", packet: int = 2_000_000) -> Iterator[Mosquitto]:
    """Run a broker while the context lasts."""
    folder.mkdir(parents=True, exist_ok=True)
    broker = Mosquitto(folder, *settings, acl=acl, packet=packet)
    try:
        broker.start()
        yield broker
    finally:
        broker.stop()
