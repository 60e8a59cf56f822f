"""The nodes: processes of this machine that join at the broker, each with its own user there; always ended."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence

import fedws
from fedws.core.addresses import PASSWORD_VARIABLE


@contextlib.contextmanager
def joined(place: str, passwords: Mapping[str, str], flags: Sequence[str]) -> Iterator[None]:
    """They are at the broker while the context lasts; ``testing`` is the evaluator. Raises RunFailed."""
    started: dict[str, subprocess.Popen[str]] = {}
    try:
        for name, word in passwords.items():
            own = ["--id", name, "--join", f"mqtt://{name}@{place}", *(["--evaluator"] if name == "testing" else [])]
            started[name] = subprocess.Popen(  # noqa: S603
                [sys.executable, "-m", "fedws", "worker", *own, "--encrypt-payloads", "--until-eof", *flags],
                env={**os.environ, PASSWORD_VARIABLE: word},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        for name, process in started.items():
            _wait(name, process)
        yield
    finally:
        for process in started.values():
            process.terminate()  # should this process be killed, the end of their standard input ends them
        for process in started.values():
            _end(process)


def _wait(name: str, process: subprocess.Popen[str]) -> None:
    """Return when it is at the broker."""
    assert process.stdout is not None
    line = ""
    for line in process.stdout:
        if line.startswith(f"{name} joins at "):
            print(line, end="", flush=True)
            return
    raise fedws.RunFailed(f"{name} has ended: {line.strip() or 'it said nothing'}")


def _end(process: subprocess.Popen[str]) -> None:
    try:
        process.communicate(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
