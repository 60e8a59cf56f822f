"""Flags of commands for the network key and for certificates."""

from tests.helpers.processes import Processes, ended_well

DIGITS = ("--dataset", "digits")
SHORT = ("--rounds", "1", "--run-dir", "run", *DIGITS)
KEY, OTHER = "5e" * 32, "0f" * 32


def made(processes: Processes, *names: str, folder: str = "certs") -> None:
    """Create a CA and certificates with the command."""
    ended_well(processes.fork("certs", "init", "--dir", folder))
    told = ended_well(processes.fork("certs", "issue", *names, "--dir", folder)).lines
    assert told == [f"{folder}/{name}.pem  {folder}/{name}.key" for name in names]


def shown(name: str, folder: str = "certs", ca: str = "certs") -> list[str]:
    """Return the flags of a node with that certificate."""
    return ["--tls-cert", f"{folder}/{name}.pem", "--tls-key", f"{folder}/{name}.key", "--tls-ca", f"{ca}/ca.pem"]
