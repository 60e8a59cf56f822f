import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from fedws.core.errors import UsageError
from fedws.data import download
from fedws.data.download import download_once, limit_socket_timeout, resolve_data_dir

NODE = """
import sys
from pathlib import Path
from fedws.data.download import download_once
root = Path(sys.argv[1])
def fetch(place):
    (place / "set").mkdir()
    (place / "set" / "one").write_text("1")
    sys.stdin.readline()
    (place / "set" / "two").write_text("2")
download_once(root, "set", "Title", lambda: all((root / "set" / name).is_file() for name in ("one", "two")), fetch)
print((root / "set" / "one").read_text() + (root / "set" / "two").read_text())
"""


def node(root: Path) -> "subprocess.Popen[str]":
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", NODE, str(root)], stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def first_line(process: "subprocess.Popen[str]") -> str:
    assert process.stderr is not None
    return process.stderr.readline()


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("FEDWS_DATA", raising=False)
    yield


@pytest.mark.usefixtures("quiet")
def test_the_flag_then_the_variable_then_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert "fedws" in resolve_data_dir(None).name and resolve_data_dir("") == resolve_data_dir(None)
    monkeypatch.setenv("FEDWS_DATA", str(tmp_path / "variable"))
    assert resolve_data_dir(None) == tmp_path / "variable"
    assert resolve_data_dir(str(tmp_path / "flag")) == tmp_path / "flag"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve_data_dir("~/data") == tmp_path / "data"
    monkeypatch.chdir(tmp_path)
    assert resolve_data_dir("here") == tmp_path / "here"


def test_nothing_is_touched_when_the_files_are_there(tmp_path: Path) -> None:
    root = tmp_path / "root"
    download_once(root, "set", "Title", lambda: True, lambda place: pytest.fail("downloaded"))
    assert not root.exists()


def test_threads_that_ask_at_once_download_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    waiting = threading.Semaphore(0)

    class Told(FileLock):
        def acquire(self, timeout: float | None = None, **options: Any) -> Any:  # type: ignore[override]
            if timeout is None:
                waiting.release()
            return super().acquire(timeout=timeout, **options)

    monkeypatch.setattr(download, "FileLock", Told)
    file, calls, errors = tmp_path / "set" / "deep" / "file", [], []

    def fetch(place: Path) -> None:
        calls.append(place)
        for _ in range(3):  # the other three wait by now
            assert waiting.acquire(timeout=20)
        (place / "set" / "deep").mkdir(parents=True)
        (place / "set" / "deep" / "file").write_text("whole")

    def ask() -> None:
        try:
            download_once(tmp_path, "set", "Title", file.is_file, fetch)
            assert file.read_text() == "whole"
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == [] and len(calls) == 1
    said = capsys.readouterr().err.splitlines()
    assert said.count(f"downloading Title to {tmp_path}") == 1
    assert said.count(f"waiting for another node to download Title to {tmp_path}") == 3


def test_processes_that_ask_at_once_download_once(tmp_path: Path) -> None:
    winner = node(tmp_path)
    assert first_line(winner) == f"downloading Title to {tmp_path}\n"
    loser = node(tmp_path)
    assert first_line(loser) == f"waiting for another node to download Title to {tmp_path}\n"
    assert not (tmp_path / "set").exists()  # half of it has come
    assert winner.communicate("go\n", timeout=20) == ("12\n", "")
    assert loser.communicate(timeout=20) == ("12\n", "")
    assert winner.returncode == loser.returncode == 0
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["set"]


def test_a_killed_download_is_done_again(tmp_path: Path) -> None:
    killed = node(tmp_path)
    first_line(killed)
    killed.kill()
    killed.communicate()
    assert not (tmp_path / "set").exists()
    assert node(tmp_path).communicate("go\n", timeout=20) == ("12\n", f"downloading Title to {tmp_path}\n")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("Error:\nTried somewhere, got:\n<urlopen error [Errno -2] No such name>\n"), "No such name"),
        (TimeoutError("timed out"), "timed out"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (ConnectionResetError(), "ConnectionResetError"),
    ],
)
def test_a_download_that_fails_says_so_in_one_line(tmp_path: Path, error: Exception, reason: str) -> None:
    def fetch(place: Path) -> None:
        (place / "set").mkdir()
        (place / "set" / "half").write_text("h")
        raise error

    with pytest.raises(UsageError) as caught:
        download_once(tmp_path, "set", "Title", lambda: False, fetch)
    assert str(caught.value) == (
        f"Title not found in {tmp_path}, and the download failed ({reason}); set --data-dir "
        "or FEDWS_DATA to a folder with the data, or use --dataset digits, which needs no download"
    )
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == []


def test_a_file_that_is_there_is_kept(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "mine").write_text("mine")

    def fetch(place: Path) -> None:
        (place / "set").mkdir()
        for name in ("mine", "other"):
            (place / "set" / name).write_text("theirs")

    download_once(tmp_path, "set", "Title", (tmp_path / "set" / "other").is_file, fetch)
    assert (tmp_path / "set" / "mine").read_text() == "mine"


def test_a_root_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"cannot use .* for Title: (File exists|Not a directory); set --data-dir"):
        download_once(tmp_path / "file", "set", "Title", lambda: False, lambda place: None)
    with pytest.raises(UsageError, match=r"cannot use .* for Title: Not a directory"):
        download_once(tmp_path / "file" / "below", "set", "Title", lambda: False, lambda place: None)


def test_a_root_that_may_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(UsageError, match=r"cannot use .* for Title: Permission denied"):
        download_once(tmp_path / "root", "set", "Title", lambda: False, lambda place: None)


def test_a_download_that_brings_too_little(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is incomplete"):
        download_once(tmp_path, "set", "Title", lambda: False, lambda place: None)


def test_a_connection_is_not_waited_for_without_end() -> None:
    before = socket.getdefaulttimeout()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        start = time.monotonic()
        with (
            pytest.raises(TimeoutError),
            limit_socket_timeout(0.05),
            socket.create_connection(silent.getsockname()) as link,
        ):
            link.recv(1)
        assert time.monotonic() - start < 5
    assert socket.getdefaulttimeout() == before


def test_the_download_has_the_time_limit(tmp_path: Path) -> None:
    seen: list[float | None] = []
    with pytest.raises(UsageError):
        download_once(tmp_path, "set", "Title", lambda: False, lambda place: seen.append(socket.getdefaulttimeout()))
    assert seen == [10.0] and socket.getdefaulttimeout() is None
