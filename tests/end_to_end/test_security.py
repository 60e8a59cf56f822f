"""Keys, certificates, policies and audit logs as people meet them: the commands, as processes, from a bare start."""

import datetime
import re
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedws import certs
from tests.end_to_end.test_bad_input import assert_one_line
from tests.processes import NODES, Command, Processes, dialling, identity, serving

DIGITS = ("--dataset", "digits")
SHORT = ("--training-rounds", "1", "--run-dir", "run", *DIGITS)
KEY, OTHER = "5e" * 32, "0f" * 32
SERVES = r" is serving at (wss?://\S+)$"


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Processes]:
    """Commands of a user who has run nothing of fedws yet."""
    folders = {"HOME": "home", "XDG_CONFIG_HOME": "config", "XDG_STATE_HOME": "state"}
    started = Processes(tmp_path, {name: str(tmp_path / folder) for name, folder in folders.items()})
    del started.environment["FEDWS_KEY"]
    yield started
    started.close()


@pytest.fixture
def given(bare: Processes) -> Processes:
    """Commands of a user who has a key."""
    bare.environment["FEDWS_KEY"] = KEY
    return bare


def ended_well(command: Command) -> Command:
    assert command.end() == 0, command.everything
    assert command.errors == [], command.everything
    return command


def with_environment(processes: Processes, **changes: str) -> Processes:
    """The same folder, another environment: another device."""
    return Processes(processes.folder, {**processes.environment, **changes})


# --------------------------------------------------------------------------- the key


def test_four_nodes_that_start_at_once_share_one_new_key(bare: Processes) -> None:
    """Nobody has configured anything; and on loopback nobody is told of anything either."""
    commands = {node: bare.fork("worker", *identity(node), *DIGITS) for node in NODES}
    urls = serving(commands)
    place = bare.folder / "config" / "fedws" / "network.key"
    assert [path.name for path in place.parent.iterdir()] == ["network.key"]
    assert stat.S_IMODE(place.stat().st_mode) == 0o600
    run = ended_well(bare.fork("run", *dialling(urls), *SHORT))
    assert any(line.startswith("Federated accuracy after round 1: ") for line in run.lines)
    key = place.read_text().strip()
    assert re.fullmatch("[0-9a-f]{64}", key)
    for command in (*commands.values(), run):
        assert not re.search("key|insecure", command.everything.replace(str(bare.folder), "")), command.everything
        assert key not in command.everything
    assert not any(key.encode() in path.read_bytes() for path in (bare.folder / "run").rglob("*") if path.is_file())
    shown = ended_well(bare.fork("key", "show"))
    assert shown.lines == [key]


def test_a_new_key_is_a_line_to_type_on_the_other_device(bare: Processes) -> None:
    node = bare.fork("worker", *identity("alice"), *DIGITS, "--host", "0.0.0.0")
    line = node.line("a network key was made; .* on each other device run: export FEDWS_KEY=([0-9a-f]{64})$")
    node.line(r"^what alice and others send .*: the network key does not prevent it, TLS does \(--tls-cert\)$")
    url = node.line(SERVES)[1].replace("0.0.0.0", "127.0.0.1")
    there = with_environment(bare, XDG_CONFIG_HOME=str(bare.folder / "elsewhere"), FEDWS_KEY=line[1])
    try:
        ended_well(there.fork("run", *dialling({"alice": url}), *SHORT))
        assert not (bare.folder / "elsewhere").exists()
    finally:
        there.close()
    again = bare.fork("worker", *identity("bob"), *DIGITS, "--host", "0.0.0.0")
    again.line(SERVES)
    assert "FEDWS_KEY" not in again.everything, "it was said by the node that made it"


def test_where_no_key_can_be_made_nothing_starts(bare: Processes) -> None:
    (bare.folder / "config").write_text("in the way")
    pattern = "there is no network key, and none can be made in .*--key-file or FEDWS_KEY, or .*: --insecure$"
    commands = [
        bare.fork("worker", *identity("alice"), *DIGITS),
        bare.fork("run", "--workers", "alice=ws://localhost:1", *SHORT),
        bare.fork("key", "show"),
    ]
    for command in commands:
        assert_one_line(command, pattern, 2)
    assert_one_line(bare.fork("key", "new"), "config/fedws/network.key cannot be written: ", 2)
    assert not (bare.folder / "run").exists()
    (bare.folder / "mine.key").write_text(f"{OTHER}\n")
    (bare.folder / "mine.key").chmod(0o600)
    bare.fork("worker", *identity("alice"), *DIGITS, "--key-file", "mine.key").line(SERVES)
    bare.fork("worker", *identity("alice"), *DIGITS, "--insecure").line(SERVES)


