"""The flags of the network key and of TLS, which every command that opens links shares, and what they make."""

import argparse
import ipaddress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from fedws.security.credentials import Credentials

SECURITY_FLAGS = ("key_file", "insecure", "encrypt_payloads", "tls_cert", "tls_key", "tls_ca")


def add_security_flags(flags: argparse.ArgumentParser) -> None:
    """Add them."""
    add = add_key_flags(flags).add_argument
    add(
        "--encrypt-payloads",
        action="store_true",
        help="encrypt what a broker carries, so that it sees nothing but sizes",
    )
    add("--tls-cert", metavar="PEM", help="this node's certificate, whose name is its id; makes the link wss://")
    add("--tls-key", metavar="PEM", help="its private key")
    add("--tls-ca", metavar="PEM", help="who signs the others' certificates; a node then asks callers for theirs")


def add_key_flags(flags: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Those of the key alone; gives their group."""
    group = flags.add_argument_group("who may take part")
    add = group.add_argument
    add("--key-file", metavar="F", help="the network key (default: $FEDWS_KEY, or the user's own; see fedws key)")
    add("--insecure", action="store_true", help="do without a key: whoever reaches a node may use it")
    return group


def build_credentials(arguments: argparse.Namespace, node_id: str = "") -> "Credentials":
    """What the flags say of the node of that name, by default the coordinator. Raises UsageError."""
    from fedws.core.errors import UsageError
    from fedws.protocol.messages import DEFAULT_COORDINATOR_ID
    from fedws.security import network_key
    from fedws.security.credentials import Credentials
    from fedws.security.tls import TlsConfig

    files = {flag: getattr(arguments, f"tls_{flag}", None) for flag in ("cert", "key", "ca")}
    tls = TlsConfig(**{flag: Path(file) for flag, file in files.items() if file}) if any(files.values()) else None
    if tls is not None and tls.cert is not None:
        from fedws.security import certificates

        certificates.check_certificate(tls.cert, node_id or DEFAULT_COORDINATOR_ID)
    file = getattr(arguments, "key_file", None)
    encrypt_payloads = bool(getattr(arguments, "encrypt_payloads", False))
    if getattr(arguments, "insecure", False):
        if file is not None:
            raise UsageError("--insecure does without a key; leave out --key-file")
        if encrypt_payloads:
            raise UsageError("--encrypt-payloads encrypts under the network key; leave out --insecure")
        return Credentials(None, tls, node_id or DEFAULT_COORDINATOR_ID)
    return Credentials(network_key.load_network_key(file), tls, node_id or DEFAULT_COORDINATOR_ID, encrypt_payloads)


def complete_url(text: str, credentials: "Credentials") -> str:
    """Return a URL; a host and a port alone are a websocket's, under TLS if there are certificates.

    Raises UsageError for an address with a secret in it.
    """
    from fedws.core import addresses

    addresses.require_no_secrets(text)
    return text if "://" in text else f"ws{'' if credentials.tls is None else 's'}://{text}"


def security_warnings(node: str, url: str, credentials: "Credentials") -> list[str]:
    """What a person should know before a node is served there, or joins there."""
    scheme, host = urlsplit(url).scheme, urlsplit(url).hostname or ""
    if is_loopback(host):
        return []
    lines = []
    if credentials.key is not None and credentials.key.is_new:
        lines.append(
            "a network key was made; each other device needs the same, unless one had a key before: "
            "'fedws key show' prints it"
        )
    if scheme in ("mqtt", "mqtts"):
        if not credentials.encrypt_payloads:
            lines.append(f"what {node} and others send can be read at the broker: --encrypt-payloads prevents it")
    elif scheme != "wss":
        remedy = "TLS prevents it" if credentials.key is None else "the network key does not prevent it, TLS does"
        lines.append(f"what {node} and others send can be read and changed on its path: {remedy} (--tls-cert)")
    return lines


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a node that listens there.

    >>> [is_loopback(host) for host in ("localhost", "127.0.0.1", "::1", "0.0.0.0", "10.0.0.5", "edge.local")]
    [True, True, True, False, False, False]
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
