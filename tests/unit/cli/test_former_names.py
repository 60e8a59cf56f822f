"""Former names of flags: the two scripts of the demo accept all of them, ``fedws`` names the new ones."""

import inspect
from pathlib import Path
from typing import Any

import pytest

from fedws.cli import run, worker
from fedws.cli.former_names import FORMER_FLAGS, FORMER_NODE_FLAGS, FORMER_OPTIONS
from fedws.cli.main import main, run_command
from fedws.core import registry
from fedws.core.plan import Plan, build_plan

FORMER = {**FORMER_FLAGS, **FORMER_NODE_FLAGS}
CLIENT_SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "--workers": ("dora=ws://h:1", {"workers": {"dora": "ws://h:1"}}),
    "--evaluator": ("emil=ws://h:2", {"evaluator": {"emil": "ws://h:2"}}),
    "--strategy": ("fedsgd", {"algorithm": "fedsgd"}),
    "--cut": ("conv1", {"algorithm": "fedavg,split_at=conv1"}),
    "--encoding": ("sue", {"algorithm": "fedavg,encoding=sue"}),
    "--epsilon": ("3", {"algorithm": "fedavg,epsilon=3"}),
    "--label_epsilon": ("5", {"algorithm": "fedavg,label_epsilon=5"}),
    "--pretrained": ("net", {"algorithm": "fedavg,pretrained_path=net"}),
    "--extractor": ("random", {"algorithm": "fedavg,extractor=random"}),
    "--fine_tune": ("2", {"algorithm": "fedavg,extractor_epochs=2"}),
    "--server_epochs": ("12", {"rounds": 12}),
    "--max_features": ("5000", {"max_feature_bytes": 5000}),
    "--aggregator": ("sum", {"aggregator": "sum"}),
    "--weighted": ("", {"weight_by_samples": True}),
    "--training_rounds": ("7", {"rounds": 7}),
    "--chooser": ("speed:2", {"sampler": "speed:2"}),
    "--quorum": ("2", {"min_results": 2}),
    "--over_select": ("0.5", {"over_selection": 0.5}),
    "--deadline": ("30", {"round_timeout": 30.0}),
    "--wait": ("forever", {"wait_for_workers": "forever"}),
    "--evaluate_every": ("3", {"evaluate_every": 3}),
    "--score_workers": ("1", {"evaluate_worker_models": 1}),
    "--model": ("mlp", {"model": "mlp"}),
    "--loss": ("mse", {"loss": "mse"}),
    "--optimizer": ("adam", {"optimizer": "adam"}),
    "--lr": ("0.5", {"lr": 0.5}),
    "--lr_decay": ("0.9", {"lr_decay": 0.9}),
    "--batch_size": ("7", {"batch_size": 7}),
    "--test_batch_size": ("100", {"test_batch_size": 100}),
    "--federate_after_n_batches": ("3", {"max_local_batches": 3}),
    "--epochs": ("2", {"epochs": 2}),
    "--drop_last": ("", {"drop_last": True}),
    "--cuda": ("", {"cuda": True}),
    "--seed": ("9", {"seed": 9}),
    "--initial_model": ("weights", {"initial_model": "weights"}),
    "--dataset": ("digits", {"dataset": "digits"}),
    "--plugin": ("mine.py", {"plugins": ("mine.py",)}),
    "--threads": ("2", {"threads": 2}),
    "--silence": ("30", {"peer_timeout": 30.0}),
    "--heartbeat": ("5", {"ping_interval": 5.0}),
    "--max_message": ("4000000", {"max_message_bytes": 4_000_000}),
}
"""Each flag of run_websocket_client.py before flags were renamed, a value, and the settings of the plan that it
gives."""
CLIENT_OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "--id": ("me", {"id": "me"}),
    "--save_model": ("", {"save_model": True}),
    "--run_dir": ("d", {"run_dir": "d"}),
    "--resume": ("d", {"resume": "d"}),
    "--plan": ("f", {"plan": "f"}),
    "--data_dir": ("d", {"data_dir": "d"}),
    "--verbose": ("", {"verbose": True}),
    "-v": ("", {"verbose": True}),
    "--key_file": ("f", {"key_file": "f"}),
    "--insecure": ("", {"insecure": True}),
    "--seal": ("", {"encrypt_payloads": True}),
    "--tls_cert": ("f", {"tls_cert": "f"}),
    "--tls_key": ("f", {"tls_key": "f"}),
    "--tls_ca": ("f", {"tls_ca": "f"}),
    "--blobs": ("file:///f", {"body_store": "file:///f"}),
    "--blobs_above": ("2", {"body_store_min_mb": 2.0}),
}
"""Its flags that are no settings of the plan, as the command gets them."""
SERVER: dict[str, tuple[str, dict[str, Any]]] = {
    "--port": ("1", {"port": 1}),
    "-p": ("1", {"port": 1}),
    "--host": ("h", {"host": "h"}),
    "--join": ("ws://h:1", {"join": "ws://h:1"}),
    "--coordinator": ("me", {"coordinator": "me"}),
    "--testing": ("", {"is_evaluator": True}),
    "--digits": ("0-3", {"labels": "0-3"}),
    "--partition": ("iid", {"partition": "iid"}),
    "--share": ("0/3", {"share": "0/3"}),
    "--seed": ("3", {"partition_seed": 3}),
    "--nice": ("5", {"nice": 5}),
    "--policy": ("f", {"policy": "f"}),
    "--audit": ("f", {"audit_log": "f"}),
    "--notebook": ("mnist", {"notebook": "mnist"}),
    "--until_eof": ("", {"until_eof": True}),
    "--dataset": ("digits", {"dataset": "digits"}),
    "--plugin": ("mine.py", {"plugins": ["mine.py"]}),
    "--threads": ("2", {"threads": 2}),
    "--silence": ("30", {"peer_timeout": 30.0}),
    "--heartbeat": ("5", {"ping_interval": 5.0}),
    "--max_message": ("4000000", {"max_message_bytes": 4_000_000}),
    **{flag: CLIENT_OTHERS[flag] for flag in CLIENT_OTHERS if flag not in ("--id", "--save_model", "--run_dir")},
}
"""Each flag of run_websocket_server.py before flags were renamed, a value, and what the command gets."""
for _name in ("--resume", "--plan"):
    del SERVER[_name]