def test_another_key_is_refused_with_what_to_do(given: Processes) -> None:
    (given.folder / "other.key").write_text(f"{OTHER}\n")
    (given.folder / "other.key").chmod(0o600)
    node = given.fork("worker", *identity("alice"), *DIGITS)
    urls = serving({"alice": node})
    run = given.fork("run", *dialling(urls), *SHORT, "--key-file", "other.key", "--wait", "forever")
    assert_one_line(run, f"alice at {urls['alice']}: alice has another network key; .*--key-file or FEDWS_KEY", 1)
    assert not (given.folder / "run").exists()
    node.line("alice: a caller at 127.0.0.1 left instead of proving that it knows the network key")
    ended_well(given.fork("run", *dialling(urls), *SHORT))
    for command in (run, node):
        assert KEY not in command.everything and OTHER not in command.everything


def test_insecure_on_one_side_is_refused_by_the_other_and_said_by_both(given: Processes) -> None:
    guarded = given.fork("worker", *identity("alice"), *DIGITS)
    opened = given.fork("worker", *identity("bob"), *DIGITS, "--insecure")
    urls = serving({"alice": guarded, "bob": opened})
    opened.line(r"\| bob takes part --insecure: whoever reaches it may have it train")
    run = given.fork("run", *dialling({"alice": urls["alice"]}), *SHORT, "--insecure")
    assert_one_line(run, r"alice asks for the network key \(--key-file or FEDWS_KEY\), and was called --insecure$", 1)
    run = given.fork("run", *dialling({"bob": urls["bob"]}), *SHORT)
    assert_one_line(run, "it takes part --insecure, and proves nothing; give it --key-file or FEDWS_KEY$", 1)
    run = ended_well(given.fork("run", *dialling({"bob": urls["bob"]}), *SHORT, "--insecure"))
    run.line("--insecure: no worker has proved that it knows the network key$")
    assert "insecure" not in guarded.everything.replace("called --insecure", "")


def test_key_shows_and_replaces(bare: Processes) -> None:
    made = bare.fork("key", "show")
    assert made.end() == 0 and made.errors == [
        f"there was none: made a new one, in {bare.folder / 'config' / 'fedws' / 'network.key'}"
    ]
    first = made.lines
    assert ended_well(bare.fork("key", "show")).lines == first
    (told,) = ended_well(bare.fork("key", "new")).lines
    assert told.startswith(f"a new key is in {bare.folder / 'config' / 'fedws' / 'network.key'}; ")
    second = ended_well(bare.fork("key", "show")).lines
    assert first != second and len(first) == len(second) == 1
    (told,) = ended_well(bare.fork("key", "new", "--key-file", "my.key")).lines
    assert first[0] not in told and stat.S_IMODE((bare.folder / "my.key").stat().st_mode) == 0o600
    third = ended_well(bare.fork("key", "show", "--key-file", "my.key")).lines
    assert third == [(bare.folder / "my.key").read_text().strip()]
    assert ended_well(bare.fork("key", "show")).lines == second


def test_a_new_key_that_is_not_used_is_told_of(given: Processes) -> None:
    """FEDWS_KEY goes before it; not before a file that is named."""
    place = given.folder / "config" / "fedws" / "network.key"
    (told,) = ended_well(given.fork("key", "new")).lines
    assert told == f"a new key is in {place}, but FEDWS_KEY is set here and goes before it: unset FEDWS_KEY"
    assert ended_well(given.fork("key", "show")).lines == [KEY] != [place.read_text().strip()]
    (told,) = ended_well(given.fork("key", "new", "--key-file", "my.key")).lines
    assert told.startswith("a new key is in my.key; ")
    del given.environment["FEDWS_KEY"]
    assert ended_well(given.fork("key", "show")).lines == [place.read_text().strip()]


# --------------------------------------------------------------------------- TLS


def made(processes: Processes, *names: str, folder: str = "certs") -> None:
    """A CA and certificates, by the command."""
    ended_well(processes.fork("certs", "init", "--dir", folder))
    told = ended_well(processes.fork("certs", "issue", *names, "--dir", folder)).lines
    assert told == [f"{folder}/{name}.pem  {folder}/{name}.key" for name in names]


def shown(name: str, folder: str = "certs", ca: str = "certs") -> list[str]:
    """The flags of a node with that certificate."""
    return ["--tls-cert", f"{folder}/{name}.pem", "--tls-key", f"{folder}/{name}.key", "--tls-ca", f"{ca}/ca.pem"]


