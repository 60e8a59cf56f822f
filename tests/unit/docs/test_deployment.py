"""The pages, units and containers in docs/deploy are held against the command line: what they say is there."""

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from fedws.core.addresses import PASSWORD_FILE_VARIABLE
from fedws.network.mqtt.broker_url import parse_broker_url as broker_address
from tests.helpers.page_commands import parse_command
from tests.helpers.support import REPOSITORY

FOLDER = REPOSITORY / "docs" / "deploy"
PAGES = sorted(FOLDER.glob("*.md"))
COMPOSE: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text(encoding="utf-8"))
OURS = {name: service for name, service in COMPOSE["services"].items() if name != "broker"}
SECRETS = "/run/secrets/"


def test_sections_of_units_are_those_of_systemd() -> None:
    blocks = [
        text for page in PAGES for text in re.findall(r"```ini\n(.*?)```", page.read_text(encoding="utf-8"), re.S)
    ]
    sections = {name for text in blocks for name in re.findall(r"^\[(.*)\]$", text, re.MULTILINE)}
    assert sections and sections <= {"Unit", "Service", "Install"}


def environment(file: str) -> dict[str, str]:
    """What an environment file of a unit sets."""
    lines = (FOLDER / file).read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def unit(name: str) -> dict[str, list[str]]:
    """The settings of a unit, each with all its values."""
    found: dict[str, list[str]] = {}
    for line in (FOLDER / name).read_text(encoding="utf-8").replace("\\\n", " ").splitlines():
        if line and line[0] not in "#[":
            key, value = line.split("=", 1)
            found.setdefault(key, []).append(value)
    return found


def test_the_unit_of_a_worker_starts_one() -> None:
    told = unit("fedws-worker.service")
    assert told["EnvironmentFile"] == ["/etc/fedws/worker.env"]
    (start,) = told["ExecStart"]
    words = shlex.split(start.replace("$FEDWS_FLAGS", environment("worker.env")["FEDWS_FLAGS"]))
    worker = parse_command(*words[1:])
    assert worker.key_file == "${CREDENTIALS_DIRECTORY}/network.key" and not worker.until_eof
    assert told["LoadCredential"] == ["network.key:/etc/fedws/network.key"]
    # Torch makes code as it runs, which this would forbid.
    assert "MemoryDenyWriteExecute" not in told


@pytest.mark.parametrize("begun", [False, True])
def test_the_unit_of_a_coordinator_begins_a_run_or_goes_on(begun: bool, tmp_path: Path) -> None:
    (start,) = unit("fedws-coordinator.service")["ExecStart"]
    program = tmp_path / "fedws"
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    program.chmod(0o700)
    run = tmp_path / "run"
    if begun:
        run.mkdir()
        (run / "plan.toml").touch()
    told = {**environment("coordinator.env"), "FEDWS_RUN": str(run), "CREDENTIALS_DIRECTORY": "/run/credentials"}
    shell = shlex.split(start.replace("/opt/fedws/bin/fedws", str(program)))
    done = subprocess.run(shell, env={**told, "PATH": "/bin:/usr/bin"}, capture_output=True, text=True, check=True)
    found = vars(parse_command(*done.stdout.splitlines()))
    assert found["key_file"] == "/run/credentials/network.key"
    assert (found.get("resume"), found.get("run_dir")) == ((str(run), None) if begun else (None, str(run)))


@pytest.mark.parametrize("name", OURS)
def test_a_service_starts_a_command_with_secrets_that_it_is_given(name: str) -> None:
    service = OURS[name]
    found = parse_command(*service["command"])
    url = found.listen if name == "coordinator" else found.join
    assert broker_address(url, {}).user == name and found.encrypt_payloads
    given = [found.key_file, found.tls_ca, service["environment"][PASSWORD_FILE_VARIABLE]]
    assert sorted(given) == sorted(f"{SECRETS}{secret}" for secret in service["secrets"])
    assert set(service["secrets"]) <= COMPOSE["secrets"].keys()


def test_what_containers_mount_and_copy_is_there() -> None:
    mounts = [mount.split(":") for mount in COMPOSE["services"]["broker"]["volumes"]]
    conf = (FOLDER / "mosquitto.conf").read_text(encoding="utf-8")
    for source, place, mode in mounts:
        assert mode == "ro" and (place in conf or place in COMPOSE["services"]["broker"]["command"])
        assert source.startswith("./secrets/") or (FOLDER / source).is_file()
    assert set(re.findall(r"/etc/mosquitto/\S+", conf.partition("\n")[2])) <= {place for _, place, _ in mounts}
    recipe = (FOLDER / "Dockerfile").read_text(encoding="utf-8")
    ignored = (FOLDER / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    for source in re.findall(r"^COPY (\S+)", recipe, re.MULTILINE):
        assert (REPOSITORY / source).exists() and f"!{source}" in ignored
    assert "--require-hashes --requirement /app/release.txt" in recipe


def test_health_is_looked_for_at_the_port_of_the_broker() -> None:
    conf = (FOLDER / "mosquitto.conf").read_text(encoding="utf-8")
    (port,) = re.findall(r"^listener (\d+)$", conf, re.MULTILINE)
    for name, service in COMPOSE["services"].items():
        assert f":{int(port):04X} " in " ".join(service["healthcheck"]["test"]), name
    ports = {
        broker_address(service["command"][service["command"].index(flag) + 1], {}).port
        for service in OURS.values()
        for flag in ("--join", "--listen")
        if flag in service["command"]
    }
    assert ports == {int(port)}