def forms(flag: str, value: str) -> list[list[str]]:
    """The ways to give a flag: with ``-`` and with ``_``, its value apart or after ``=``."""
    names = {flag, flag[:2] + flag[2:].replace("_", "-")}
    return [way for name in names for way in ([[name, value], [f"{name}={value}"]] if value else [[name]])
            if not (way[0].startswith("-p="))]  # fmt: skip


@pytest.mark.parametrize("flag", CLIENT_SETTINGS)
def test_a_former_flag_of_the_client_gives_its_setting(flag: str) -> None:
    value, wanted = CLIENT_SETTINGS[flag]
    for argv in forms(flag, value):
        given = vars(run.build_parser("run_websocket_client.py", is_demo_script=True).parse_args(argv))
        plan = build_plan(run.collect_settings(given))
        default = {name: getattr(build_plan({}), name) for name in Plan.model_fields}
        assert {name: getattr(plan, name) for name in Plan.model_fields} == {**default, **wanted}


def test_former_flags_of_a_run_that_listens() -> None:
    argv = ["--listen", "ws://l:1", "--expect", "dora", "emil", "--wait", "silence", "--no-weighted"]
    given = vars(run.build_parser("run_websocket_client.py", is_demo_script=True).parse_args(argv))
    plan = build_plan(run.collect_settings(given))
    assert plan.workers == {"dora": "ws://l:1", "emil": "ws://l:1"}
    assert (plan.wait_for_workers, plan.weight_by_samples) == ("peer_timeout", False)
    given = vars(run.build_parser("run_websocket_client.py", is_demo_script=True).parse_args(["--wait=silence"]))
    assert given == {"wait_for_workers": "peer_timeout"}


@pytest.mark.parametrize(
    ("argv", "wanted"),
    [
        ("--strategy fedbuff:k=2,lr=0.5", {"algorithm": "fedbuff:buffer_size=2,server_lr=0.5"}),
        ("--strategy=fedasync:a=0.3,staleness=hinge", {"algorithm": "fedasync:alpha=0.3,staleness_function=hinge"}),
        ("--algorithm mistnet:crop=2,fine_tune=1", {"algorithm": "mistnet:feature_shift=2,extractor_epochs=1"}),
        ("--aggregator mean:weighted=true", {"aggregator": "mean:weight_by_samples=true"}),
        ("--chooser speed:2,patience=3", {"sampler": "speed:2,max_slowdown=3"}),
        ("--encoding clear_bits", {"encoding": "bits_without_noise"}),
    ],
)
def test_a_former_option_of_a_piece(argv: str, wanted: dict[str, str]) -> None:
    assert vars(run.build_parser("run_websocket_client.py", is_demo_script=True).parse_args(argv.split())) == wanted
    present = argv.replace("--strategy", "--algorithm").replace("--chooser", "--sampler").split()
    assert vars(run.build_parser("run").parse_args(present)) != wanted


@pytest.mark.parametrize(("flag", "piece"), FORMER_OPTIONS)
def test_every_former_option_stands_for_one_of_its_piece(flag: str, piece: str) -> None:
    kind = flag.removeprefix("--")
    factory = registry.find_piece(kind, piece)
    takes = set(inspect.signature(factory).parameters)
    renamed = FORMER_OPTIONS[flag, piece]
    assert set(renamed.values()) <= takes and not set(renamed) & takes


@pytest.mark.parametrize("flag", CLIENT_OTHERS)
def test_a_former_flag_of_the_client_that_is_no_setting(flag: str) -> None:
    value, wanted = CLIENT_OTHERS[flag]
    for argv in forms(flag, value):
        assert vars(run.build_parser("run_websocket_client.py", is_demo_script=True).parse_args(argv)) == wanted