def test_a_run_under_mutual_tls_and_all_who_do_not_get_in(given: Processes) -> None:
    made(given, "alice", "testing", "coordinator", "dora")
    made(given, "coordinator", folder="others")
    commands = {node: given.fork("worker", *identity(node), *DIGITS, *shown(node)) for node in ("alice", "testing")}
    commands["bob"] = given.fork("worker", *identity("bob"), *DIGITS)
    urls = serving(commands)
    alice, bob = urls["alice"], urls.pop("bob")
    assert alice.startswith("wss://") and bob.startswith("ws://")
    run = ended_well(given.fork("run", *dialling(urls), *SHORT, *shown("coordinator")))
    assert any(line.startswith("Federated accuracy after round 1: ") for line in run.lines)
    soon = ("--wait", "silence", "--silence", "2")  # it may also be too busy, so it is dialled again
    plain, tls = alice.replace("wss:", "ws:"), bob.replace("ws:", "wss:")
    cases = [
        (
            [f"alice={alice}", "--tls-ca", "certs/ca.pem", *soon],
            rf"in vain for alice at {alice} \(it hangs up: does it ask callers for a certificate",
        ),
        (
            [f"alice={alice}", *shown("coordinator", "others"), *soon],
            rf"in vain for alice at {alice} \(it hangs up: is the certificate in others/coordinator.pem expired, or",
        ),
        ([f"alice={alice}"], f"alice at {alice}: its certificate is not signed by a CA that this machine trusts; name"),
        ([f"alice={alice}", "--tls-ca", "others/ca.pem"], "its certificate is not signed by the CA in others/ca.pem"),
        ([f"dora={alice}", *shown("coordinator")], f"dora at {alice}: its certificate is not one of dora"),
        ([f"alice={plain}"], f"alice at {plain}: it is served with TLS; write wss://"),
        (
            [f"bob={tls}", *shown("coordinator")],
            f"bob at {tls}: it is served without TLS; write ws://",
        ),
        ([f"alice={alice}", *shown("dora"), "--id", "dora", "--key-file", "other.key"], "has another network key"),
    ]
    (given.folder / "other.key").write_text(f"{OTHER}\n")
    (given.folder / "other.key").chmod(0o600)
    never = ("--evaluator", "none", *DIGITS, "--wait", "forever", "--workers")
    runs = [given.fork("run", "--run-dir", f"never/{run}", *never, *flags) for run, (flags, _) in enumerate(cases)]
    for run, (_, pattern) in zip(runs, cases, strict=True):
        assert_one_line(run, pattern, 1)
    assert not list(given.folder.glob("never/*"))
    ended_well(given.fork("run", *dialling(urls), *SHORT, *shown("coordinator"), "--run-dir", "again"))
    for command in commands.values():
        assert "Traceback" not in command.everything and command.errors == []


