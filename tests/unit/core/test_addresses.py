"""Addresses that hold a secret: refused wherever one is given, before it is written or repeated anywhere."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import tomli_w

import fedws
from fedws.cli import console, run, worker
from fedws.cli.security_flags import complete_url
from fedws.core import addresses
from fedws.core.errors import UsageError
from fedws.core.plan import build_plan
from fedws.core.resume_rules import merge_settings
from fedws.network.lookup import find_transport
from fedws.recording.run_directory import RunDirectory
from fedws.recording.run_info import load_plan_settings
from fedws.security.credentials import INSECURE

SECRET = "hunter2"
BAD = [
    f"ws://me:{SECRET}@host:8777",
    f"ws://{SECRET}@host:8777",
    f"wss://:{SECRET}@host:8777",
    f"ws://me:{SECRET}/more@host:8777",
    f"ws://me:{SECRET}@[::1",
    f"ws://me:{SECRET}@",
    f"me:{SECRET}@host:8777",
    f"ws://host:8777/?token={SECRET}",
    f"ws://host:8777#{SECRET}",
    f"memory://me:{SECRET}@alice",
    f"mqtt://me:{SECRET}@broker",
    f"mqtts://:{SECRET}@broker:8883",
    f"MQTT://me:{SECRET}@broker",
    f"mqtt://me:{SECRET}@more@broker",
    f"mqtt://me/{SECRET}@broker",
    f"mqtt://me@broker?token={SECRET}",
]
GOOD = ["ws://host:8777", "wss://[::1]:8777/path", "memory://alice", "mqtt://me@broker", "mqtts://device%401@broker:1"]


def refused(work: Any, *given: Any) -> str:
    """The text of the UsageError that a call raises, in which there is no secret."""
    with pytest.raises(UsageError) as caught:
        work(*given)
    assert SECRET not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("text", GOOD)
def test_an_address_without_a_secret_is_taken(text: str) -> None:
    assert addresses.check_no_secrets(text) == complete_url(text, INSECURE) == text
    assert build_plan({"workers": {"alice": text}, "evaluator": {}}).workers == {"alice": text}


@pytest.mark.parametrize("text", BAD)
@pytest.mark.parametrize("setting", ["workers", "evaluator", "listen", "expect_workers", "a name", "alone", "two"])
def test_a_plan_takes_none_with_a_secret(setting: str, text: str) -> None:
    wanted: dict[str, dict[str, Any]] = {
        "workers": {"workers": {"alice": text}, "evaluator": {}},
        "evaluator": {"evaluator": {"testing": text}},
        "listen": {"workers": {"alice": text}, "evaluator": {}, "listen": text},
        "expect_workers": {"listen": "ws://host:1", "expect_workers": [f"alice={text}"]},
        "a name": {"workers": {text: "ws://host:1"}},
        "alone": {"evaluator": text},
        "two": {"evaluator": {"testing": [text]}},
    }
    assert "logs and plans would show" in refused(build_plan, wanted[setting])


@pytest.mark.parametrize("text", BAD)
def test_neither_does_a_node_or_a_flag(text: str) -> None:
    assert "logs and plans would show" in refused(find_transport, text)
    assert "logs and plans would show" in refused(complete_url, text, INSECURE)


async def test_nor_a_node_in_a_program() -> None:
    node = fedws.Worker("alice", "points", [], labels=[])
    for there in (fedws.serve, fedws.join_run):
        with pytest.raises(UsageError) as caught:
            async with there(node, f"ws://me:{SECRET}@localhost:1"):
                pass
        assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "argv",
    [
        ["run", "--workers", f"alice=ws://me:{SECRET}@host:1"],
        ["run", "--workers", f"alice=ws://me:a,{SECRET}@host:1"],
        ["run", "--workers", f"ws://me:{SECRET}@host:1"],
        ["run", "--evaluator", f"testing=ws://me:{SECRET}@host:1"],
        ["run", "--evaluator", f"ws://me:{SECRET}@host:1"],
        ["run", "--listen", f"ws://me:{SECRET}@host:1", "--expect-workers", "alice"],
        ["run", "--listen", f"me:{SECRET}@host:1", "--expect-workers", "alice"],
        ["run", "--listen", "host:1", "--expect-workers", f"ws://me:{SECRET}@host:1"],
        ["run", "--body-store", f"s3://me:{SECRET}@bucket"],
        ["run", "--encrypt-payloads", "--body-store", f"s3://me:{SECRET}@bucket"],
        ["worker", "--id", "alice", "--join", f"ws://me:{SECRET}@host:1"],
        ["worker", "--id", "alice", "--join", f"mqtt://me:{SECRET}@host:1"],
        ["worker", "--id", "alice", "--host", f"me:{SECRET}@host"],
        ["worker", "--id", "alice", "--port", "0", "--encrypt-payloads", "--body-store", f"file:///x?{SECRET}"],
    ],
    ids=lambda argv: " ".join(argv).replace(SECRET, "..."),
)
def test_commands_refuse_it_and_repeat_it_nowhere(
    argv: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(console, "set_up_logging", lambda verbose: None)  # it would stay for other tests
    caplog.set_level(logging.DEBUG)
    command: Any = {"run": run, "worker": worker}[argv[0]]
    arguments = command.build_parser(f"fedws {argv[0]}").parse_args(argv[1:])
    refused(command.main, arguments)
    told = capsys.readouterr()
    assert SECRET not in told.out + told.err + caplog.text
    assert list(tmp_path.iterdir()) == []


def test_a_run_of_an_older_version_does_not_go_on_with_one(tmp_path: Path) -> None:
    plan = build_plan({"workers": {"alice": "ws://host:1"}, "evaluator": {}})
    held = RunDirectory.create(tmp_path)
    held.begin(plan)
    held.retain()
    held.close()
    settings = {**plan.model_dump(), "workers": {"alice": f"ws://me:{SECRET}@host:1"}}
    (tmp_path / "plan.toml").write_text(tomli_w.dumps({k: v for k, v in settings.items() if k != "round_timeout"}))
    story = json.loads((tmp_path / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps({**story, "plan": {**story["plan"], "workers": settings["workers"]}}))
    assert "logs and plans would show" in refused(lambda: RunDirectory.open_existing(tmp_path).plan)
    assert "logs and plans would show" in refused(lambda: build_plan(merge_settings(load_plan_settings(tmp_path), {})))
