"""A run under mutual TLS, on certificates that the command makes, and all who do not get in."""

import datetime
import shutil

import pytest

from fedws.security import certificates
from tests.helpers.credential_flags import DIGITS, OTHER, SHORT, made, shown
from tests.helpers.processes import Processes, assert_one_line, dialling, ended_well, identity, serving


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
    soon = (
        "--wait-for-workers",
        "peer_timeout",
        "--peer-timeout",
        "2",
    )  # it may also be too busy, so it is dialled again
    plain, tls = alice.replace("wss:", "ws:"), bob.replace("ws:", "wss:")
    cases = [
        (
            [f"alice={alice}", "--tls-ca", "certs/ca.pem", *soon],
            rf"not connected within .* s: alice at {alice} \(the server closed the connection; if it requires",
        ),
        (
            [f"alice={alice}", *shown("coordinator", "others"), *soon],
            rf"not connected within .* s: alice at {alice} \(the server closed the connection; "
            "check that others/coordinator.pem has not expired and",
        ),
        ([f"alice={alice}"], f"alice at {alice}: its certificate is not signed by a CA that this machine trusts; set"),
        ([f"alice={alice}", "--tls-ca", "others/ca.pem"], "its certificate is not signed by the CA in others/ca.pem"),
        ([f"dora={alice}", *shown("coordinator")], f"dora at {alice}: its certificate is not issued to dora"),
        ([f"alice={plain}"], f"alice at {plain}: the server uses TLS; use wss://"),
        (
            [f"bob={tls}", *shown("coordinator")],
            f"bob at {tls}: the server does not use TLS; use ws://",
        ),
        ([f"alice={alice}", *shown("dora"), "--id", "dora", "--key-file", "other.key"], "has a different network key"),
    ]
    (given.folder / "other.key").write_text(f"{OTHER}\n")
    (given.folder / "other.key").chmod(0o600)
    never = ("--evaluator", "none", *DIGITS, "--wait-for-workers", "forever", "--workers")
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
        patch.setattr(certificates, "_MAX_CLOCK_SKEW", datetime.timedelta(days=3))
        for name in ("alice", "coordinator"):
            certificates.issue_certificate(given.folder / "old", name, days=-1)
    until = r"is valid from \S+ \S+ to \S+ \S+ UTC, not now$"
    node = given.fork("worker", *identity("alice"), *DIGITS, *shown("alice", "old"))
    assert_one_line(node, f"--tls-cert old/alice.pem {until}", 2)
    run = given.fork("run", "--workers", "alice=wss://localhost:1", *shown("coordinator", "old"), *SHORT)
    assert_one_line(run, f"--tls-cert old/coordinator.pem {until}", 2)
    node = given.fork("worker", *identity("bob"), *DIGITS, *shown("alice"))
    assert_one_line(node, "--tls-cert certs/alice.pem is the certificate of alice, not of bob$", 2)