def test_certificates_that_no_longer_hold_are_told_of_at_the_start(given: Processes) -> None:
    """Of the node that would show them; all others would refuse it."""
    made(given, "alice")
    (given.folder / "old").mkdir()
    for name in ("ca.pem", "ca.key"):
        shutil.copy(given.folder / "certs" / name, given.folder / "old" / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(certs, "_SLACK", datetime.timedelta(days=3))
        for name in ("alice", "coordinator"):
            certs.issue(given.folder / "old", name, days=-1)
    until = r"is valid from \S+ \S+ to \S+ \S+ UTC, not now$"
    node = given.fork("worker", *identity("alice"), *DIGITS, *shown("alice", "old"))
    assert_one_line(node, f"--tls-cert old/alice.pem {until}", 2)
    run = given.fork("run", "--workers", "alice=wss://localhost:1", *shown("coordinator", "old"), *SHORT)
    assert_one_line(run, f"--tls-cert old/coordinator.pem {until}", 2)
    node = given.fork("worker", *identity("bob"), *DIGITS, *shown("alice"))
    assert_one_line(node, "--tls-cert certs/alice.pem is the certificate of alice, not of bob$", 2)


# --------------------------------------------------------------------------- policy and audit


def test_a_policy_ends_a_run_by_name_and_reason(given: Processes) -> None:
    (given.folder / "policy.toml").write_text('tasks = ["evaluate"]\n')
    urls = given.nodes(*DIGITS, "--policy", "policy.toml", nodes=("alice", "testing"))
    run = given.fork("run", *dialling(urls), *SHORT)
    assert run.end() == 1, run.everything
    why = "alice: refused its order: the policy here does not allow the task fedavg.fit, three times in a row"
    assert len(run.errors) == 1 and why in run.errors[0], run.everything
    table = ended_well(given.fork("audit", "alice")).lines
    assert len(table) == 4 and all(re.search(r"coordinator fedavg\.fit .* reason ", line) for line in table[1:])


def test_coordinators_are_named_in_a_policy_and_known_by_their_certificates(given: Processes) -> None:
    made(given, "alice", "lab", "coordinator")
    (given.folder / "policy.toml").write_text('coordinators = ["lab"]\n')
    node = given.fork("worker", *identity("alice"), *DIGITS, "--policy", "policy.toml", *shown("alice"))
    urls = serving({"alice": node})
    run = given.fork("run", *dialling(urls), *SHORT, *shown("coordinator"))
    assert_one_line(run, f"alice at {urls['alice']}: the policy of alice does not name coordinator$", 1)
    ended_well(given.fork("run", *dialling(urls), *SHORT, *shown("lab"), "--id", "lab"))
    table = ended_well(given.fork("audit", "alice")).lines
    assert len(table) == 2 and " lab " in table[1] and " tensors " in table[1]


def test_an_audit_log_is_printed_verified_and_its_edits_found(given: Processes) -> None:
    urls = given.nodes(*DIGITS, nodes=("alice", "testing"))
    ended_well(given.fork("run", *dialling(urls), *SHORT[2:], "--training-rounds", "3"))
    path = given.folder / "state" / "fedws" / "audit" / "alice.jsonl"
    heading, *rows = ended_well(given.fork("audit", "alice")).lines
    assert heading.split() == ["time", "(UTC)", "asked", "by", "task", "model", "left", "bytes", "epsilon"]
    assert len(rows) == 3 and all(len(row) <= 80 for row in (heading, *rows))
    assert all(re.search(r"coordinator fedavg\.fit +\S+ +tensors +\d{4,}$", row) for row in rows)
    assert all(" numbers " in row for row in ended_well(given.fork("audit", "testing")).lines[1:])
    (line,) = ended_well(given.fork("audit", "alice", "--verify")).lines
    assert re.fullmatch(rf"{path}: 3 lines, whole; the last one's hash is [0-9a-f]{{64}}", line)

    whole = path.read_bytes()
    one, two, three = whole.splitlines(keepends=True)
    follows = "does not follow the line before it: one was removed, added or moved"
    cases = [
        ([one, two.replace(b"fedavg.fit", b"evaluate  "), three], "line 2 was edited"),
        ([one, three], f"line 2 {follows}"),
        ([two, one, three], f"line 1 {follows}"),
        ([one, two], "1 missing at the end: alice.jsonl.head counts 3 lines"),
        ([whole, three], "1 at the end that alice.jsonl.head does not count"),
    ]
    checks = []
    for number, (lines, _) in enumerate(cases):
        copy = given.folder / str(number) / "alice.jsonl"
        copy.parent.mkdir()
        copy.write_bytes(b"".join(lines))
        shutil.copy(f"{path}.head", f"{copy}.head")
        checks.append(given.fork("audit", str(copy), "--verify"))
    for check, (_, said) in zip(checks, cases, strict=True):
        assert check.end() == 1, check.everything
        assert check.lines[0].startswith(said), check.everything
        assert check.errors == []
    path.write_bytes(one)
    cut = given.fork("worker", *identity("alice"), *DIGITS)
    assert_one_line(cut, "the audit log .*alice.jsonl cannot be gone on with .lines are missing at its end.; name", 2)


def test_a_node_whose_log_cannot_be_written_does_not_start(given: Processes) -> None:
    (given.folder / "file").write_text("")
    node = given.fork("worker", *identity("alice"), *DIGITS, "--audit", "file/log")
    assert_one_line(node, r"the audit log file/log cannot be gone on with \(.+\); name another with --audit", 2)


# --------------------------------------------------------------------------- bad flags


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """A folder with files that are good and bad."""
    folder = tmp_path_factory.mktemp("flags")
    certs.init(folder / "certs")
    certs.issue(folder / "certs", "alice")
    texts = {"junk": "junk", "unknown.toml": "task = ['*']", "named.toml": "coordinators = ['lab']", "good.key": KEY}
    texts |= {"many.toml": "samples = 100000", "syntax.toml": "tasks = ["}
    for name, text in texts.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o600)
    started = Processes(folder, {"XDG_STATE_HOME": str(folder / "state"), "HOME": str(folder)})
    yield started
    started.close()