@pytest.mark.parametrize("flag", SERVER)
def test_a_former_flag_of_the_server(flag: str) -> None:
    value, wanted = SERVER[flag]
    for argv in forms(flag, value):
        parser = worker.build_parser("run_websocket_server.py", is_demo_script=True)
        default = vars(parser.parse_args(["--id", "alice"]))
        assert default | wanted != default
        assert vars(parser.parse_args(["--id", "alice", *argv])) == default | wanted


def test_the_scripts_take_the_new_names_too() -> None:
    for old, new in FORMER.items():
        for module in (run, worker) if old in FORMER_FLAGS else (worker,):
            options = module.build_parser("script", is_demo_script=True)._option_string_actions
            if new in options and old not in options:
                value = [] if options[new].nargs == 0 else ["1"]
                needed = ["--id", "alice"] if module is worker else []
                parsed = [
                    vars(module.build_parser("script", is_demo_script=True).parse_args([*needed, name, *value]))
                    for name in (old, new)
                ]
                assert parsed[0] == parsed[1]


@pytest.mark.parametrize(
    ("command", "flags"), [("run", {**CLIENT_SETTINGS, **CLIENT_OTHERS, "--expect": ("a", {})}), ("worker", SERVER)]
)
def test_fedws_refuses_former_flags_and_names_the_new(
    command: str, flags: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    module: Any = run if command == "run" else worker
    options = module.build_parser(command)._option_string_actions
    former = [flag for flag in flags if flag.replace("_", "-") not in options and flag != "--notebook"]
    assert len(former) == (20 if command == "run" else 10)
    for flag in former:
        argv = [command, *(["--id", "alice"] if command == "worker" else []), flag]
        if flag == "--strategy":
            assert vars(module.build_parser(command).parse_args(["--strategy", "fedsgd"])) == {"algorithm": "fedsgd"}
            continue
        with pytest.raises(SystemExit) as ended:
            main(argv)
        name = flag.replace("_", "-")
        error = f"fedws {command}: unknown argument {name!r}; did you mean {FORMER[name]!r}?"
        assert (ended.value.code, capsys.readouterr().err) == (2, f"{error} (see fedws {command} --help)\n")


def test_fedws_worker_has_no_notebook(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["worker", "--id", "alice", "--notebook", "mnist"])
    assert "unknown argument '--notebook'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        ("--training_rounds many", "argument --training-rounds: invalid int value: 'many'"),
        ("--training_rounds 0", "--training-rounds: Input should be greater than or equal to 1, not 0"),
        ("--rounds 0", "--rounds: Input should be greater than or equal to 1, not 0"),
        ("--quorum 4", "--quorum 4 exceeds the number of workers, 3"),
        ("--min_results 4", "--min-results 4 exceeds the number of workers, 3"),
        ("--heartbeat 31 --silence 40", "--heartbeat 31 exceeds half of --silence 40"),
        ("--heartbeat 31", "--heartbeat 31 exceeds half of --peer-timeout 60"),
        ("--blobs-above 3", "--blobs-above requires --body-store"),
        (
            "--server-epochs 2 --training-rounds 3",
            "--server-epochs cannot be combined with --training-rounds, which has the same meaning; remove one of them",
        ),
        (
            "--strategy fedasync --deadline 5",
            "--deadline requires an algorithm with rounds, and fedasync is asynchronous",
        ),
        ("--wait never", "--wait: Input should be 'peer_timeout' or 'forever', not 'never'"),
    ],
)
def test_an_error_of_a_script_names_the_flag_as_given(
    argv: str, text: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        status = run_command("run", "run_websocket_client.py", ["--insecure", *argv.split()], is_demo_script=True)
    except SystemExit as ended:
        status = int(str(ended.code))
    assert (status, capsys.readouterr().err.partition(" (see ")[0].rstrip()) == (2, f"run_websocket_client.py: {text}")


def test_an_error_of_the_server_names_the_flag_as_given(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    argv = ["--id", "alice", "--insecure", "--port", "0"]
    for flags, text in (
        (["--silence", "0"], "--silence: Input should be greater than 0, not 0.0"),
        (
            ["--digits", "0", "--partition", "iid", "--share", "0/3"],
            "--digits cannot be combined with --partition; remove one of them",
        ),
    ):
        assert run_command("worker", "run_websocket_server.py", [*argv, *flags], is_demo_script=True) == 2
        assert capsys.readouterr().err == f"run_websocket_server.py: {text}\n"


def test_help_names_what_is_accepted_as_well() -> None:
    def words(text: str) -> str:
        return " ".join(text.split())

    parser = run.build_parser("run_websocket_client.py", is_demo_script=True)
    script = words(parser.format_help())
    former = [
        flag.replace("_", "-")
        for flag in CLIENT_SETTINGS
        if flag.replace("_", "-") not in parser._option_string_actions
    ]
    assert len(former) == 16
    for old in former:
        assert f"{old} ({FORMER_FLAGS[old]})" in script
    plain = words(run.build_parser("fedws run").format_help())
    assert plain.endswith("'-' and '_' are the same in every flag. --strategy is the same as --algorithm.")
    assert plain.count("--strategy") == 1 and "--quorum" not in plain
    assert "--testing" not in script
    assert "--notebook" not in worker.build_parser("fedws worker").format_help()
