"""Mistakes with keys, certificates, policies and audit logs: one clear line, and nothing is left."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fedws.security import certificates
from tests.helpers.credential_flags import KEY
from tests.helpers.processes import Processes, assert_one_line


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """A folder with files that are good and bad."""
    folder = tmp_path_factory.mktemp("flags")
    certificates.create_ca(folder / "certs")
    certificates.issue_certificate(folder / "certs", "alice")
    texts = {"junk": "junk", "unknown.toml": "task = ['*']", "named.toml": "coordinators = ['lab']", "good.key": KEY}
    texts |= {"many.toml": "min_samples = 100000", "syntax.toml": "tasks = ["}
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
    ("audit nobody", "there is no .*audit/nobody.jsonl; logs there are of: .+$"),
    ("audit nobody --verify", "there is no .*audit/nobody.jsonl; logs there are of: .+$"),
]


@pytest.mark.parametrize(("argv", "pattern"), FLAGS)
def test_a_mistake_is_one_line_and_leaves_nothing(prepared: Processes, argv: str, pattern: str) -> None:
    """But for an audit log, which a node has before it listens."""

    def files() -> list[Path]:
        return sorted(path for path in prepared.folder.rglob("*") if "state" not in path.parts)

    before = files()
    assert_one_line(prepared.fork(*argv.split()), pattern, 2)
    assert files() == before
