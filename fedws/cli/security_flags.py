"""Flags for the network key and TLS, and the credentials and URLs that follow from them.

All commands that open links share these flags.
"""

import argparse
import ipaddress
import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from fedws.security.credentials import Credentials

SECURITY_FLAGS = ("key_file", "insecure", "encrypt_payloads", "tls_cert", "tls_key", "tls_ca")


def add_security_flags(flags: argparse.ArgumentParser) -> None:
    """Add the flags for the network key, payload encryption and TLS."""
    add = add_key_flags(flags).add_argument
    add(
        "--encrypt-payloads",
        action="store_true",
        help="encrypt payloads that a broker carries, so that it sees only their sizes",
    )
    add("--tls-cert", metavar="PEM", help="certificate of this node, issued for its id; links then use wss://")
    add("--tls-key", metavar="PEM", help="private key of --tls-cert")
    add(
        "--tls-ca",
        metavar="PEM",
        help="CA of the other nodes' certificates; a node then requires one from each peer that connects",
    )


def add_key_flags(flags: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add the flags for the network key, and return their group."""
    group = flags.add_argument_group("authentication")
    add = group.add_argument
    add(
        "--key-file",
        metavar="F",
        help="file with the network key (default: $FEDWS_KEY, or the user's key; see fedws key)",
    )
    add("--insecure", action="store_true", help="disable authentication: any peer that reaches a node may use it")
    return group


def build_credentials(arguments: argparse.Namespace, node_id: str = "") -> "Credentials":
    """Return the credentials of the node ``node_id``, by default of the coordinator, from the flags.

    Raise UsageError for flags that cannot be combined, and for a key or certificate that is not usable.
    """
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
            raise UsageError("--insecure cannot be combined with --key-file; remove one of them")
        if encrypt_payloads:
            raise UsageError(
                "--encrypt-payloads requires a network key and cannot be combined with --insecure; remove one of them"
            )
        return Credentials(None, tls, node_id or DEFAULT_COORDINATOR_ID)
    return Credentials(network_key.load_network_key(file), tls, node_id or DEFAULT_COORDINATOR_ID, encrypt_payloads)


def complete_url(text: str, credentials: "Credentials") -> str:
    """Return ``text`` as a URL, and add the websocket scheme to a host and port.

    The scheme is ``wss`` with TLS credentials, else ``ws``. Raise UsageError for an address that contains a secret.
    """
    from fedws.core import addresses
    from fedws.core.errors import UsageError

    addresses.require_no_secrets(text)
    if "://" not in text and not re.search(r":\d+(/|$)", text):
        raise UsageError(f"{text!r} is not a valid address; use the form HOST:PORT, such as localhost:9000")
    return text if "://" in text else f"ws{'' if credentials.tls is None else 's'}://{text}"


def security_warnings(node: str, url: str, credentials: "Credentials") -> list[str]:
    """Return the warnings to print before a node is served at ``url`` or joins there."""
    scheme, host = urlsplit(url).scheme, urlsplit(url).hostname or ""
    if is_loopback(host):
        return []
    lines = []
    if credentials.key is not None and credentials.key.is_new:
        lines.append(
            "a network key was created: every other device needs the same one, unless a device had a key before; "
            "print it with 'fedws key show'"
        )
    if scheme in ("mqtt", "mqtts"):
        if not credentials.encrypt_payloads:
            lines.append(
                f"the broker can read the messages of {node} and its peers; add --encrypt-payloads to prevent it"
            )
    elif scheme != "wss":
        remedy = "TLS prevents it" if credentials.key is None else "the network key does not prevent it, TLS does"
        lines.append(
            f"attackers on the network can read and modify the messages of {node} and its peers: {remedy} (--tls-cert)"
        )
    return lines


def is_loopback(host: str) -> bool:
    """Return True if only this machine can reach a node that listens on ``host``.

    >>> [is_loopback(host) for host in ("localhost", "127.0.0.1", "::1", "0.0.0.0", "10.0.0.5", "edge.local")]
    [True, True, True, False, False, False]
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