WORKER = "worker --id alice --port 0 --dataset digits"
RUN = "run --dataset digits --run-dir never --evaluator none --workers"
OWN = "--tls-cert certs/alice.pem --tls-key certs/alice.key"
FLAGS = [
    (f"{WORKER} --key-file none", "--key-file none cannot be read: No such file or directory$"),
    (
        f"{WORKER} --key-file junk",
        "--key-file junk holds no network key, which is 64 hexadecimal digits",
    ),
    (f"{RUN} alice=ws://localhost:1 --key-file none", "--key-file none cannot be read: No such file or directory$"),
    (f"{RUN} alice=ws://localhost:1 --key-file certs", "--key-file certs cannot be read: Is a directory$"),
    (f"{WORKER} --insecure --key-file good.key", "--insecure does without a key; leave out --key-file$"),
    (
        f"{WORKER} --tls-cert certs/alice.pem",
        "--tls-cert and --tls-key go together: a certificate and its",
    ),
    (f"{WORKER} --tls-key certs/alice.key", "--tls-cert and --tls-key go together: a certificate and its"),
    (
        f"{WORKER} --tls-cert certs/alice.pem --tls-key certs/ca.key",
        "--tls-key certs/ca.key is not the key of ",
    ),
    (f"{WORKER} --tls-cert junk --tls-key certs/alice.key", "--tls-cert junk holds no certificate, or --tls-key "),
    (f"{WORKER} --tls-ca certs/ca.pem", "wss:// needs a certificate: --tls-cert and --tls-key"),
    (f"{WORKER} {OWN} --tls-ca none", "--tls-ca none cannot be read: No such file or directory$"),
    (
        f"{RUN} alice=ws://localhost:1 --tls-ca certs/ca.pem",
        "ws://localhost:1 is not encrypted, .*write wss://$",
    ),
    (
        f"{RUN} alice=ws://localhost:1 {OWN} --id alice",
        "ws://localhost:1 is not encrypted, though",
    ),
    (
        f"{RUN} alice=wss://localhost:1 {OWN}",
        "--tls-cert certs/alice.pem is the certificate of alice, not of coord",
    ),
    (f"{RUN} alice=wss://localhost", "'wss://localhost' is no address"),
    (f"{WORKER} --policy none", "--policy none: No such file or directory$"),
    (f"{WORKER} --policy unknown.toml", "--policy unknown.toml: task: there is no such setting$"),
    (f"{WORKER} --policy syntax.toml", "--policy syntax.toml: Invalid value"),
    (
        f"{WORKER} --policy named.toml",
        "coordinators are known by their certificates; this needs --tls-cert, --tls-key",
    ),
    (
        f"{WORKER} --policy named.toml {OWN}",
        "coordinators are known by their certificates; .* and --tls-ca$",
    ),
    (f"{WORKER} --policy many.toml", "--policy many.toml: at least 100000 samples; alice holds [0-9]+$"),
    ("certs issue bob --dir none", "there is no CA in none .No such file or directory.; 'fedws certs init' makes one$"),
    ("certs issue", "issue whom. fedws certs issue alice$"),
    ("certs init alice", "init takes no name$"),
    ("certs init --dir certs", "certs/ca.pem is there already; remove it first"),
    ("certs init --dir junk/certs", "junk/certs cannot be written: "),
    ("certs issue bob --dir certs --days 0", "--days 0: 1 to 36500$"),
    ("certs issue ../bob --dir certs", "'../bob' can be no node's id"),
    ("certs sign bob", "invalid choice: 'sign'"),
    ("key nonsense", "invalid choice: 'nonsense'"),
    ("key", "arguments are required: what"),
    ("key show --key-file junk", "--key-file junk holds no network key"),
    ("key new --key-file junk/key", "junk/key cannot be written: "),
    ("audit nobody", "audit/nobody.jsonl cannot be read: No such file or directory$"),
    ("audit nobody --verify", "audit/nobody.jsonl cannot be read: No such file or directory$"),
]


@pytest.mark.parametrize(("argv", "pattern"), FLAGS)
def test_a_mistake_is_one_line_and_leaves_nothing(prepared: Processes, argv: str, pattern: str) -> None:
    """But for an audit log, which a node has before it listens."""

    def files() -> list[Path]:
        return sorted(path for path in prepared.folder.rglob("*") if "state" not in path.parts)

    before = files()
    assert_one_line(prepared.fork(*argv.split()), pattern, 2)
    assert files() == before
